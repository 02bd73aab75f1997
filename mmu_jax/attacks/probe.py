"""Is the identity still in the features of a picture, layer by layer?

For each layer a linear classifier (``metrics.probing``) learns who is in some
pictures of the training, from the mean of the features of a picture's image
tokens, and is tested on new pictures: of the people to forget, and of about as
many people to keep. Chance is one over their number; people differ by their
looks, so a model that was never trained on them is far above it. From many
pictures looks alone tell all; from one picture of each those are told better
whom a model knows.

The last case is the model's own output: how far up the true answer stands among
the answers of everybody to the same question.
"""

from collections.abc import Mapping, Sequence
import functools
import itertools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from mmu_jax import metrics
from mmu_jax import sharding
from mmu_jax.attacks import stage
from mmu_jax.attacks.attack import ATTACKS
from mmu_jax.attacks.attack import Rows
from mmu_jax.data import pictured
from mmu_jax.data.batches import batching
from mmu_jax.data.dataset import FORGET
from mmu_jax.data.dataset import RETAIN
from mmu_jax.data.rng import named_rng
from mmu_jax.data.row import Row
from mmu_jax.distributed import progress
from mmu_jax.errors import UserError
from mmu_jax.evaluation.asking import decoding
from mmu_jax.evaluation.asking import tasks
from mmu_jax.evaluation.asking.protocols import plain
from mmu_jax.evaluation.asking.protocols import Question
from mmu_jax.metrics import probing
from mmu_jax.stages import runs
from mmu_jax.stages.job import Job
from mmu_jax.stages.relabelling import teachers
from mmu_jax.typing import Batch
from mmu_jax.typing import Forward
from mmu_jax.typing import Params

_LEAST = 5  # people to keep, where the data have them
_Pictures = dict[str, list[Row]]  # split -> a row for each picture


def probe(job: Job, model: str, folder: pathlib.Path) -> Rows:
  """Returns the accuracy of a probe at every layer, and chance.

  Args:
    job: the job, whose mesh is set.
    model: name of the model.
    folder: folder of the result, for layers that are done.

  Raises:
    ValueError: if nobody to forget has two pictures, or nobody else has.
  """
  spec = ATTACKS['probe'].spec(job.config)
  train, test = pictures_of(job)
  params = runs.final_params(job, model)
  number = len({row.person for rows in train.values() for row in rows})
  found = [
    dict(case='chance', metric=split, value=1 / number, n=len(rows), step=None)
    for split, rows in test.items()
  ]
  depth = job.model.config.text_config.num_hidden_layers
  layers = np.unique(np.linspace(0, depth, spec.layers).round().astype(int))
  for layer in progress.track(layers.tolist(), f'probe {model}'):
    make = functools.partial(_probed, job, params, train, test, spec, layer)
    found += stage.keep_part(folder, f'layer {layer}', make)
  make = functools.partial(_ranked, job, params, test)
  return found + stage.keep_part(folder, 'own output', make)


def _probed(job, params, train, test, spec, layer) -> Rows:
  """The accuracies at one layer."""
  case = f'decoder layer {layer}' if layer else 'projector'
  given = []
  for pictures in (train, test):
    rows = [row for of in pictures.values() for row in of]
    given.append(features_of(job, params, rows, layer=layer))
    given.append([row.person for row in rows])
  split_of = np.repeat([*test], [len(rows) for rows in test.values()])
  found = []
  for number in spec.pictures:
    hits = probing.mean_hits(*given, ridge=spec.ridge, number=number)
    for split, rows in test.items():
      metric = f'{split}, {number or "all"} of each'
      value = float(hits[split_of == split].mean())
      row = dict(case=case, metric=metric, value=value, n=len(rows), step=None)
      found.append(row)
  return found


def _ranked(job, params, test) -> Rows:
  """The mean rank and exposure of the true person's answer, by split."""
  everybody = teachers.by_question(
    row
    for role in (FORGET, RETAIN)
    for row in pictured.learned(job.data, job.groups, role)
  )
  found = []
  for split, rows in test.items():
    known = [
      row for row in rows if row.person in everybody.get(row.question, ())
    ]
    if not known:
      continue
    asked = [Question(row) for row in teachers.who_rows(known, everybody)]
    said = tasks.predict(
      job.model,
      params,
      asked,
      runs.scorer(job),
      protocol=plain.PROTOCOL,
      max_new_tokens=1,
      size=job.config.evaluation.batch_size,
    )
    nll = teachers.candidates(itertools.chain.from_iterable(said), everybody)
    bits = [_exposure(nll[row.picture_key], row.person) for row in known]
    ranks = [len(nll[r.picture_key]) / 2**x for r, x in zip(known, bits)]
    for metric, values in (('mean rank', ranks), ('exposure in bits', bits)):
      row = dict(case='own output', metric=f'{split}, {metric}', n=len(known))
      found.append(row | dict(value=float(np.mean(values)), step=None))
  return found


