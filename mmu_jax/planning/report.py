"""The tables of a plan, for a terminal of 100 columns."""

from collections.abc import Iterable
from typing import Any

from mmu_jax.planning.planner import Plan
from mmu_jax.planning.planner import Stage
from mmu_jax.planning.scaling import Point

TIGHT = 0.9  # of the memory: the estimate is good to ten per cent
GIB = 2**30
BOUND = {'compute': 'computing', 'communication': 'moving'}
# Columns of the table of stages: title -> items of a need.
COLUMNS = {
    'param': ('parameters', 'parameters that see'),
    'moment': ('moments',),
    'import': ('importances',),
    'mask': ('mask', 'ties and mask'),
    'ref': ('reference',),
    'batch': ('batch',),
    'grads': ('gradients',),
    'activ': ('activations', 'cache'),
    'work': ('logits', 'weights at work', 'one leaf at work'),
}
LEGEND = (
    '{} on each device, in the phase that needs most. param, moment, import'
    '(ances), mask, ref(erence): held, exact. grads: gradients, and updates '
    'made of them. activ: what backward keeps and one layer at work; of '
    'evaluation the cache. work: logits, gathered weights. fits: tight above '
    '90 %, as estimates are good to 10 %.'
)

CHECKED = (
    'Peak: arguments + outputs - aliased + temporaries. XLA is that of '
    'simulated devices, which computes bfloat16 in float32 and sums whole '
    'gradients; the estimates beside it are for that, those above for '
    'accelerators.'
)


def tables(plan: Plan) -> list[Any]:
  """Returns what ``mmu plan`` prints: rich tables and lines.

  Args:
    plan: from ``plan``.
  """
  title = f'{plan.model}\non {plan.mesh}: {plan.devices} devices'
  if plan.hbm:
    title += f' of {gib(plan.hbm)} GiB'
  legend = LEGEND.format(unit(plan)[0])
  parts = [title, *plan.notes, _stages(plan), legend, '', _policies(plan)]
  parts.append(_verdict(plan))
  if plan.levers:
    parts.append(_levers(plan))
  parts.append(_steps(plan))
  return parts + ([_checked(plan), CHECKED] if plan.checked else [])


def gib(size: float) -> str:
  """Returns bytes in GiB with two digits.

  Example:
    >>> gib(3 * 2**29)
    '1.50'
  """
  return f'{size / GIB:,.2f}'


def unit(plan: Plan) -> tuple[str, float]:
  """Returns the unit of a plan's tables: a small model is planned in MiB."""
  return ('GiB', GIB) if plan.worst.peak >= GIB else ('MiB', 2**20)


def _writer(plan: Plan) -> Any:
  """Writes bytes in the unit of a plan."""
  size = unit(plan)[1]
  return lambda n: f'{n / size:,.2f}'


def fits(peak: float, hbm: int) -> str:
  """Returns 'yes', 'tight' or 'no'; '' without a limit."""
  if not hbm:
    return ''
  return 'no' if peak > hbm else 'tight' if peak > TIGHT * hbm else 'yes'


def table(title: str, left: Iterable[str], right: Iterable[str]) -> Any:
  """Returns an empty table with some columns flush left, then flush right."""
  from rich import box
  from rich import table as rich_table

  made = rich_table.Table(
      title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0),
      title_justify='left', title_style='bold',
  )  # fmt: skip
  for name in left:
    made.add_column(name, overflow='fold', min_width=16)
  for name in right:
    made.add_column(name, justify='right', no_wrap=True)
  return made


def scaling_table(title: str, points: list[Point]) -> Any:
  """Returns a step on more and more devices.

  Args:
    title: of the table.
    points: from ``scaling.points``.
  """
  made = table(
      title,
      ('mesh',),
      (
          'devices', 'rows', 'PFLOP', 'gather', 'scatter', 'sum', 'flop/B',
          'comp. s', 'move s', 'bound by',
      ),
  )  # fmt: skip
  for p in points:
    t = p.traffic
    made.add_row(
        p.mesh, f'{p.devices:,}', f'{p.rows:,}', f'{t.flops / 1e15:.3f}',
        gib(t.gather_forward + t.gather_backward), gib(t.scatter),
        gib(t.sums), f'{t.intensity:,.0f}', f'{p.times.compute:.3f}',
        f'{p.times.move:.3f}', BOUND[p.times.bound],
    )  # fmt: skip
  return made


