"""The tables of a plan: whole in 100 columns, and readable in 80."""

from collections.abc import Sequence
from typing import Any

from mmu_jax.planning import scaling
from mmu_jax.planning.planner import Plan
from mmu_jax.planning.planner import Stage
from mmu_jax.planning.scaling import Point
from mmu_jax.planning.writing import add
from mmu_jax.planning.writing import filled
from mmu_jax.planning.writing import fits
from mmu_jax.planning.writing import GIB
from mmu_jax.planning.writing import gib
from mmu_jax.planning.writing import hundredths
from mmu_jax.planning.writing import number
from mmu_jax.planning.writing import short
from mmu_jax.planning.writing import table

BOUND = {'compute': 'compute', 'communication': 'move', 'equal': 'about equal'}
# Columns of the table of stages: title -> items of a need.
COLUMNS = {
  'param': ('parameters', 'parameters that see'),
  'momt.': ('moments',),
  'imp.': ('importances',),
  'mask': ('mask', 'ties and mask'),
  'ref.': ('reference',),
  'grads': ('gradients',),
  'act.': ('activations', 'cache'),
  'work': ('batch', 'logits', 'weights at work', 'one leaf at work'),
}
LEGEND = (
  '{} on each device, in the phase that needs most. param, momt. (moments), '
  'imp. (importances), mask, ref. (reference): held, exact. grads: '
  'gradients, and updates made of them. act.: what backward keeps and one '
  'layer at work; of evaluation the cache. work: the batch, logits, gathered '
  'weights. fits: tight above 90 %, as estimates are good to 10 %.'
)
MOVED = (
  'forw., back, again: TFLOP, the last of what remat computes twice. gath., '
  'scat., sum, tens.: {} that all-gather, reduce-scatter and all-reduce '
  '(over data, and within layers) move. fl/B: operations for each byte '
  'moved.'
)
TIMED = ' comp., move: seconds on {} at its best, if nothing else counted.'
CHECKED = (
  'Peak: arguments + outputs - aliased + temporaries. XLA is that of '
  'simulated devices, which computes bfloat16 in float32 and sums whole '
  'gradients; the estimates beside it are for that, those above for '
  'accelerators.'
)


def tables(plan: Plan) -> list[Any]:
  """Returns what ``mmu plan`` prints: rich tables and texts.

  They need 100 columns; with 80 no column is lost, and long names are cut.

  Args:
    plan: from ``plan``.
  """
  from rich import text

  many = 'device' if plan.devices == 1 else 'devices'
  title = f'{plan.model}\non {plan.mesh}: {plan.devices:,} {many}'
  if plan.hbm:
    title += f' of {gib(plan.hbm)} GiB'
  parts = [title, *plan.notes, '', _stages(plan), '']
  parts += [LEGEND.format(unit(plan)[0]), _verdict(plan), '']
  if plan.levers:
    parts += [_levers(plan), '']
  parts += [_batches(plan), '', _policies(plan), '', _steps(plan), '']
  timed = TIMED.format(plan.chip) if plan.chip else ''
  parts += [MOVED.format(unit(plan)[0]) + timed]
  if plan.scaling:
    parts += ['', *scaled(plan)]
  if plan.checked:
    parts += ['', _checked(plan), '', CHECKED]
  return [text.Text(p) if isinstance(p, str) else p for p in parts]


def unit(plan: Plan) -> tuple[str, float]:
  """Returns the unit of a plan's tables: a small model is planned in MiB."""
  return ('GiB', GIB) if plan.worst.peak >= GIB else ('MiB', 2**20)


def _writer(plan: Plan) -> Any:
  """Writes bytes in the unit of a plan, '' for what rounds to nothing."""
  size = unit(plan)[1]
  return lambda n: '' if n / size < 0.005 else hundredths(n / size)


