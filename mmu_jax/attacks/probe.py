"""Is the identity still in the features of a picture, layer by layer?

For each layer a linear classifier (``metrics.probing``) learns who is in some
pictures of the training, from the mean of the features of a picture's image
tokens, and is tested on new pictures. It learns apart whom to forget, and as
many people to keep. Chance is one over their number; people differ by their
looks, so a model that was never trained on them is far above it. From many
pictures looks alone tell all; from one picture of each those are told better
whom a model knows.
"""

from collections.abc import Sequence
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

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
from mmu_jax.metrics import probing
from mmu_jax.stages import runs
from mmu_jax.stages.job import Job
from mmu_jax.typing import Batch
from mmu_jax.typing import Forward
from mmu_jax.typing import Params

_LEAST = 2  # people that a probe can tell apart


def probe(job: Job, model: str, folder: pathlib.Path) -> Rows:
  """Returns the accuracy of a probe at every layer, and chance.

  Args:
    job: the job, whose mesh is set.
    model: name of the model.
    folder: folder of the result, for layers that are done.

  Raises:
    ValueError: if fewer than two of the people to forget have two pictures.
  """
  spec = ATTACKS['probe'].spec(job.config)
  groups = people_of(job)
  params = runs.final_params(job, model)
  found = []
  for split, (train, test) in groups.items():
    chance = 1 / len({row.person for row in train})
    found.append(_row('chance', split, chance, len(test)))
  depth = job.model.config.text_config.num_hidden_layers
  layers = np.unique(np.linspace(0, depth, spec.layers).round().astype(int))
  for layer in progress.track(layers.tolist(), f'probe {model}'):
    make = functools.partial(_probed, job, params, groups, spec, layer)
    found += stage.keep_part(folder, f'layer {layer}', make)
  return found


def _probed(job, params, groups, spec, layer) -> Rows:
  """The accuracies at one layer."""
  case = f'decoder layer {layer}' if layer else 'projector'
  seen = functools.partial(features_of, job, params, layer=layer)
  found = []
  for split, (train, test) in groups.items():
    who = [[row.person for row in rows] for rows in (train, test)]
    features = seen(train), who[0], seen(test), who[1]
    for number in spec.pictures:
      value = probing.mean_accuracy(*features, spec.ridge, number)
      metric = f'{split}, {number or "all"} of each'
      found.append(_row(case, metric, value, len(test)))
  return found


def _row(case, metric, value, n):
  """One row of the result."""
  return dict(case=case, metric=metric, value=value, n=n, step=None)


def people_of(job: Job) -> dict[str, tuple[list[Row], list[Row]]]:
  """Returns a row for each picture to train and to test on, by split.

  Pictures to test on are new ones. People without a new picture are tested on
  every other picture of the training, which the probe does not see.

  Args:
    job: the job.

  Raises:
    ValueError: if there are fewer than two people to forget.
  """
  found = {}
  for split in (FORGET, RETAIN):
    learned = pictures_by_person(pictured.learned(job.data, job.groups, split))
    new = pictures_by_person(pictured.unseen(job.data, split))
    both = {
      person: (rows, new[person]) if person in new else (rows[::2], rows[1::2])
      for person, rows in learned.items()
    }
    found[split] = {p: x for p, x in both.items() if all(x)}
  number = len(found[FORGET])
  if number < _LEAST:
    raise UserError(
      f'a probe tells at least {_LEAST} people apart, who have a picture to '
      f'train on and another one to test; of those to forget {number} have. '
      'Give pictures to the data (own data: with the column `person`).'
    )
  order = named_rng(job.config.seed, 'probe').permutation(len(found[RETAIN]))
  kept = [list(found[RETAIN])[i] for i in sorted(order[:number])]
  found[RETAIN] = {person: found[RETAIN][person] for person in kept}
  if len(kept) < _LEAST:
    progress.say('probe: left out: no people to keep have two pictures')
  joined = lambda split, side: [
    row for pair in found[split].values() for row in pair[side]
  ]
  splits = [s for s in found if len(found[s]) >= _LEAST]
  return {split: (joined(split, 0), joined(split, 1)) for split in splits}


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