def _stages(plan: Plan) -> Any:
  """Every program and what it needs; those that need the same are one row."""
  write = _writer(plan)
  fit = ['fits'] if plan.hbm else []
  made = table('', ('stage, step',), (*COLUMNS, 'peak', *fit))
  groups: dict[tuple, list[str]] = {}
  for stage in plan.stages:
    items = _items(stage)
    cells = tuple(
        sum(items.get(name, 0) for name in names) for names in COLUMNS.values()
    )
    name = f'{stage.name} {stage.step}'
    groups.setdefault((*map(write, cells), stage.need.peak), []).append(name)
  for (*cells, peak), names in groups.items():
    cells = ['' if cell == write(0) else cell for cell in cells]
    judged = [fits(peak, plan.hbm)] if plan.hbm else []
    made.add_row(
        short(names), *cells, write(peak), *judged,
        style='bold' if peak == plan.worst.peak else None,
    )  # fmt: skip
  return made


def short(names: list[str]) -> str:
  """Returns names of one row, the steps of one stage together.

  Example:
    >>> short(['ga forget', 'ga_diff forget', 'ga_diff retain'])
    'ga forget; ga_diff forget, retain'
  """
  steps: dict[str, list[str]] = {}
  for name in names:
    stage, _, step = name.partition(' ')
    steps.setdefault(stage, []).append(step)
  return '; '.join(
      f'{stage} {", ".join(found)}'.strip() for stage, found in steps.items()
  )


def _items(stage: Stage) -> dict[str, int]:
  """What is held, and the temporaries of the worst phase."""
  need = stage.need
  found = dict(need.held)
  for name, size in need.phases[need.phase].items():
    found[name] = found.get(name, 0) + size
  return found


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
    made.add_row(short(names), *sizes)
  worst = [w for _, w in plan.policies.values()]
  made.add_row('highest peak of the job', *(write(w.peak) for w in worst))
  made.add_row('in', *(f'{w.stage} {w.step}' for w in worst))
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
      f'The smallest mesh that fits it as it is: {plan.smallest}.'
      if plan.smallest
      else 'No mesh of up to 1,024 devices fits it as it is.'
  )
  return f'{text} {answer} {where}'


def _levers(plan: Plan) -> Any:
  """What would help."""
  write = _writer(plan)
  made = table(
      'levers on this mesh', ('set', 'then peaks'),
      (unit(plan)[0], *(['fits'] if plan.hbm else [])),
  )  # fmt: skip
  for lever in plan.levers:
    made.add_row(
        lever.name, f'{lever.worst.stage} {lever.worst.step}',
        write(lever.worst.peak),
        *([fits(lever.worst.peak, plan.hbm)] if plan.hbm else []),
    )  # fmt: skip
  return made


def _steps(plan: Plan) -> Any:
  """What each training step computes and moves."""
  write = _writer(plan)
  within = ['tensor'] if any(s.traffic.tensor for s in plan.steps) else []
  timed = ['comp. s', 'move s'] if plan.chip else []
  timed += ['bound by'] if timed and not within else []  # no room for both
  made = table(
      f'one step on one device: TFLOP computed, {unit(plan)[0]} moved'
      + (f', seconds on {plan.chip} at its best' if plan.chip else ''),
      ('step',),
      ('forw.', 'backw.', 'again', 'gather', 'scatter', 'sum', *within,
       'flop/B', *timed),
  )  # fmt: skip
  groups: dict[tuple, list[str]] = {}
  for step in plan.steps:
    key = (step.traffic, step.flops, step.times)
    groups.setdefault(key, []).append(f'{step.name} {step.step}')
  for (t, f, times), names in groups.items():
    scale = t.flops / f.total / 1e12
    seconds = []
    if times:
      bound = BOUND[times.bound]
      seconds = [f'{times.compute:.3g}', f'{times.move:.3g}', bound]
      seconds = seconds[: len(timed)]
    made.add_row(
        short(names), *(f'{x * scale:.3g}' for x in f),
        write(t.gather_forward + t.gather_backward), write(t.scatter),
        write(t.sums), *([write(t.tensor)] if within else []),
        f'{t.intensity:,.0f}' if t.moved else '', *seconds,
    )  # fmt: skip
  return made


def _checked(plan: Plan) -> Any:
  """Estimates beside what XLA says, in MiB: small models are small."""
  made = table(
      'compiled for simulated devices, MiB a device', ('step',),
      ('arguments', 'XLA', 'temporaries', 'XLA', 'peak', 'XLA', 'error'),
  )  # fmt: skip
  mib = lambda size: f'{size / 2**20:,.1f}'
  for c in plan.checked:
    made.add_row(
        f'{c.name} {c.step}', mib(c.arguments), mib(c.memory.arguments),
        mib(c.temporaries), mib(c.memory.temporaries),
        mib(c.arguments + c.temporaries), mib(c.memory.peak),
        f'{c.error:+.1%}',
    )  # fmt: skip
  return made
