"""A plan: what every program needs, whether it fits, and where it would."""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import re
from typing import Any, NamedTuple

from jax.sharding import AbstractMesh

from mmu_jax import models
from mmu_jax import sharding
from mmu_jax import tree as tree_lib
from mmu_jax.errors import UserError
from mmu_jax.models import Model
from mmu_jax.planning import compiled
from mmu_jax.planning import memory
from mmu_jax.planning import roofline
from mmu_jax.planning.memory import Machine
from mmu_jax.planning.memory import mesh_line
from mmu_jax.planning.memory import Need
from mmu_jax.planning.memory import need
from mmu_jax.planning.memory import Program
from mmu_jax.planning.programs import read_machine
from mmu_jax.planning.programs import read_programs

TIGHT = 0.9  # share of the memory to fill: estimates are good to a tenth
MOST = 1024  # devices of the meshes that are tried
UNITS = {'gib': 2**30, 'gb': 10**9, 'mib': 2**20, 'tib': 2**40}


class Plan(NamedTuple):
  """A job on a mesh.

  Attributes:
    model: name, size, and how it is computed.
    machine: mesh, micro-batches and offload of the config.
    hbm: bytes of a device, 0 if not given.
    chip: name of the chip, '' if not given.
    notes: sentences on where sizes are from.
    stages: programs of the job with their needs, in order.
    smallest: smallest mesh that fits, '' if none does or none was sought.
    levers: setting -> highest peak with it, bytes; where the job does not fit.
    steps: training steps with compute and communication, if a chip is given.
    checked: estimates beside XLA's numbers, if asked.
  """

  model: str
  machine: Machine
  hbm: int
  chip: str
  notes: tuple[str, ...]
  stages: Sequence[tuple[Program, Need]]
  smallest: str
  levers: Mapping[str, int]
  steps: Sequence[tuple[Program, roofline.Step]] = ()
  checked: Sequence[Any] = ()

  @property
  def worst(self) -> tuple[Program, Need]:
    """The program that needs most."""
    return max(self.stages, key=lambda stage: stage[1].peak)


def plan(
  config: Any,
  *,
  hbm: str = '',
  chip: str = '',
  length: int = 0,
  compile_steps: bool = False,
) -> Plan:
  """Plans a job without weights, devices, and if need be data.

  Args:
    config: the whole config; ``model.path`` may be a published name.
    hbm: memory of a device, '16GiB'; '' for the chip's.
    chip: key of ``roofline.CHIPS``; '' for none.
    length: tokens of every row; 0 for the data's.
    compile_steps: whether XLA compiles the steps for simulated devices too,
      which takes seconds for each.

  Raises:
    ValueError: if an option is none of these, or sizes are missing.
  """
  if chip and chip not in roofline.CHIPS:
    known = ', '.join(roofline.CHIPS)
    raise UserError(f'--chip is one of {known}; got {chip!r}.')
  size = parse_size(hbm) if hbm else roofline.CHIPS[chip].hbm if chip else 0
  machine, notes = read_machine(config)
  model, jobs, said = read_programs(config, length)
  billions, how = tree_lib.count(model.abstract_params) / 1e9, model.config
  best = smallest_mesh(jobs, model, machine, size) if size else None
  made = Plan(
    f'{config.model.path or model.family}: {billions:.3g} B parameters, '
    f'{how.dtype}, remat {how.remat}, {how.attention} attention',
    machine,
    size,
    chip,
    (said, *notes),
    [(p, need(p, model, machine)) for p in jobs],
    mesh_line(best) if best else '',
    {},
  )
  if size and judge(made.worst[1].peak, size) != 'yes':
    made = made._replace(levers=levers(jobs, model, machine))
  if chip:
    steps = [
      (p, roofline.step(p, model, machine, chip)) for p in jobs if p.turn
    ]
    made = made._replace(steps=steps)
  if compile_steps:
    made = made._replace(checked=compiled.check(config, length))
  return made


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
      'memory is written as a number and one of GiB, GB, MiB, TiB, like '
      f'16GiB; got {text!r}.'
    )
  return int(float(found[1]) * UNITS[found[2].lower()])


def judge(peak: int, hbm: int) -> str:
  """Returns 'yes', 'tight' or 'no': whether a peak fits a device."""
  return 'no' if peak > hbm else 'tight' if peak > TIGHT * hbm else 'yes'


def smallest_mesh(
  jobs: Sequence[Program], model: Model, machine: Machine, hbm: int
) -> AbstractMesh | None:
  """Returns the mesh of fewest devices on which every program fits.

  Args:
    jobs: programs of a job.
    model: model with its dtype and remat policy.
    machine: its levers stay, its mesh is not read.
    hbm: bytes of a device, of which a tenth stays free.

  Returns:
    A mesh of fsdp alone if that can, else with tensor; None if none of 1,024
    devices can.
  """
  for mesh in _meshes():
    there = machine._replace(mesh=mesh)
    if all(judge(need(p, model, there).peak, hbm) == 'yes' for p in jobs):
      return mesh
  return None


def _meshes() -> Iterator[AbstractMesh]:
  """Meshes to try: fsdp alone, then with tensor, each from few devices on."""
  sizes = [2**i for i in range(MOST.bit_length())]
  for n, tensor in [(n, 1) for n in sizes] + [
    (n, tensor) for n in sizes for tensor in (2, 4, 8) if n >= tensor
  ]:
    yield memory.make_mesh(fsdp=n // tensor, tensor=tensor)


def levers(
  jobs: Sequence[Program], model: Model, machine: Machine
) -> dict[str, int]:
  """Returns settings that lower the highest peak, and that peak in bytes.

  Args:
    jobs: programs of a job.
    model: model with its dtype and remat policy.
    machine: devices, and levers that are set already.
  """
  peak = lambda model, there: max(need(p, model, there).peak for p in jobs)
  full = models.build(dataclasses.replace(model.config, remat='full'))
  rows = max(p.rows.count for p in jobs if p.has_gradient)
  most = max(
    -(-rows // sharding.row_parts(machine.mesh)), machine.micro_batches
  )
  wait = {'offload': ('reference',)}
  tried = {
    'model.remat=full': (full, machine),
    f'micro_batches={most}': (model, machine._replace(micro_batches=most)),
    "offload=('reference',)": (model, machine._replace(**wait)),
    'all of them': (full, machine._replace(micro_batches=most, **wait)),
  }
  found = {name: peak(*how) for name, how in tried.items()}
  return {k: n for k, n in found.items() if n < peak(model, machine)}
