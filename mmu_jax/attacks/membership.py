"""Can the pictures of the training be told from others by likelihoods?

The scores are in ``metrics.membership``; ``gradient`` is one more, minus the
norm of the gradient of an answer's loss. The result of each is the AUC: how
often a picture of the training has the higher score than another. At .5
nothing can be told; far below it the model was made to find the answers
unlikely, which tells as much. The others are new pictures of the same people,
and pictures of strangers, both with the same questions and answers.
"""

from collections.abc import Iterator, Mapping, Sequence
import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmu_jax import losses
from mmu_jax import objectives
from mmu_jax import sharding
from mmu_jax.attacks.attack import ATTACKS
from mmu_jax.attacks.attack import Rows
from mmu_jax.data import pictured
from mmu_jax.data.batches import batching
from mmu_jax.data.dataset import FORGET
from mmu_jax.data.readers import reading
from mmu_jax.data.row import Row
from mmu_jax.distributed import progress
from mmu_jax.errors import UserError
from mmu_jax.evaluation.asking import decoding
from mmu_jax.metrics import bootstrap
from mmu_jax.metrics import membership as scoring
from mmu_jax.sharding import Rules
from mmu_jax.stages import runs
from mmu_jax.stages.job import Job
from mmu_jax.typing import Batch
from mmu_jax.typing import Forward
from mmu_jax.typing import Params

_RESAMPLES = 200
_Scores = Mapping[str, np.ndarray]  # name -> one number for each row
_WHERE = 'new pictures', 'pictures of strangers'


def membership(job: Job, model: str, folder: pathlib.Path) -> Rows:
  """Returns the AUC of every score against every kind of other pictures.

  Args:
    job: the job, whose mesh is set.
    model: name of the model.
    folder: folder of the result; nothing is kept in it.

  Raises:
    ValueError: if the data have no other pictures.
  """
  del folder
  spec = ATTACKS['membership'].spec(job.config)
  kinds = kinds_of_rows(job, spec.rows)
  params = runs.final_params(job, model)
  most = {'gradient': spec.gradient_rows}  # others are of every row
  scored = {
    kind: scores_of(job, params, kinds[kind], spec)
    for kind in progress.track(kinds, f'membership {model}')
  }
  return [
    dict(case=case, metric=metric, value=value, n=n, step=None)
    for case in list(kinds)[1:]
    for metric, value in _compared(kinds, scored, case)
    for n in [min(len(kinds[case]), most.get(metric, len(kinds[case])))]
  ]


def kinds_of_rows(job: Job, most: int) -> dict[str, list[Row]]:
  """Returns questions about pictures of the training, then about others.

  All kinds ask the same of the same people, as far as the data can.

  Args:
    job: the job.
    most: most questions of a kind; 0 for all.

  Raises:
    ValueError: if there are no pictures of the training, or no others.
  """
  learned = pictured.learned(job.data, job.groups, FORGET)
  unseen = pictured.unseen(job.data, FORGET)
  both = {*map(_asks, learned)} & {*map(_asks, unseen)}
  same = [row for row in learned if _asks(row) in both]
  members = reading.thin(same or learned, most, job.config.seed)
  new = [row for row in unseen if _asks(row) in both]
  others = [
    reading.thin(new, most, job.config.seed),
    pictured.with_pictures(members, pictured.stranger_pictures(job.data)),
  ]
  for case, rows in zip(_WHERE, others):
    if not rows:
      progress.say(f'membership: left out: no questions about {case}')
  if not (members and any(others)):
    raise UserError(
      'the attack membership compares questions about pictures of the '
      'training with questions about others, answered in words, and the data '
      f'have {len(members)} and 0 of them. Give new pictures (own data: the '
      'split `holdout` or `real`).'
    )
  found = {case: rows for case, rows in zip(_WHERE, others) if rows}
  return {'': members} | found


def scores_of(
  job: Job, params: Params, rows: Sequence[Row], spec: Any
) -> _Scores:
  """Returns the scores of the answers of rows.

  The gradient is taken of some rows only, spread evenly.

  Args:
    job: the job, whose mesh is set.
    params: parameters of the model.
    rows: questions with their answers.
    spec: settings of the attack.

  Raises:
    NotFinite: if a likelihood is not finite.
  """
  some = spread(rows, spec.gradient_rows)
  scores = {
    **_of_tokens(job, params, rows, spec.share),
    'gradient': -_gradient_norms(job, params, some),
  }
  for values in scores.values():
    if not np.isfinite(values).all():
      raise decoding.NotFinite(~np.isfinite(values))
  return scores


