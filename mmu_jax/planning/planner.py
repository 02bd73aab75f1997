"""What a job needs of each device, before it is launched."""

from collections.abc import Mapping, Sequence
import dataclasses
import re
from typing import Any, NamedTuple

from mmu_jax import models
from mmu_jax import sharding
from mmu_jax import tree as tree_lib
from mmu_jax.errors import UserError
from mmu_jax.models.layers import REMAT
from mmu_jax.planning import chips
from mmu_jax.planning import compiled
from mmu_jax.planning import flops
from mmu_jax.planning import inputs as inputs_lib
from mmu_jax.planning import layout
from mmu_jax.planning import programs as programs_lib
from mmu_jax.planning import remarks
from mmu_jax.planning import scaling
from mmu_jax.planning import search
from mmu_jax.planning import traffic as traffic_lib
from mmu_jax.planning.flops import Flops
from mmu_jax.planning.memory import local_rows
from mmu_jax.planning.memory import Need
from mmu_jax.planning.memory import Setting
from mmu_jax.planning.programs import Program
from mmu_jax.planning.scaling import Point
from mmu_jax.planning.search import Lever
from mmu_jax.planning.search import Worst
from mmu_jax.planning.shapes import Rows
from mmu_jax.planning.traffic import Times
from mmu_jax.planning.traffic import Traffic
from mmu_jax.stages import job as job_lib

UNITS = {'GiB': 2**30, 'GB': 10**9, 'MiB': 2**20, 'TiB': 2**40}
BYTES = {name.lower(): size for name, size in UNITS.items()}


class Stage(NamedTuple):
  """A program of a job and what it needs of a device.

  Attributes:
    name: of the stage or the run.
    step: a split or a task.
    rows: of the whole batch.
    length: L, tokens of a row.
    padding: rows that are added, so that every device has as many.
    need: held and temporaries, bytes.
  """

  name: str
  step: str
  rows: int
  length: int
  padding: int
  need: Need


class Step(NamedTuple):
  """What a training step computes and moves.

  Attributes:
    name: of the stage or the run.
    step: its split.
    flops: of one row.
    traffic: of one device.
    times: seconds on the chip, at its best; None without a chip.
  """

  name: str
  step: str
  flops: Flops
  traffic: Traffic
  times: Times | None


class Plan(NamedTuple):
  """A job on a mesh.

  Attributes:
    model: family, size, and how it computes.
    mesh: as a config has it.
    devices: of the mesh.
    hbm: bytes of a device, 0 if not given.
    chip: a key of ``chips.CHIPS`` or ''.
    notes: where the sizes are from, and what the mesh does.
    stages: every program, in the order of the job.
    worst: the one that needs most.
    policies: remat policy -> the activations of every stage that trains
      (bytes, in the order of ``trained``), and what then needs most.
    trained: names of those stages.
    smallest: the smallest mesh that fits, '' for none, None if not asked.
    levers: what would help on this mesh.
    steps: what each training step computes and moves.
    scaling: the first step on 8 to 1,024 devices, as many rows on each; ()
      without a chip.
    scaled_rows: of each of those devices.
    checked: estimates beside what XLA says; () unless asked.
  """

  model: str
  mesh: str
  devices: int
  hbm: int
  chip: str
  notes: tuple[str, ...]
  stages: tuple[Stage, ...]
  worst: Worst
  policies: Mapping[str, tuple[tuple[int, ...], Worst]]
  trained: tuple[str, ...]
  smallest: str | None
  levers: tuple[Lever, ...]
  steps: tuple[Step, ...]
  scaling: tuple[Point, ...] = ()
  scaled_rows: Rows | None = None
  checked: tuple[compiled.Checked, ...] = ()