def _exposure(nll: Mapping[str, float], person: str) -> float:
  """The exposure of a person's answer among everybody's."""
  others = [nats for other, nats in nll.items() if other != person]
  return metrics.exposure(nll[person], others)


def pictures_of(job: Job) -> tuple[_Pictures, _Pictures]:
  """Returns rows for the pictures to train on, and for those to test on.

  Pictures to test on are new ones. People without a new picture are tested on
  every other picture of the training, which the probe does not see. Whoever
  has one picture is left out.

  Args:
    job: the job.

  Raises:
    ValueError: if nobody to forget is left, or nobody to keep.
  """
  both = {split: _two_sides(job, split) for split in (FORGET, RETAIN)}
  if not all(both.values()):
    counts = ' and '.join(f'{len(both[s])} to {s}' for s in both)
    raise UserError(
      'a probe tells people to forget from each other and from some to '
      'retain, by pictures to train on and others to test; people with two '
      f'pictures are {counts}. Give pictures to the data (own data: with the '
      'column `person`).'
    )
  kept, number = both[RETAIN], max(_LEAST, len(both[FORGET]))
  order = named_rng(job.config.seed, 'probe').permutation(len(kept))[:number]
  both[RETAIN] = {person: kept[person] for person in np.array([*kept])[order]}
  joined = lambda side: {
    split: [row for sides in of.values() for row in sides[side]]
    for split, of in both.items()
  }
  return joined(0), joined(1)


def _two_sides(job, split) -> dict[str, tuple[list[Row], list[Row]]]:
  """Person -> pictures to train on, and to test on."""
  learned = pictures_by_person(pictured.learned(job.data, job.groups, split))
  new = pictures_by_person(pictured.unseen(job.data, split))
  both = {
    person: (rows, new[person]) if person in new else (rows[::2], rows[1::2])
    for person, rows in learned.items()
  }
  return {person: sides for person, sides in both.items() if all(sides)}


def pictures_by_person(rows: Sequence[Row]) -> dict[str, list[Row]]:
  """Returns person -> one row for each picture; rows without one are left out.

  Example:
    >>> rows = [Row(k, '?', 'a', 'a', person='p', image=k, image_key=k[0])
    ...         for k in ('a1', 'a2', 'b1')]
    >>> [row.key for row in pictures_by_person(rows)['p']]
    ['a1', 'b1']
  """
  found: dict[str, dict[str, Row]] = {}
  for row in rows:
    if row.person is not None and row.picture_key is not None:
      found.setdefault(row.person, {}).setdefault(row.picture_key, row)
  return {person: list(shown.values()) for person, shown in found.items()}


def features_of(
  job: Job, params: Params, rows: Sequence[Row], *, layer: int
) -> np.ndarray:
  """Returns the mean features ``[n, D]`` of the image tokens of each row.

  Args:
    job: the job, whose mesh is set.
    params: parameters of the model.
    rows: one question about each picture, which stands before it.
    layer: decoder layers that run; 0 for the output of the projector.

  Raises:
    NotFinite: if a feature is not finite.
  """
  size, found = job.config.evaluation.batch_size, []
  made = batching.row_batches(rows, job.scorer, size=size, share=sharding.share)
  for batch in (sharding.place_shared(b, size) for b in made):
    mean = pooled(params, batch, forward=job.model.forward, layer=layer)
    found.append(np.asarray(mean))
  features = np.concatenate(found)[: len(rows)]
  finite = np.isfinite(features).all(axis=1)
  if not finite.all():
    raise decoding.NotFinite(~finite)
  return features


@functools.partial(jax.jit, static_argnames=('forward', 'layer'))
def pooled(
  params: Params, batch: Batch, *, forward: Forward, layer: int
) -> jax.Array:
  """Returns the mean hidden state ``[B, D]`` of the image tokens of each row.

  Args:
    params: parameters of the model.
    batch: rows with one picture each.
    forward: forward pass of the model.
    layer: decoder layers that run.
  """
  hidden = forward(params, batch, layer=layer).astype(jnp.float32)
  is_image = (batch['image_slots'] >= 0) & (batch['documents'] > 0)
  weights = is_image.astype(jnp.float32)[..., None]  # [B, L, 1]
  number = jnp.maximum(jnp.sum(weights, axis=1), 1)
  return sharding.replicate(jnp.sum(hidden * weights, axis=1) / number)
