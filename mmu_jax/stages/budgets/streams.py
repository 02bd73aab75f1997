"""The batches of a job: which rows they draw, and on which devices they are."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax

from mmu_jax import sharding
from mmu_jax.data.batches import batching
from mmu_jax.stages.budgets import drawing
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
    parts: parts of a batch, see ``drawing.draw``.
    without: splits that are left out.

  Raises:
    ValueError: if a split or role is unknown.
  """
  return drawing.draw(job.data.train, job.groups, parts, without)
