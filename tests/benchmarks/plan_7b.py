"""Prints what 7B and 13B models need on some machines, and how they scale.

  python tests/benchmarks/plan_7b.py
  python tests/benchmarks/plan_7b.py --model=qwen2-vl-7b --chip=h100

No weights, no devices, no data: rows of 768 tokens with one picture, batches
of 8 (or one a device, where there are more), remat 'full', bfloat16.
"""

import argparse
import dataclasses

from rich import console

from mmu_jax import methods
from mmu_jax import models
from mmu_jax.planning import chips
from mmu_jax.planning import inputs
from mmu_jax.planning import layout
from mmu_jax.planning import report
from mmu_jax.planning import scaling
from mmu_jax.planning import search
from mmu_jax.planning.memory import Setting
from mmu_jax.planning.programs import need
from mmu_jax.planning.programs import Program
from mmu_jax.planning.shapes import PATCHES
from mmu_jax.planning.shapes import Rows

MODELS = ('llava-1.5-7b', 'llava-1.5-13b', 'qwen2-vl-7b')
MACHINES = {
  '8 x 16 GiB': ('fsdp=8', 16),
  '8 x 80 GiB': ('fsdp=8', 80),
  '1 x 141 GiB': ('data=1', 141),
  '256 x 16 GiB': ('fsdp=256', 16),
}
LENGTH, ROWS, ANSWER = 768, 8, 64
OPTIMIZER = dict(name='hf_adamw')


def main():
  """Prints a table of what fits for each model, and two of scaling."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--model', action='append', choices=inputs.PUBLISHED)
  parser.add_argument('--chip', default='v5e', choices=chips.CHIPS)
  args = parser.parse_args()
  out = console.Console(width=100)
  for name in args.model or MODELS:
    out.print(fitting(name))
  name = (args.model or MODELS)[0]
  for part in scaled(name, args.chip):
    out.print(part)


def build(name: str) -> models.Model:
  """A published model, in bfloat16, that keeps layer inputs alone."""
  config = dataclasses.replace(
    inputs.PUBLISHED[name], dtype='bfloat16', remat='full'
  )
  return models.build(config)


def programs(model: models.Model, devices: int) -> list[Program]:
  """One program of each stage, two preserve sets as in the configs."""
  room = 1 if model.family == 'llava' else PATCHES
  rows = Rows(max(ROWS, devices), LENGTH, room)
  turn = lambda name, i, **held: Program(
    name,
    methods.make(name)[i].split,
    rows,
    methods.make(name)[i],
    OPTIMIZER,
    **held,
  )
  return [
    turn('finetune', 0)._replace(stage='vanilla'),
    Program('importance', '', rows),
    Program('mask', '', Rows(0, 0, 0), others=3),
    turn('ga_diff', 1),
    turn('mmunlearner', 0, mask=True),
    turn('kl_min', 1, reference=True),
    turn('npo', 0, reference=True),
    Program('evaluate', 'decode', rows, others=ANSWER),
    Program('evaluate', 'score', rows),
  ]


def fitting(name: str):
  """What each stage needs on each machine, and whether it fits."""
  model = build(name)
  made = report.table(
    f'{name}: GiB a device, batches of {ROWS} or a row a device, {LENGTH} '
    'tokens',
    ('stage',),
    MACHINES,
  )
  settings = [Setting(layout.parse(mesh)) for mesh, _ in MACHINES.values()]
  limits = [size * report.GIB for _, size in MACHINES.values()]
  jobs = [programs(model, s.mesh.size) for s in settings]
  for stage in zip(*jobs):
    cells = []
    for program, setting, limit in zip(stage, settings, limits):
      peak = need(program, model, setting).peak
      cells.append(f'{report.gib(peak)} {report.fits(peak, limit):5}')
    made.add_row(f'{stage[0].stage} {stage[0].step}', *cells)
  smallest = [
    search.smallest_mesh(job, model, s, limit)
    for job, s, limit in zip(jobs, settings, limits)
  ]
  lines = [layout.line(m) if m else '-' for m in smallest]
  made.add_row('all fit from', *lines)
  every = [
    {lever.name: lever.worst for lever in search.levers(job, model, s)}
    for job, s in zip(jobs, settings)
  ]
  for name in dict.fromkeys(name for found in every for name in found):
    worst = [found.get(name) for found in every]
    made.add_row(
      f'worst with {name}', *(report.gib(w.peak) if w else '' for w in worst)
    )
  return made


def scaled(name: str, chip: str):
  """Weak and strong scaling of a retain turn."""
  model, turn = build(name), methods.make('mmunlearner')[1]
  room = 1 if model.family == 'llava' else PATCHES
  row = Rows(1, LENGTH, room)
  for copies in (False, True):
    kind = 'data x fsdp=8' if copies else 'fsdp'
    weak = scaling.points(model, turn, row, chips.CHIPS[chip], copies=copies)
    yield report.scaling_table(
      f'{name} on {chip}, {kind}: one row of {LENGTH} tokens a device', weak
    )
    yield report.crossing(weak)
    few = [f'{p.devices}: {scaling.least_tokens(p, row):,.0f}' for p in weak]
    yield f'tokens a device from which computing takes longer: {", ".join(few)}'
    strong = scaling.points(
      model,
      turn,
      row._replace(rows=256),
      chips.CHIPS[chip],
      weak=False,
      copies=copies,
    )
    yield report.scaling_table(
      f'{name} on {chip}, {kind}: 256 rows in all', strong
    )
    yield report.crossing(strong)


if __name__ == '__main__':
  main()