def scaling_table(title: str, points: Sequence[Point]) -> Any:
  """Returns a step on more and more devices.

  Args:
    title: of the table.
    points: from ``scaling.points``.
  """
  made = table(
    title,
    ('mesh',),
    (
      'rows',
      'TFLOP',
      'gath.',
      'scat.',
      'sum',
      'fl/B',
      'comp.',
      'move',
      'bound by',
    ),
  )
  for p in points:
    t = p.traffic
    gathered = t.gather_forward + t.gather_backward
    add(
      made,
      p.mesh,
      f'{p.rows:,}',
      number(t.flops / 1e12),
      *(number(n / GIB) for n in (gathered, t.scatter, t.sums)),
      f'{t.intensity:,.0f}',
      number(p.times.compute),
      number(p.times.move),
      BOUND[p.times.bound],
    )
  return made


def crossing(points: Sequence[Point]) -> str:
  """Returns where moving takes longer than computing, in a sentence."""
  found = scaling.crossing(points)
  if found is None:
    return 'Never bound by communication up to 1,024 devices.'
  return f'Bound by communication from {found.devices:,} devices on.'


def scaled(plan: Plan) -> list[Any]:
  """Returns the table of weak scaling and what it says.

  Args:
    plan: with a chip.
  """
  each = plan.scaled_rows
  many = 'row' if each.rows == 1 else 'rows'
  title = (
    f'{plan.steps[0].name} on more devices, with fsdp alone: {each.rows} '
    f'{many} of {each.length:,} tokens a device; GiB and seconds'
  )
  least = scaling.least_tokens(plan.scaling[-1], each)
  said = (
    f'{crossing(plan.scaling)} On {plan.scaling[-1].devices:,}, computing '
    f'takes as long as moving with {least:,.0f} tokens a device; there are '
    f'{each.rows * each.length:,}.'
  )
  return [scaling_table(title, plan.scaling), '', said]


def _stages(plan: Plan) -> Any:
  """Every program and what it needs; those that need the same are one row."""
  write = _writer(plan)
  groups: dict[tuple, list[str]] = {}
  peaks: dict[tuple, int] = {}  # of a row: they differ by some bytes
  for stage in plan.stages:
    items = _items(stage)
    cells = tuple(
      write(sum(items.get(name, 0) for name in names))
      for names in COLUMNS.values()
    )
    key = (write(stage.need.peak), fits(stage.need.peak, plan.hbm), cells)
    peaks[key] = max(peaks.get(key, 0), stage.need.peak)
    groups.setdefault(key, []).append(f'{stage.name} {stage.step}')
  titles, rows = filled(COLUMNS, [cells for *_, cells in groups])
  fit = ['fits'] if plan.hbm else []
  made = table('', ('stage, step',), ('peak', *fit, *titles))
  for key, cells in zip(groups, rows):
    judged = [key[1]] if plan.hbm else []
    top = peaks[key] == plan.worst.peak
    add(made, short(groups[key]), key[0], *judged, *cells, bold=top)
  return made


def _items(stage: Stage) -> dict[str, int]:
  """What is held, and the temporaries of the worst phase."""
  need = stage.need
  found = dict(need.held)
  for name, size in need.phases[need.phase].items():
    found[name] = found.get(name, 0) + size
  return found


def _batches(plan: Plan) -> Any:
  """The batch of each program, and its rows of padding."""
  groups: dict[tuple, list[str]] = {}
  for stage in plan.stages:
    if stage.rows:
      key = (stage.rows, stage.length, stage.padding)
      groups.setdefault(key, []).append(f'{stage.name} {stage.step}')
  cells = [
    (f'{rows:,}', f'{length:,}', f'{padding:,}' if padding else '')
    for rows, length, padding in groups
  ]
  titles, cells = filled(('rows', 'tokens a row', 'rows of padding'), cells)
  made = table('batches', ('step',), titles)
  for names, row in zip(groups.values(), cells):
    add(made, short(names), *row)
  return made


def _policies(plan: Plan) -> Any:
  """Activations under each remat policy."""
  write = _writer(plan)
  title = f'activations, {unit(plan)[0]}, under each remat policy'
  made = table(title, ('step',), plan.policies)
  groups: dict[tuple, list[str]] = {}
  for i, name in enumerate(plan.trained):
    sizes = tuple(write(sizes[i]) for sizes, _ in plan.policies.values())
    groups.setdefault(sizes, []).append(name)
  for sizes, names in groups.items():
    add(made, short(names), *sizes)
  worst = [w for _, w in plan.policies.values()]
  add(made, 'highest peak of the job', *(write(w.peak) for w in worst))
  return made


