"""A plan: the need of every program, whether it fits, and where it would."""

from collections.abc import Mapping, Sequence
import dataclasses
import re
from typing import Any, NamedTuple

from mmu_jax import models
from mmu_jax import sharding
from mmu_jax import tree as tree_lib
from mmu_jax.errors import UserError
from mmu_jax.planning import compiled
from mmu_jax.planning import roofline
from mmu_jax.planning.memory import abstract_mesh
from mmu_jax.planning.memory import mesh_line
from mmu_jax.planning.memory import Need
from mmu_jax.planning.memory import need
from mmu_jax.planning.memory import Program
from mmu_jax.planning.memory import Setting
from mmu_jax.planning.programs import read_job

# Share of the memory to fill: estimates are at most a tenth too low.
TIGHT = 0.9
MOST = 1024  # devices of the meshes that are tried
UNITS = {'gib': 2**30, 'gb': 10**9, 'mib': 2**20, 'tib': 2**40}


class MemoryPlan(NamedTuple):
  """A job on a mesh.

  Attributes:
    setting: model, mesh, micro-batches and offload of the config.
    hbm: bytes of a device, 0 if not given.
    notes: sentences on the model, and on where sizes are from.
    stages: programs of the job with their needs, in order.
    smallest: smallest mesh that fits, '' if none does or none was sought.
    levers: setting -> highest peak with it, bytes; where the job does not fit.
    steps: training steps with compute and communication, if a chip is given.
    checked: estimates beside XLA's numbers, if asked.
  """

  setting: Setting
  hbm: int
  notes: Sequence[str]
  stages: Sequence[tuple[Program, Need]]
  smallest: str
  levers: Mapping[str, int]
  steps: Sequence[tuple[Program, roofline.StepTime]]
  checked: Sequence[compiled.Checked]

  @property
  def worst(self) -> tuple[Program, Need]:
    """The program that needs most."""
    return max(self.stages, key=lambda stage: stage[1].peak)

  @property
  def fit(self) -> str:
    """Whether it fits: 'yes', 'tight' or 'no'; '' if no memory is given."""
    return fit_of(self.worst[1].peak, self.hbm) if self.hbm else ''


def plan(
  config: Any,
  *,
  hbm: str = '',
  chip: str = '',
  length: int = 0,
  compile_steps: bool = False,
) -> MemoryPlan:
  """Plans a job without weights, devices, and if need be data.

  Args:
    config: the whole config; ``model.path`` may be a published name.
    hbm: memory of a device, '16GiB'; '' for the chip's.
    chip: key of ``roofline.CHIPS``; '' for none.
    length: tokens of every row; 0 for the lengths of the data.
    compile_steps: whether XLA compiles the steps for simulated devices too,
      which takes seconds for each.

  Raises:
    ValueError: if an option is none of these, or sizes are missing.
  """
  if chip and chip not in roofline.CHIPS:
    known = ', '.join(roofline.CHIPS)
    raise UserError(f'--chip is one of {known}; got {chip!r}.')
  size = parse_size(hbm) if hbm else roofline.CHIPS[chip].hbm if chip else 0
  on, jobs, notes = read_job(config, length)
  model = on.model
  named = (
    f'{config.model.path or model.family}: '
    f'{tree_lib.count(model.abstract_params) / 1e9:.3g} B parameters, '
    f'{model.config.dtype}, remat {model.config.remat}, '
    f'{model.config.attention} attention'
  )
  stages = [(p, need(p, on)) for p in jobs]
  peak = max(n.peak for _, n in stages)
  timed = [p for p in jobs if p.turn] if chip else []
  devices = on.mesh.size
  return MemoryPlan(
    on,
    size,
    [named, *notes, *filter(None, [padding_note(jobs, on)])],
    stages,
    smallest_mesh(jobs, on, size) if size else '',
    levers(jobs, on) if size and fit_of(peak, size) != 'yes' else {},
    [(p, roofline.step_time(p, on, chip)) for p in timed],
    compiled.compile_job(config, devices, length) if compile_steps else [],
  )


