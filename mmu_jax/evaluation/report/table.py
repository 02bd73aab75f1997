"""One row per model: the scores, what follows from them, and two printers.

A *result* is one line of ``results.jsonl``: a dict with ``run``, ``task``,
``metric``, ``value`` and, where known, ``n``, ``low``, ``high``, ``protocol``
and ``shots``. What is shown of them is a layout: see ``columns``.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from mmu_jax.errors import UserError
from mmu_jax.evaluation.report import layouts
from mmu_jax.evaluation.report.columns import Block
from mmu_jax.evaluation.report.columns import Column

VANILLA, RETRAINED = 'vanilla', 'retrained'
UTILITY_TASKS = ('forget_qa', 'retain_vqa', 'retain_qa', 'real_vqa')
P_VALUE = 'forget_quality'  # differs by orders of magnitude
OUT_OF_TEN = 'factuality'


class Score(NamedTuple):
  """A value, its interval and its number of items, where known."""

  value: float
  low: float | None = None
  high: float | None = None
  n: int | None = None


def scores(results: Sequence[dict]) -> dict[str, dict[tuple, Score]]:
  """Results as ``{run: {(task, metric): Score}}``, runs as they appeared.

  A score that occurs again (a later step, a repeated evaluation) replaces
  the earlier one: the file is a log, and its end is what holds.

  Example:
    >>> line = {'run': 'ga', 'task': 'forget_qa', 'metric': 'exact_match'}
    >>> found = scores([line | {'value': 0.5}, line | {'value': 0.25}])
    >>> found['ga']['forget_qa', 'exact_match'].value
    0.25
  """
  found = {}
  for row in results:
    score = Score(row['value'], row.get('low'), row.get('high'), row.get('n'))
    found.setdefault(row['run'], {})[row['task'], row['metric']] = score
  return found


def exact_matches(run: dict[tuple, Score]) -> dict[str, float]:
  """The exact match of every task of one run, validation left out."""
  return {task: v for (task, _), v in _reported(run, ('exact_match',)).items()}


def _reported(run, metrics: Collection[str]) -> dict[tuple, float]:
  """The values of some metrics in every task, validation left out."""
  return {
    (task, metric): score.value
    for (task, metric), score in run.items()
    # Settings were chosen on these: they are no part of what is reported.
    if metric in metrics and not task.startswith('validation_')
  }


def utility(run: dict[tuple, Score]) -> float | None:
  """U: mean exact match of what is to be kept; None if a task is missing.

  Forget VQA is not in it (that is to go), nor real-world QA, which hardly
  any method changes.
  """
  values = exact_matches(run)
  if not set(UTILITY_TASKS) <= set(values):
    return None
  return sum(values[task] for task in UTILITY_TASKS) / len(UTILITY_TASKS)


def distance(
  run: dict[tuple, Score],
  retrained: dict[tuple, Score] | None,
  metrics: Collection[str] = ('exact_match',),
) -> float | None:
  """Mean absolute difference to the retrained model, in [0, 1].

  It counts too much forgotten and too much kept alike. None without a
  retrained model, or if the two were not asked the same tasks: a mean over
  some of them could not be compared with the other rows.

  Args:
    run: scores of a run.
    retrained: those of the retrained model.
    metrics: what is compared, in every task that has it.
  """
  if not retrained:
    return None
  values, gold = _reported(run, metrics), _reported(retrained, metrics)
  if not gold or set(values) != set(gold):
    return None
  return sum(abs(values[key] - gold[key]) for key in gold) / len(gold)


def rows(results: Sequence[dict]) -> dict[str, dict[str, Score]]:
  """What the table shows: ``{run: {column key: Score}}``, gaps left out."""
  layout, found = layouts.layout_of(results), scores(results)
  columns = [c for block in layout.blocks for c in block.columns]
  table = {}
  for name, run in found.items():
    derived = {
      'utility': utility(run),
      'distance': distance(run, found.get(RETRAINED), layout.compared),
    }
    cells = {c.key: run.get((c.task, c.metric)) for c in columns if c.task}
    cells |= {
      c.key: Score(derived[c.key])
      for c in columns
      if not c.task and derived[c.key] is not None
    }
    table[name] = {key: cell for key, cell in cells.items() if cell}
  return table


def shown_blocks(results: Sequence[dict]) -> list[Block]:
  """The blocks of the layout, without the columns that no run has."""
  return _with_data(results, [rows(results)])


def _with_data(results, tables) -> list[Block]:
  """The blocks of a layout, without the columns that no table has."""
  held = {key for table in tables for cells in table.values() for key in cells}
  blocks = [
    block._replace(columns=tuple(c for c in block.columns if c.key in held))
    for block in layouts.layout_of(results).blocks
  ]
  return [block for block in blocks if block.columns]


def asked_by(results: Iterable[dict]) -> str:
  """How the questions were put; '' where no score says it.

  Example:
    >>> asked_by([{'protocol': 'fixed', 'shots': 0}])
    'protocol fixed, zero-shot'
  """
  found = dict.fromkeys(
    (row['protocol'], row.get('shots', 0))
    for row in results
    if 'protocol' in row
  )
  several = lambda n: f'shots of {n} {"person" if n == 1 else "people"}'
  return ' and '.join(
    f'protocol {name}, {several(shots) if shots else "zero-shot"}'
    for name, shots in found
  )


def number(value: float, metric: str = '') -> str:
  """Two decimals without the leading zero; a small p-value by its power.

  Example:
    >>> number(0.05), number(1), number(-0.3), number(-0.001)
    ('.05', '1.00', '-.30', '.00')
    >>> number(3e-12), number(3e-12, 'forget_quality')
    ('.00', '3e-12')
  """
  if metric == P_VALUE and 0 < value < 0.005:
    return f'{value:.0e}'
  if metric == OUT_OF_TEN:
    return f'{value:.1f}'
  text = f'{round(value, 2) + 0.0:.2f}'  # + 0.0: no minus in front of zero
  return text.replace('0.', '.', 1) if abs(round(value, 2)) < 1 else text


def interval(score: Score, separator: str = ', ', metric: str = '') -> str:
  """``[low, high]``, or nothing where it is not known."""
  if score.low is None or score.high is None:
    return ''
  low, high = number(score.low, metric), number(score.high, metric)
  return f'[{low}{separator}{high}]'


def items(table: dict[str, dict[str, Score]], key: str) -> str:
  """The number of items of a column: '144', '120-144', '' if not known."""
  known = {run[key].n for run in table.values() if key in run} - {None}
  if not known:
    return ''
  low, high = min(known), max(known)
  return str(low) if low == high else f'{low}-{high}'


def results_table(results: Sequence[dict], intervals: bool = True):
  """The results as a table for the terminal.

  A cell holds the value and below it its 95 % interval. At 140 columns
  nothing is wrapped; at 80 the interval breaks between its bounds; below
  that, leave the intervals out.

  Args:
    results: lines of ``results.jsonl``.
    intervals: whether to show them, and the numbers of items.

  Returns:
    What ``rich`` prints: a table for each block, one row per run, in order of
    appearance.
  """
  from rich.console import Group

  table, blocks = rows(results), shown_blocks(results)
  views = [_view(block, table, intervals) for block in blocks]
  if views:
    views[-1].caption = _caption(results, intervals)
    views[-1].caption_justify = 'left'
  return views[0] if len(views) == 1 else Group(*views)


def _caption(results, intervals) -> str:
  """What the numbers are, below the last table."""
  layout = layouts.layout_of(results)
  below = 'below it the 95 % interval' if intervals else ''
  what = ', '.join(filter(None, (layout.note or 'value', below)))
  asked = asked_by(results)
  return '; '.join(filter(None, (asked, what, layout.derived)))


def _view(block: Block, table, intervals: bool):
  """One block for the terminal."""
  from rich import box
  from rich.table import Table

  view = Table(
    box=box.SIMPLE_HEAD,
    padding=0,
    pad_edge=False,
    title=f'\n{block.title}' if block.title else None,
    title_justify='left',
    title_style='bold',
    show_edge=not block.title,
  )
  view.add_column('run', no_wrap=True, vertical='top')
  for column in block.columns:
    n = items(table, column.key)
    # One word a line: the numbers set the width of a column, not its title.
    words = f'{column.short} {column.wanted}'.replace(' ', '\n')
    if n and intervals:
      words += f'\nn={n}'
    view.add_column(words, justify='right', overflow='fold')
  for run, cells in table.items():
    name = run.replace('_', '\n_', 1) if intervals and len(run) > 12 else run
    view.add_row(
      name, *(_cell(cells.get(c.key), c, intervals) for c in block.columns)
    )
  return view


def _cell(score: Score | None, column: Column, intervals: bool) -> str:
  """Value, and dim below it the interval; a dash where nothing was measured."""
  if score is None:
    return '–'
  bounds = interval(score, ' ', column.metric) if intervals else ''
  below = '\n[dim]{}[/dim]'.format(bounds.replace('[', r'\[')) if bounds else ''
  return number(score.value, column.metric) + below


def _over_seeds(tables: Sequence[dict], run: str, column: Column) -> str:
  """'mean (lowest-highest)' over the seeds that have the cell."""
  values = [
    t[run][column.key].value for t in tables if column.key in t.get(run, {})
  ]
  if not values:
    return '–'
  text = lambda value: number(value, column.metric)
  mean = text(sum(values) / len(values))
  cell = f'{mean} ({text(min(values))}–{text(max(values))})'
  # A mean over fewer seeds than the header says is marked.
  missing = len(tables) - len(values)
  return f'{cell} {len(values)} seeds' if missing else cell


def markdown_table(
  results: Sequence, seeds: Sequence[int] | None = None
) -> str:
  """The results as a Markdown table, of one run of everything or of several.

  Args:
    results: lines of one ``results.jsonl``; with ``seeds``, one such list per
      seed, in the order of ``seeds``.
    seeds: the seeds, if several. A cell is then the mean over the seeds with
      the lowest and the highest value in brackets: for three seeds a standard
      deviation would promise more than it knows.

  Returns:
    A table in GitHub's Markdown for each block, one row per run, and a line
    that says what the brackets are.

  Raises:
    ValueError: if there are not as many lists as seeds.

  Example:
    >>> line = {'run': 'ga', 'task': 'forget_qa', 'metric': 'exact_match'}
    >>> text = markdown_table([line | {'value': 0.5, 'low': 0.4, 'high': 0.6}])
    >>> '| ga | .50 [.40, .60] |' in text
    True
  """
  if seeds is not None and len(results) != len(seeds):
    raise UserError(
      'with seeds, results must be one list per seed: got '
      f'{len(results)} lists for {len(seeds)} seeds'
    )
  lists = results if seeds is not None else [results]
  tables = [rows(r) for r in lists]
  everything = [row for r in lists for row in r]
  lines = []
  for block in _with_data(everything, tables):
    lines += [f'**{block.title}**', ''] if block.title else []
    lines += [*_markdown_block(block, tables, seeds), '']
  spread = (
    '[95 % interval]'
    if seeds is None
    else (f'(lowest–highest) over seeds {", ".join(map(str, seeds))}')
  )
  layout = layouts.layout_of(everything)
  said = '; '.join(filter(None, (asked_by(everything), layout.note, spread)))
  derived = layout.derived[:1].upper() + layout.derived[1:]
  return '\n'.join([*lines, f'{said[:1].upper()}{said[1:]}. {derived}.'])


def _markdown_block(block, tables, seeds) -> list[str]:
  """The lines of one block."""
  titles = []
  for column in block.columns:
    known = dict.fromkeys(items(t, column.key) for t in tables)
    n = ', '.join(filter(None, known))
    title = f'{column.title} {column.wanted}'
    titles.append(f'{title} (n={n})' if n else title)
  lines = [_line(['run', *titles]), _line(['---'] + ['---:'] * len(titles))]
  for name in dict.fromkeys(run for table in tables for run in table):
    if seeds is not None:
      cells = [_over_seeds(tables, name, c) for c in block.columns]
    else:
      cells = [
        _markdown_cell(tables[0][name].get(c.key), c) for c in block.columns
      ]
    lines.append(_line([name, *cells]))
  return lines


def _markdown_cell(score: Score | None, column: Column) -> str:
  """Value and interval; a dash where nothing was measured."""
  if score is None:
    return '–'
  value = number(score.value, column.metric)
  return f'{value} {interval(score, metric=column.metric)}'


def _line(cells: Sequence[str]) -> str:
  """One row of a Markdown table."""
  return '| ' + ' | '.join(cell.strip() for cell in cells) + ' |'