def _verdict(plan: Plan) -> str:
  """What peaks, whether it fits, and where it would."""
  write = _writer(plan)
  worst = plan.worst
  size = f'{write(worst.peak)} {unit(plan)[0]}'
  text = f'{worst.stage} {worst.step} peaks: {size} a device.'
  if not plan.hbm:
    return text + ' Give --hbm to see what fits.'
  answer = {
    'yes': 'The job fits.',
    'tight': 'The job fits, with less than 10 % to spare.',
    'no': 'The job does not fit.',
  }[fits(worst.peak, plan.hbm)]
  if plan.smallest is None:
    return f'{text} {answer}'
  where = (
    'The smallest mesh that fits it as it is, with 10 % to spare: '
    f'{plan.smallest}.'
    if plan.smallest
    else 'No mesh of up to 1,024 devices fits it as it is with 10 % to spare.'
  )
  return f'{text} {answer} {where}'


def _levers(plan: Plan) -> Any:
  """What would help."""
  write = _writer(plan)
  fit = ['fits'] if plan.hbm else []
  made = table(
    'levers on this mesh', ('set', 'then peaks'), (unit(plan)[0], *fit)
  )
  for lever in plan.levers:
    judged = [fits(lever.worst.peak, plan.hbm)] if plan.hbm else []
    note = f' ({lever.note})' if lever.note else ''
    add(
      made,
      lever.name + note,
      f'{lever.worst.stage} {lever.worst.step}',
      write(lever.worst.peak),
      *judged,
    )
  return made


def _steps(plan: Plan) -> Any:
  """What each training step computes and moves."""
  groups: dict[tuple, list[str]] = {}
  for step in plan.steps:
    key = (step.traffic, step.flops, step.times)
    groups.setdefault(key, []).append(f'{step.name} {step.step}')
  titles = ['forw.', 'back', 'again', 'gath.', 'scat.', 'sum', 'tens.', 'fl/B']
  titles += ['comp.', 'move', 'bound'] if plan.chip else []
  cells = [_step_cells(plan, *key) for key in groups]
  titles, rows = filled(titles, cells)
  if 'tens.' in titles:  # no room for both
    at = titles.index('fl/B')
    titles, rows = _without(titles, at), [_without(row, at) for row in rows]
  made = table('one step on one device', ('step',), titles)
  for names, row in zip(groups.values(), rows):
    add(made, short(names), *row)
  return made


def _step_cells(plan: Plan, t, f, times) -> tuple[str, ...]:
  """The numbers of a step."""
  write = _writer(plan)
  scale = t.flops / f.total / 1e12
  gathered = t.gather_forward + t.gather_backward
  moved = [write(n) for n in (gathered, t.scatter, t.sums, t.tensor)]
  timed = []
  if times:
    bound = BOUND[times.bound].replace(' ', '\n')  # as wide as 'compute'
    timed = [number(times.compute), number(times.move), bound]
  each = f'{t.intensity:,.0f}' if t.moved else ''
  return (*(number(n * scale) for n in f), *moved, each, *timed)


def _without(row: Sequence[str], at: int) -> list[str]:
  """A row without one of its cells."""
  return [*row[:at], *row[at + 1 :]]


def _checked(plan: Plan) -> Any:
  """Estimates beside what XLA says, in MiB: small models are small."""
  made = table(
    'compiled for simulated devices, MiB a device: estimated, and of XLA',
    ('step',),
    ('args', 'XLA', 'temp.', 'XLA', 'peak', 'XLA', 'error'),
  )
  mib = lambda size: number(size / 2**20)
  for c in plan.checked:
    add(
      made,
      f'{c.name} {c.step}',
      mib(c.arguments),
      mib(c.memory.arguments),
      mib(c.temporaries),
      mib(c.memory.temporaries),
      mib(c.arguments + c.temporaries),
      mib(c.memory.peak),
      f'{c.error:+.1%}',
    )
  return made
