"""Prints what published models need on some machines, stage by stage.

  python tests/benchmarks/plan_7b.py
  python tests/benchmarks/plan_7b.py --model=qwen2-vl-7b --markdown

No weights, no devices, no data: rows of 768 tokens with one picture (3,120 for
LLaVA-1.6, whose pictures take up to 2,928 of them), batches of 8 (or one a
device, where there are more), remat 'full', bfloat16. With --markdown it prints
one row a model, for the documentation.
"""

import argparse
import dataclasses

from rich import console

from mmu_jax import methods
from mmu_jax import models
from mmu_jax import sharding
from mmu_jax.planning import fits
from mmu_jax.planning import memory
from mmu_jax.planning import programs
from mmu_jax.planning.memory import Program
from mmu_jax.planning.memory import Rows
from mmu_jax.planning.tables import GIB
from mmu_jax.planning.tables import gib
from mmu_jax.planning.tables import make_table
from mmu_jax.training import optimizer

MACHINES = {
  '8 x 16 GiB': ('fsdp=8', 16),
  '8 x 80 GiB': ('fsdp=8', 80),
  '1 x 141 GiB': ('data=1', 141),
  '256 x 16 GiB': ('fsdp=256', 16),
}
LENGTH, TEXT, ROWS, ANSWER = 768, 192, 8, 64
TURNS = {  # stage -> index of its turn, and what the run holds
  'finetune': (0, {}),
  'ga_diff': (1, {}),
  'mmunlearner': (0, dict(mask=True)),
  'kl_min': (1, dict(reference=True)),
  'npo': (0, dict(reference=True)),
}


def build(name: str) -> models.Model:
  """A published model in bfloat16 that keeps the inputs of layers alone."""
  sizes = programs.PUBLISHED[name]
  how = dict(dtype='bfloat16', remat='full')
  return models.build(dataclasses.replace(sizes, **how))


def rows_of(model: models.Model, count: int) -> Rows:
  """Rows with one picture and its text."""
  family = models.MODELS[model.family]
  room = family.widths(model.config)['picture']
  tokens = family.image_tokens(model.config, room)
  return Rows(count, max(LENGTH, tokens + TEXT), room)


def jobs(model: models.Model, devices: int) -> list[Program]:
  """One program of each stage; three preserve sets for the mask."""
  rows = rows_of(model, max(ROWS, devices))
  asked = rows._replace(counted=ANSWER)
  tx = optimizer.build(name='hf_adamw')
  found = []
  for name, (index, held) in TURNS.items():
    turn = methods.make(name)[index]
    found.append(Program(name, turn.split, rows, turn, tx, **held))
  return [
    *found,
    Program('importance', '', rows),
    Program('mask', '', count=3),
    Program('evaluate', 'decode', asked, count=ANSWER),
    Program('evaluate', 'score', asked),
  ]


def fitting(name: str) -> list[tuple[str, ...]]:
  """Peak and verdict of each stage on each machine, and where all fit."""
  model = build(name)
  columns, titles = [], []
  for mesh, size in MACHINES.values():
    mesh = memory.abstract_mesh(**sharding.axis_sizes(mesh))
    on, limit = memory.Setting(model, mesh), size * GIB
    made = jobs(model, mesh.size)
    titles = [p.name for p in made]
    peaks = [memory.need(p, on).peak for p in made]
    cells = [f'{gib(n)} {fits.fit_of(n, limit)}' for n in peaks]
    best = fits.smallest_mesh(made, on, limit) or 'none'
    columns.append([*cells, f'{gib(max(peaks))}', best])
  titles += ['highest peak', 'smallest mesh']
  return list(zip(titles, *columns))


def main() -> None:
  """Prints a table for each model, or one line each."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument(
    '--model', action='append', choices=programs.PUBLISHED, default=[]
  )
  parser.add_argument('--markdown', action='store_true')
  args = parser.parse_args()
  out = console.Console(width=100)
  if args.markdown:
    print(f'| GiB per device; smallest mesh | {" | ".join(MACHINES)} |')
    print('|---' * (1 + len(MACHINES)) + '|')
  for name in args.model or programs.PUBLISHED:
    rows = fitting(name)
    if args.markdown:
      cells = [f'{n}; {mesh}' for n, mesh in zip(rows[-2][1:], rows[-1][1:])]
      print(f'| {name} | {" | ".join(cells)} |')
    else:
      length = rows_of(build(name), ROWS).length
      title = f'{name}: GiB per device, {length} tokens a row'
      out.print(make_table(title, ('stage', *MACHINES), rows))


if __name__ == '__main__':
  main()
