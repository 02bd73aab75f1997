"""Tables of a plan: the verdict first, every number in 80 columns."""

from collections.abc import Iterable, Sequence
from typing import Any

from mmu_jax import sharding
from mmu_jax.planning import fits
from mmu_jax.planning import memory
from mmu_jax.planning.fits import Plan

GIB = 2**30
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
  'GiB per device; allow 10 % above an estimate. Held, and exact: param, momt. '
  '(moments), imp. (importances), mask, ref. (reference). In the phase that '
  'needs most: grads (gradients, updates), act. (activations kept for '
  'backward, one layer at work, or a cache), work (batch, logits, gathered '
  'weights). rows: as computed, padding included, x tokens.'
)
CHECKED = (
  'XLA compiles for simulated CPUs, where it computes bfloat16 in float32 and '
  'sums whole gradients. These estimates are for that, those above for '
  'accelerators.'
)
MOVED = 'Seconds at the figures of the vendor, if nothing else counted.'
ANSWERS = {
  'yes': 'The job fits',
  'tight': 'The job fits, with less than 10 % to spare,',
  'no': 'The job does not fit',
}


def tables(plan: Plan) -> list[Any]:
  """Returns what ``mmu plan`` prints: rich tables and texts.

  Args:
    plan: plan of a job.
  """
  from rich import text

  parts = [verdict(plan), '', plan.model, *plan.notes, '', _stages(plan)]
  parts += ['', LEGEND]
  if plan.levers:
    rows = [
      (k, gib(n), fits.judge(n, plan.hbm)) for k, n in plan.levers.items()
    ]
    parts += ['', _table('levers on this mesh', ('set', 'peak', 'fits'), rows)]
  if plan.steps:
    parts += ['', _steps(plan), '', MOVED]
  if plan.checked:
    parts += ['', _checked(plan), '', CHECKED]
  return [text.Text(p) if isinstance(p, str) else p for p in parts]


def verdict(plan: Plan) -> str:
  """Returns whether a job fits, what peaks, and the smallest mesh that fits.

  Args:
    plan: plan of a job.
  """
  (program, need), mesh = plan.worst, plan.machine.mesh
  name = f'{program.stage} {program.step}'.strip()
  peak = f'The highest peak is {gib(need.peak)} GiB per device, in {name}.'
  line = memory.mesh_line(mesh)
  if not plan.hbm:
    return f'Mesh {line}. {peak} Give --hbm=16GiB to see what fits.'
  smallest = (
    f'The smallest mesh that fits, with 10 % to spare, is {plan.smallest}.'
    if plan.smallest
    else f'No mesh of up to {fits.MOST:,} devices fits, with 10 % to spare.'
  )
  answer = ANSWERS[fits.judge(need.peak, plan.hbm)]
  where = f'on {line}: {mesh.size:,} x {gib(plan.hbm)} GiB'
  return f'{answer} {where}. {peak} {smallest}'


def gib(size: float) -> str:
  """Returns bytes in GiB, '' for almost none.

  Example:
    >>> [gib(n * 2**30) for n in (0.0001, 0.054, 1.5, 1234.5)]
    ['', '0.054', '1.50', '1,234.50']
  """
  n = size / GIB
  return '' if n < 0.0005 else f'{n:,.3f}' if n < 0.9995 else f'{n:,.2f}'


def _stages(plan: Plan) -> Any:
  """Every program and its memory."""
  rows = []
  for program, need in plan.stages:
    parts = plan.machine.micro_batches**program.has_gradient
    whole = plan.machine._replace(micro_batches=parts)
    count = memory.local_rows(program.rows, whole) * parts
    count *= sharding.row_parts(plan.machine.mesh)
    largest = need.largest
    items = {
      k: need.held.get(k, 0) + largest.get(k, 0) for k in (*need.held, *largest)
    }
    rows.append(
      (
        f'{program.stage} {program.step}'.strip(),
        gib(need.peak),
        fits.judge(need.peak, plan.hbm) if plan.hbm else '',
        *(
          gib(sum(items.get(k, 0) for k in names)) for names in COLUMNS.values()
        ),
        f'{count}x{program.rows.length}' if count else '',
      )
    )
  titles = ('stage, step', 'peak', 'fits', *COLUMNS, 'rows')
  return _table('', titles, rows)


def _steps(plan: Plan) -> Any:
  """Compute against communication."""
  titles = ('step', 'TFLOP', 'GiB moved', 'compute s', 'move s', 'bound by')
  rows = []
  for program, step in plan.steps:
    cells = (step.flops / 1e12, step.moved / GIB, step.compute, step.move)
    bound = 'compute' if step.compute > step.move else 'communication'
    name = f'{program.stage} {program.step}'
    rows.append((name, *(f'{x:.3g}' for x in cells), bound))
  return _table(f'one step on one {plan.chip}', titles, rows)


def _checked(plan: Plan) -> Any:
  """Estimates beside XLA's numbers."""
  titles = ('step', 'held', 'XLA', 'peak', 'XLA', 'error')
  rows = [
    (
      c.name,
      *map(gib, (c.arguments, c.xla_arguments, c.peak, c.xla_peak)),
      f'{c.peak / c.xla_peak - 1:+.1%}',
    )
    for c in plan.checked
  ]
  return _table('estimated, and compiled by XLA', titles, rows)


def _table(
  title: str, titles: Sequence[str], rows: Iterable[Sequence[str]]
) -> Any:
  """A table without empty columns; names of equal rows stand together."""
  from rich import box
  from rich import table
  from rich import text

  groups: dict[tuple[str, ...], dict[str, list[str]]] = {}
  for name, *cells in rows:
    stage, _, step = name.partition(' ')
    groups.setdefault(tuple(cells), {}).setdefault(stage, []).append(step)
  made = table.Table(
    title=title or None,
    title_justify='left',
    box=box.SIMPLE_HEAD,
    padding=0,
    show_edge=False,
  )
  made.add_column(titles[0], overflow='fold', min_width=12)
  used = [i for i in range(len(titles) - 1) if any(c[i] for c in groups)]
  for i in used:
    made.add_column(titles[i + 1], justify='right', no_wrap=True)
  for cells, names in groups.items():
    said = (
      f'{stage} {", ".join(steps)}'.strip() for stage, steps in names.items()
    )
    made.add_row(*map(text.Text, ('; '.join(said), *(cells[i] for i in used))))
  return made