def plan(
  config: Any,
  *,
  model: str = '',
  mesh: str = '',
  hbm: str = '',
  chip: str = '',
  length: int = 0,
  compile_steps: bool = False,
) -> Plan:
  """Plans a job without weights, devices, and if need be data.

  Args:
    config: the whole config.
    model: a key of ``inputs.PUBLISHED`` or a folder with config.json, instead
      of the config's.
    mesh: 'data=2,fsdp=4'; '' for the config's, or one device where that leaves
      a size open.
    hbm: memory of a device, '16GiB'; '' for the chip's.
    chip: a key of ``chips.CHIPS``, for times; '' for none.
    length: tokens of every row; 0 for the data's.
    compile_steps: also compile the steps for simulated devices, which takes
      seconds each, and say what XLA makes of their memory.

  Returns:
    Plain numbers; ``report.tables`` writes them.

  Raises:
    ValueError: if an option is none of these, or sizes are missing.
  """
  if chip and chip not in chips.CHIPS:
    raise UserError(f'--chip is one of {", ".join(chips.CHIPS)}; got {chip!r}.')
  job_lib.check_hardware(config)
  spec = mesh or ('data=1' if '-1' in config.mesh else config.mesh)
  on = layout.parse(spec)
  size = parse_size(hbm) if hbm else chips.CHIPS[chip].hbm if chip else 0
  found = inputs_lib.read(config, model, length)
  made = found.model
  setting = Setting(on, config.micro_batches, tuple(config.offload))
  jobs = programs_lib.of_config(config, found)
  stages = tuple(_stage(p, made, setting) for p in jobs)
  worst = search.worst(jobs, made, setting)
  smallest = None
  if size:
    best = search.smallest_mesh(jobs, made, setting, size)
    smallest = layout.line(best) if best else ''
  trained, policies = _policies(jobs, made, setting)
  points, each = _scaling(jobs, made, setting, chip)
  checked = ()
  if compile_steps:
    checked = compiled.check(
      config, model=model, mesh=spec, devices=on.size, length=length
    )
  billions = tree_lib.count(made.abstract_params) / 1e9
  name = model or config.model.get('path', '') or made.family
  return Plan(
    model=f'{name} ({billions:.3g} B parameters, {made.config.dtype}, '
    f'remat {made.config.remat}, {made.config.attention} attention)',
    mesh=layout.line(on),
    devices=on.size,
    hbm=size,
    chip=chip,
    notes=(*found.notes, *remarks.of_job(jobs, made, setting, chip)),
    stages=stages,
    worst=worst,
    policies=policies,
    trained=trained,
    smallest=smallest,
    levers=tuple(search.levers(jobs, made, setting)),
    steps=_steps(jobs, made, setting, chip),
    scaling=points,
    scaled_rows=each,
    checked=tuple(checked),
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
  if not found or found[2].lower() not in BYTES or not float(found[1]):
    raise UserError(
      'memory is written as a number and one of '
      f'{", ".join(UNITS)}, like 16GiB; got {text!r}.'
    )
  return int(float(found[1]) * BYTES[found[2].lower()])


def _stage(program: Program, model, setting) -> Stage:
  """A program, its batch, and what it needs."""
  rows, micro = program.rows, remarks.parts(program, setting)
  total = sharding.row_count(rows.rows, setting.mesh, micro)
  return Stage(
    program.stage,
    program.step,
    rows.rows,
    rows.length,
    total - rows.rows,
    programs_lib.need(program, model, setting),
  )


def _scaling(jobs: Sequence[Program], model, setting, chip):
  """The first step on more devices, and the rows that each computes."""
  first = next((p for p in jobs if p.turn), None)
  if not chip or first is None:
    return (), None
  micro = setting.micro_batches
  each = first.rows._replace(rows=local_rows(first.rows, setting) * micro)
  points = scaling.points(
    model, first.turn, each, chips.CHIPS[chip], micro_batches=micro
  )
  return tuple(points), each


def _policies(jobs: Sequence[Program], model, setting):
  """Activations of every training program, under each policy."""
  chosen = [p for p in jobs if p.turn or p.stage == 'importance']
  chosen = list({(p.stage, p.step): p for p in chosen}.values())
  found = {}
  for remat in REMAT:
    made = models.build(dataclasses.replace(model.config, remat=remat))
    needs = [programs_lib.need(p, made, setting) for p in chosen]
    sizes = tuple(
      max(items.get('activations', 0) for items in n.phases.values())
      for n in needs
    )
    found[remat] = sizes, search.worst(jobs, made, setting)
  return tuple(f'{p.stage} {p.step}' for p in chosen), found


def _steps(jobs, model, setting, chip) -> tuple[Step, ...]:
  """Operations and bytes of the training steps."""
  found = []
  for p in jobs:
    if p.turn is None:
      continue
    moved = traffic_lib.of_turn(model, p.turn, p.rows, setting)
    times = None
    if chip:
      times = traffic_lib.times(moved, chips.CHIPS[chip], setting.mesh)
    counted = flops.of_loss(
      model.config, p.turn.loss, p.rows.length, p.rows.room
    )
    found.append(Step(p.stage, p.step, counted, moved, times))
  return tuple(found)
