"""The batches of a job: which rows they draw, and on which devices they are."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax

from mmu_jax import sharding
from mmu_jax.data.batches import batching
from mmu_jax.errors import UserError
from mmu_jax.stages.job import Job
from mmu_jax.typing import Batch


class Placed:
  """A stream whose batches are on the mesh; every process makes its rows."""

  def __init__(
    self, stream: batching.Stream, mesh: jax.sharding.Mesh, total: int
  ):
    """Places a stream that makes the rows of this process only.

    Args:
      stream: stream, a pure function of the step.
      mesh: mesh over all processes.
      total: number of rows of a batch, from ``sharding.row_count``.
    """
    self._stream, self._mesh, self._total = stream, mesh, total
    self.steps_per_epoch = stream.steps_per_epoch
    self.draw, self.keys = stream.draw, stream.keys

  def __call__(self, step: int) -> Batch:
    """Returns the batch of a step >= 0."""
    return sharding.place(self._stream(step), self._mesh, self._total)


def make_stream(job: Job, drawn: list[batching.Part], name: str) -> Placed:
  """Makes a stream of batches on the job's mesh.

  Args:
    job: the job.
    drawn: rows to draw from, of a config by ``draw_from``.
    name: name of the stream; streams of one name draw in one order.

  Raises:
    ValueError: if a part has no rows.
  """
  micro_batches = job.config.micro_batches
  count = lambda rows: sharding.row_count(rows, job.mesh, micro_batches)
  stream = batching.Stream(
    drawn,
    job.encoder,
    seed=job.config.seed,
    name=name,
    share=lambda rows: sharding.local_rows(count(rows), job.mesh),
  )
  return Placed(stream, job.mesh, count(stream.num_rows))


def draw_from(
  job: Job, parts: Iterable[Mapping[str, Any]], without: Sequence[str] = ()
) -> list[batching.Part]:
  """Returns the rows that each part of a stream draws from.

  Args:
    job: the job.
    parts: dicts of ``splits``, ``size``, ``questions``, ``weight``; a split is
      one of the dataset (``'vqa/forget'``), or all of a role: ``'vqa:forget'``
      stands for the splits of every group with the role ``forget``.
    without: splits that are left out.

  Raises:
    ValueError: if a split or role is unknown.
  """
  left_out = _split_names(job, without)
  drawn = []
  for part in parts:
    names = _split_names(job, part['splits'])
    rows = [
      row
      for split in names
      if split not in left_out
      for row in job.data.train[split]
    ]
    drawn.append(
      batching.Part(rows, part['size'], part['questions'], part['weight'])
    )
  return drawn


def _split_names(job: Job, splits: Iterable[str]) -> list[str]:
  """The splits that names stand for, of the dataset or of a role."""
  names = []
  for split in splits:
    kind, _, role = split.partition(':')
    if role and role not in job.groups:
      raise UserError(
        f'split {split!r} has an unknown role; known: {", ".join(job.groups)}.'
      )
    groups = job.groups[role] if role else ()
    names += [f'{kind}/{group}' for group in groups] if role else [split]
  unknown = [name for name in names if name not in job.data.train]
  if unknown:
    raise UserError(
      f'unknown split {unknown[0]!r}; the dataset has '
      f'{", ".join(job.data.train)}.'
    )
  return names