def parse_size(text: str) -> int:
  """Returns the bytes that a text says.

  Raises:
    ValueError: if it has no unit that is known.

  Example:
    >>> parse_size('16GiB') == parse_size('16 gib') == 16 * 2**30
    True
  """
  found = re.fullmatch(r'\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*', text)
  if not found or found[2].lower() not in UNITS or not float(found[1]):
    raise UserError(
      '--hbm is a number and one of GiB, GB, MiB, TiB, like '
      f'16GiB; got {text!r}.'
    )
  return int(float(found[1]) * UNITS[found[2].lower()])


def fit_of(peak: int, hbm: int) -> str:
  """Returns 'yes', 'tight' or 'no': whether a peak fits a device."""
  return 'no' if peak > hbm else 'tight' if peak > TIGHT * hbm else 'yes'


def smallest_mesh(jobs: Sequence[Program], on: Setting, hbm: int) -> str:
  """Returns the mesh of fewest devices on which every program fits.

  It splits over fsdp alone if that can, else over tensor too.

  Args:
    jobs: programs of a job.
    on: setting whose mesh is replaced.
    hbm: bytes of a device, of which a tenth stays free.

  Returns:
    A mesh as a config has it; '' if none of 1,024 devices can.
  """
  sizes = [2**i for i in range(MOST.bit_length())]
  tried = [(n, 1) for n in sizes]
  tried += [(n, t) for n in sizes for t in (2, 4, 8) if n >= t]
  for n, tensor in tried:
    mesh = abstract_mesh(fsdp=n // tensor, tensor=tensor)
    there = dataclasses.replace(on, mesh=mesh)
    if all(fit_of(need(p, there).peak, hbm) == 'yes' for p in jobs):
      return mesh_line(mesh)
  return ''


def padding_note(jobs: Sequence[Program], on: Setting) -> str:
  """Returns a sentence on batches with fewer rows than devices to split them.

  Args:
    jobs: programs of a job.
    on: setting with the mesh.

  Returns:
    '' unless a quarter of a training step or more is padding.
  """
  filled = lambda p: p.rows.count / on.total_rows(p)
  emptiest = min((p for p in jobs if p.turn), key=filled, default=None)
  if emptiest is None or filled(emptiest) > 0.75:
    return ''
  count, parts = emptiest.rows.count, sharding.row_parts(on.mesh)
  devices, total = on.mesh.size, on.total_rows(emptiest)
  padded = lambda n: -(-count // n) * n
  divisors = (n for n in range(2, devices + 1) if not devices % n)
  best = min(divisors, key=lambda n: (padded(n), -n))
  mesh = f'--config.mesh=fsdp={best},tensor={devices // best}, or '
  return (
    f'{emptiest.stage}, {emptiest.step}: {count} rows on {parts} parts, so '
    f'{1 - filled(emptiest):.0%} of a step is padding; take '
    f'{mesh if best < parts else ""}{total} rows'
  )


def levers(jobs: Sequence[Program], on: Setting) -> dict[str, int]:
  """Returns settings that lower the highest peak, and that peak in bytes.

  Args:
    jobs: programs of a job.
    on: setting with the levers that are set already.
  """
  peak = lambda there: max(need(p, there).peak for p in jobs)
  full = dataclasses.replace(on.model.config, remat='full')
  rows = max(p.rows.count for p in jobs if p.has_gradient)
  most = max(-(-rows // sharding.row_parts(on.mesh)), on.micro_batches)
  tried = {
    'model.remat=full': dict(model=models.build(full)),
    f'micro_batches={most}': dict(micro_batches=most),
    "offload=('reference',)": dict(offload=('reference',)),
  }
  tried['all of them'] = {
    k: v for how in tried.values() for k, v in how.items()
  }
  found = {k: peak(dataclasses.replace(on, **v)) for k, v in tried.items()}
  return {k: n for k, n in found.items() if n < peak(on)}