def _of_tokens(job, params, rows, share) -> dict[str, np.ndarray]:
  """The scores that are made from the likelihoods of tokens."""
  found = []
  for batch in _batches(job, rows):
    made = token_statistics(params, batch, forward=job.model.forward)
    weights, *statistics = map(np.asarray, made)
    for i in np.flatnonzero(weights.any(axis=1)):
      tokens = [x[i][weights[i] > 0] for x in statistics]
      text = rows[len(found)].answer
      found.append(scoring.membership_scores(text, *tokens, share))
  return {name: np.array([x[name] for x in found]) for name in found[0]}


def _gradient_norms(job, params, rows) -> np.ndarray:
  """The norm of the gradient of each row."""
  how = dict(forward=job.model.forward, rules=tuple(job.model.partition_rules))
  made = [gradient_norms(params, b, **how) for b in _batches(job, rows)]
  return np.concatenate(made)[: len(rows)]


def spread(rows: Sequence[Any], most: int) -> Sequence[Any]:
  """Returns at most so many of some rows, spread evenly.

  Example:
    >>> list(spread(range(10), 4))
    [0, 3, 6, 9]
  """
  return rows[:: max(1, -(-len(rows) // most))]


@functools.partial(jax.jit, static_argnames='forward')
def token_statistics(
  params: Params, batch: Batch, *, forward: Forward
) -> tuple[jax.Array, ...]:
  """Returns what the scores of the answers of a batch are made from.

  Args:
    params: parameters of the model.
    batch: rows with their answers.
    forward: forward pass of the model.

  Returns:
    Four arrays ``[B, K]``: weights; log p of each target; mean and standard
    deviation of log p under the model's own distribution, in nats.
  """
  logits = objectives.answer_logits(forward, params, batch)
  logits, here = logits.astype(jnp.float32), objectives.counted(batch)
  log_p = jax.nn.log_softmax(logits)  # [B, K, V]
  mean = jnp.sum(jnp.exp(log_p) * log_p, axis=-1, keepdims=True)
  variance = jnp.sum(jnp.exp(log_p) * jnp.square(log_p - mean), axis=-1)
  chosen = losses.token_log_probs(logits, here['targets'])
  found = here['weights'], chosen, mean[..., 0], jnp.sqrt(variance)
  return sharding.replicate(found)


@functools.partial(jax.jit, static_argnames=('forward', 'rules'))
def gradient_norms(
  params: Params, batch: Batch, *, forward: Forward, rules: Rules = ()
) -> jax.Array:
  """Returns the norm ``[B]`` of the gradient of each row's mean loss.

  Args:
    params: parameters of the model.
    batch: rows with their answers.
    forward: forward pass of the model.
    rules: tuple of partition rules of the parameters.
  """

  loss = lambda params, row: objectives.descend(forward, params, None, row)

  def norm(row):
    grads = sharding.constrain(jax.grad(loss)(params, row), rules)
    squares = [jnp.sum(jnp.square(g)) for g in jax.tree.leaves(grads)]
    return jnp.sqrt(sum(squares))

  rows = jax.tree.map(lambda x: x[:, None], batch)  # rows of one
  return sharding.replicate(jax.lax.map(norm, rows))


def _asks(row: Row) -> tuple[str | None, str]:
  """Whom a row is about, and its question."""
  return row.person, row.question


def _batches(job: Job, rows: Sequence[Row]) -> Iterator[Batch]:
  """Questions with their answers, one a row, in order, on the mesh."""
  encoder, size = job.scorer, job.config.evaluation.batch_size
  alone = [[encoder.document([encoder.example(row)])] for row in rows]
  for made in batching.stack(alone, encoder, size=size, share=sharding.share):
    yield sharding.place_shared(made, size)


def _compared(
  kinds: Mapping[str, Sequence[Row]], scored: Mapping[str, _Scores], case: str
) -> Iterator[tuple[str, float]]:
  """The AUC by score, and the interval of the first by people."""
  who = [row.person or row.picture_key for k in ('', case) for row in kinds[k]]
  for metric, members in scored[''].items():
    others = scored[case][metric]
    yield metric, scoring.auc(members, others)
    if metric == 'loss':
      low, high = _interval(members, others, who)
      yield f'{metric}, low', low
      yield f'{metric}, high', high


def _interval(members, others, who) -> tuple[float, float]:
  """The 95 % interval of an AUC when people are drawn anew."""
  both, is_member = np.concatenate([members, others]), np.zeros(len(who), bool)
  is_member[: len(members)] = True
  drawn = bootstrap.resampled_rows(who, num_resamples=_RESAMPLES, seed=0)
  return bootstrap.quantiles(
    [
      scoring.auc(both[rows[is_member[rows]]], both[rows[~is_member[rows]]])
      for rows in drawn
      if 0 < is_member[rows].sum() < len(rows)
    ]
  )
