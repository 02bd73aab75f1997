"""Tables of a plan: the verdict first, every number in 80 columns."""

from collections.abc import Iterable, Sequence
from typing import Any

from mmu_jax.planning import fits
from mmu_jax.planning.fits import MemoryPlan
from mmu_jax.planning.memory import mesh_line

GIB = 2**30
# Columns of the table of stages: title -> items of a need.
COLUMNS = {
  'param': ('parameters',),
  'momt.': ('moments',),
  'imp.': ('importances',),
  'mask': ('mask', 'ties and mask'),
  'ref.': ('reference',),
  'grads': ('gradients',),
  'merged': ('adapters', 'merged weights'),
  'act.': ('activations', 'cache'),
  'work': ('batch', 'logits', 'weights at work', 'one leaf at work'),
}
LEGEND = (
  'GiB per device; allow 10 % above an estimate. Held, and exact: param, momt. '
  '(moments), imp. (importances), mask, ref. (reference). In the phase that '
  'needs most: grads (gradients, updates), act. (activations kept for '
  'backward, one layer at work, or a cache), work (batch, logits, gathered '
  'weights), merged (adapters, and weights merged with them). rows: as '
  'computed, padding included, x tokens.'
)
CHECKED = (
  'XLA compiles for simulated CPUs, where it computes bfloat16 in float32 and '
  'sums whole gradients. These estimates are for that, those above for '
  'accelerators.'
)
MOVED = 'Seconds at the figures of the vendor, if nothing else counted.'


def plan_tables(plan: MemoryPlan) -> list[Any]:
  """Returns the rich tables and texts that ``mmu plan`` prints."""
  from rich import text

  rows = []
  for p, need in plan.stages:
    items = [*need.held.items(), *need.largest.items()]
    cells = [gib(sum(n for k, n in items if k in c)) for c in COLUMNS.values()]
    batches = [p._replace(rows=r) for r in (p.rows, p.beside) if r.count]
    count = plan.setting.total_rows
    size = ', '.join(f'{count(b)}x{b.rows.length}' for b in batches)
    rows.append((p.name, gib(need.peak), *cells, size))
  titles = 'stage, step', 'peak', *COLUMNS, 'rows'
  parts = [verdict(plan), '', *plan.notes, '', make_table('', titles, rows)]
  parts += ['', LEGEND]
  if plan.levers:
    fit = lambda n: fits.fit_of(n, plan.hbm)
    rows = [(k, gib(n), fit(n)) for k, n in plan.levers.items()]
    parts += [
      '',
      make_table('levers on this mesh', ('set', 'peak', 'fits'), rows),
    ]
  if plan.steps:
    titles = 'step', 'TFLOP', 'GiB moved', 'compute s', 'move s', 'bound by'
    rows = [
      (
        p.name,
        *(f'{x:.3g}' for x in (s.flops / 1e12, s.moved / GIB, *s[2:])),
        'compute' if s.compute > s.move else 'communication',
      )
      for p, s in plan.steps
    ]
    parts += ['', make_table('one step on one device', titles, rows), '', MOVED]
  if plan.checked:
    titles = 'step', 'held', 'XLA', 'peak', 'XLA', 'error'
    rows = [
      (
        c.name,
        *map(gib, (c.arguments, c.xla_arguments, c.peak, c.xla_peak)),
        f'{c.peak / c.xla_peak - 1:+.1%}',
      )
      for c in plan.checked
    ]
    named = 'estimated, and compiled by XLA'
    parts += ['', make_table(named, titles, rows), '', CHECKED]
  return [text.Text(p) if isinstance(p, str) else p for p in parts]


def verdict(plan: MemoryPlan) -> str:
  """Returns whether a job fits, where it would, and its peak; in two lines."""
  (program, need), mesh = plan.worst, mesh_line(plan.setting.mesh)
  size = gib(need.peak) + (f' of {gib(plan.hbm)}' if plan.hbm else '')
  peak = f'The peak is {size} GiB per device, in {program.name}'
  if not plan.hbm:
    return f'{peak}, on {mesh}. Give --hbm=16GiB to see what fits.'
  none = f'no mesh of up to {fits.MOST:,} devices'
  others = {
    'yes': f'; {plan.smallest} is enough' * (plan.smallest not in ('', mesh)),
    'tight': f', just; {plan.smallest or none} has 10 % to spare',
    'no': f'; {plan.smallest or none} does',
  }
  answer = 'Does not fit' if plan.fit == 'no' else 'Fits'
  return f'{answer} on {mesh}{others[plan.fit]}.\n{peak}.'


def gib(size: float) -> str:
  """Returns bytes in GiB, '' for almost none.

  Example:
    >>> [gib(n * 2**30) for n in (0.0001, 0.054, 1.5, 1234.5)]
    ['', '0.054', '1.50', '1,234']
  """
  n = size / GIB
  digits = 3 if n < 0.9995 else 2 if n < 99.995 else 0
  return '' if n < 0.0005 else f'{n:,.{digits}f}'


def make_table(
  title: str, titles: Sequence[str], rows: Iterable[Sequence[str]]
) -> Any:
  """Returns a rich table without empty columns.

  Args:
    title: line above it, '' for none.
    titles: headers of the columns.
    rows: cells, of which the first is a name; equal rows become one.
  """
  from rich import table as rich_table
  from rich import text
  import rich.box

  groups: dict[tuple[str, ...], list[str]] = {}
  for name, *cells in rows:
    groups.setdefault(tuple(cells), []).append(name)
  made = rich_table.Table(
    title=title or None,
    title_justify='left',
    box=rich.box.SIMPLE_HEAD,
    padding=0,
    show_edge=False,
  )
  made.add_column(titles[0], overflow='fold', min_width=18)
  used = [i for i in range(len(titles) - 1) if any(c[i] for c in groups)]
  for i in used:
    made.add_column(titles[i + 1], justify='right', no_wrap=True)
  for cells, names in groups.items():
    shown = ', '.join(names), *(cells[i] for i in used)
    made.add_row(*map(text.Text, shown))
  return made
