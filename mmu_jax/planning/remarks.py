"""What a plan says in sentences: what a mesh does that few would expect."""

from collections.abc import Sequence

from mmu_jax import sharding
from mmu_jax.models import Model
from mmu_jax.planning import chips
from mmu_jax.planning import layout
from mmu_jax.planning.memory import Setting
from mmu_jax.planning.programs import Program

PREALLOCATED = (
  'JAX takes 75 % of the memory of a GPU at its start, unless '
  'XLA_CLIENT_MEM_FRACTION (or its old name, XLA_PYTHON_CLIENT_MEM_FRACTION) '
  'says otherwise; the launchers set 0.95.'
)


def of_job(
  found: Sequence[Program], model: Model, setting: Setting, chip: str
) -> list[str]:
  """Returns what to know of a mesh, a sentence each.

  Args:
    found: the programs of a job.
    model: what is trained.
    setting: mesh and levers.
    chip: a key of ``chips.CHIPS`` or ''.
  """
  on = setting.mesh
  said = []
  for rows, micro in sorted(
    {(p.rows.rows, parts(p, setting)) for p in found if p.rows.rows}
  ):
    said += padding(rows, setting._replace(micro_batches=micro))
  if on.shape['tensor'] > 1 and not _splits(model, setting):
    said.append(
      f'tensor={on.shape["tensor"]} divides no layer of this model: its '
      'devices compute the same.'
    )
  if chip and chips.CHIPS[chip].domain:
    said.append(PREALLOCATED)
  return said


def parts(program: Program, setting: Setting) -> int:
  """Returns the parts of a program's batch: evaluation has no micro-batches."""
  return setting.micro_batches if program.trains else 1


def padding(rows: int, setting: Setting) -> list[str]:
  """Returns a sentence on rows of padding, if there are any.

  Args:
    rows: of a batch.
    setting: mesh and micro-batches.

  Example:
    >>> padding(4, Setting(layout.mesh(fsdp=64)))
    ['batches of 4 rows on 64 devices: 60 compute padding']
    >>> padding(12, Setting(layout.mesh(fsdp=8)))
    ['batches of 12 rows on 8 devices: computed as 16, 4 of them padding']
  """
  on, micro = setting.mesh, setting.micro_batches
  total = sharding.row_count(rows, on, micro)
  if total == rows:
    return []
  many = f'{on.size:,} device' + 's' * (on.size > 1)
  said = f'batches of {rows} rows on {many}'
  if micro == 1 and total == sharding.row_parts(on):
    idle = (total - rows) * on.shape['tensor']
    return [f'{said}: {idle:,} compute padding']
  said += f' in {micro} micro-batches' if micro > 1 else ''
  return [f'{said}: computed as {total:,}, {total - rows:,} of them padding']


def _splits(model: Model, setting: Setting) -> bool:
  """Whether the axis tensor splits a weight of a layer."""
  leaves = layout.leaves(model, setting.mesh).values()
  return any(leaf.tensor > 1 for leaf in leaves if leaf.stack)
