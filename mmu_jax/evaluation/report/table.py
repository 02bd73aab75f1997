"""Tables of results, for the terminal and in Markdown."""

from collections.abc import Iterable, Sequence
import math

from mmu_jax.errors import UserError
from mmu_jax.evaluation.report import scored
from mmu_jax.evaluation.report.layouts.columns import Column
from mmu_jax.evaluation.report.scored import Score

_P_VALUE = 'forget_quality'  # differs by orders of magnitude
_ONE_DECIMAL = ('factuality', 'nll')


def asked_by(results: Iterable[dict]) -> str:
  """How the questions were put.

  Example:
    >>> asked_by([{'protocol': 'fixed', 'shots': 0}])
    'protocol fixed, zero-shot'
  """
  found = dict.fromkeys((row['protocol'], row['shots']) for row in results)
  several = lambda n: f'shots of {n} {"person" if n == 1 else "people"}'
  return ' and '.join(
    f'protocol {name}, {several(shots) if shots else "zero-shot"}'
    for name, shots in found
  )


def number(value: float, metric: str = '') -> str:
  """Two decimals without the leading zero; a small p-value by its power.

  A value that is NaN is 'undefined'.

  Example:
    >>> number(0.05), number(1), number(-0.3), number(-0.001)
    ('.05', '1.00', '-.30', '.00')
    >>> number(3e-12), number(3e-12, 'forget_quality')
    ('.00', '3e-12')
  """
  if math.isnan(value):
    return 'undefined'
  if metric == _P_VALUE and 0 < value < 0.005:
    return f'{value:.0e}'
  if metric in _ONE_DECIMAL:
    return f'{value:.1f}'
  text = f'{round(value, 2) + 0.0:.2f}'  # + 0.0: no minus in front of zero
  return text.replace('0.', '.', 1) if abs(round(value, 2)) < 1 else text


def interval(score: Score, separator: str = ', ', metric: str = '') -> str:
  """``[low, high]``, or nothing where it is not known."""
  if score.low is None or score.high is None:
    return ''
  low, high = number(score.low, metric), number(score.high, metric)
  return f'[{low}{separator}{high}]'


def items(shown: dict[str, dict[str, Score]], key: str) -> str:
  """The number of items of a column: '144', '120-144', '' if not known."""
  known = {run[key].n for run in shown.values() if key in run} - {None}
  if not known:
    return ''
  low, high = min(known), max(known)
  return str(low) if low == high else f'{low}-{high}'


def results_table(results: Sequence[dict]):
  """The results as tables for the terminal, as wide as it.

  A cell holds the value and below it its 95 % interval, each in one line. A
  block of columns that is wider than the terminal becomes several tables, each
  with the names of the runs.

  Args:
    results: lines of ``results.jsonl``.

  Returns:
    An object that ``rich`` prints: tables of each block, one row per run, in
    order of appearance.
  """
  return _Fitted(results)


class _Fitted:
  """Tables that are made when the width of the terminal is known."""

  def __init__(self, results: Sequence[dict]):
    """See ``results_table``."""
    self._results = results

  def __rich_console__(self, console, options):
    """Yields the tables of every block, and the caption."""
    from rich.text import Text

    shown = scored.rows(self._results)
    marked = scored.unusable(self._results)
    blocks = scored.shown_blocks(self._results)
    for block in blocks:
      columns = [_lines(column, shown) for column in block.columns]
      parts = _split([_names(shown, marked), *columns], options.max_width)
      for i, part in enumerate(parts):
        if block.title:
          more = ', continued' if i else ''
          yield Text(f'\n{block.title}{more}', 'bold')
        yield _view(part, edge=not block.title)
    yield Text(('\n' if blocks[-1].title else '') + _caption(self._results))


Lines = list[list[str]]  # the lines of every cell of a column, header first


class Fitted:
  """Columns as tables of the terminal, as many as its width needs."""

  def __init__(self, columns: Sequence[Lines]):
    """Takes columns; the first one names the rows and stands in each table."""
    self._columns = columns

  def __rich_console__(self, console, options):
    """Yields the tables."""
    for part in _split(self._columns, options.max_width):
      yield _view(part, edge=True)


def _lines(column: Column, shown) -> Lines:
  """A column: one word of its title a line, then value and interval."""
  n = items(shown, column.key)
  # The numbers set the width of a column, not its title.
  header = f'{column.short} {column.wanted}'.split()
  cells = [_cell(run.get(column.key), column) for run in shown.values()]
  return [header + ([f'n={n}'] if n else []), *cells]


def _names(shown, marked) -> Lines:
  """The column of runs; a long name takes two lines, as a cell does."""
  names = [r.replace('_', '\n_', 1) if len(r) > 12 else r for r in shown]
  marks = [f' {scored.MARK}' if run in marked else '' for run in shown]
  return [['run'], *((n + m).split('\n') for n, m in zip(names, marks))]


def _width(column: Lines) -> int:
  """Signs of the longest line of a column."""
  return max(len(line) for cell in column for line in cell)


def _split(columns: Sequence[Lines], width: int) -> list[list[Lines]]:
  """Columns in groups that fit the width, each with the first of them."""
  first, *rest = columns
  parts: list[list[Lines]] = []
  for column in rest:
    part = [*(parts[-1] if parts else [first]), column]
    if parts and sum(_width(c) + 1 for c in part) + 1 <= width:
      parts[-1] = part
    else:
      parts.append([first, column])
  return parts


def _caption(results) -> str:
  """Explains the numbers, below the last table."""
  layout = scored.shown_layout(results)
  what = f'{layout.note or "value"}, below it the 95 % interval'
  said = '; '.join(filter(None, (asked_by(results), what, layout.derived)))
  notes = scored.unusable(results).values()
  return '\n'.join([said, *(f'{scored.MARK} {note}' for note in notes)])


def _view(columns: Sequence[Lines], edge: bool):
  """Some columns as a table of the terminal; intervals are dim."""
  from rich import box
  from rich.table import Table
  from rich.text import Text

  view = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False, show_edge=edge)
  for i, (header, *_) in enumerate(columns):
    view.add_column(
      Text('\n'.join(header)),
      justify='right' if i else 'left',
      min_width=_width(columns[i]),
    )
  for name, *scores in zip(*(cells for _, *cells in columns)):
    dim = ([cell[0], *((f'\n{x}', 'dim') for x in cell[1:])] for cell in scores)
    view.add_row(Text('\n'.join(name)), *(Text.assemble(*cell) for cell in dim))
  return view


def _cell(score: Score | None, column: Column) -> list[str]:
  """Value, and below it the interval; a dash where nothing was measured."""
  if score is None:
    return ['–']
  bounds = interval(score, ' ', column.metric)
  return [number(score.value, column.metric), *filter(None, [bounds])]


def _over_seeds(tables: Sequence[dict], run: str, column: Column) -> str:
  """'mean (lowest-highest)' over the seeds that have the cell."""
  values = [
    t[run][column.key].value for t in tables if column.key in t.get(run, {})
  ]
  if not values:
    return '–'
  if any(map(math.isnan, values)):
    return number(math.nan)
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
    A table in GitHub's Markdown for each block, one row per run, a line about
    the brackets, and one for each run that does not answer.

  Raises:
    ValueError: if there are not as many lists as seeds.
  """
  if seeds is not None and len(results) != len(seeds):
    raise UserError(
      'with seeds, results must be one list per seed: got '
      f'{len(results)} lists for {len(seeds)} seeds'
    )
  lists = results if seeds is not None else [results]
  tables = [scored.rows(r) for r in lists]
  everything = [row for r in lists for row in r]
  broken = [scored.unusable(r) for r in lists]
  marked = {run for found in broken for run in found}
  lines = []
  for block in scored.with_data(everything, tables):
    lines += [f'**{block.title}**', ''] if block.title else []
    lines += [*_markdown_block(block, tables, seeds, marked), '']
  spread = (
    '[95 % interval]'
    if seeds is None
    else (f'(lowest–highest) over seeds {", ".join(map(str, seeds))}')
  )
  layout = scored.shown_layout(everything)
  said = '; '.join(filter(None, (asked_by(everything), layout.note, spread)))
  derived = layout.derived[:1].upper() + layout.derived[1:]
  where = [''] if seeds is None else [f'seed {n}, ' for n in seeds]
  notes = [
    f'\n{scored.MARK} {place}{note}.'
    for place, found in zip(where, broken)
    for note in found.values()
  ]
  text = f'{said[:1].upper()}{said[1:]}. {derived}.'
  return '\n'.join([*lines, text, *notes])


def _markdown_block(block, tables, seeds, marked) -> list[str]:
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
    title = f'{name} {scored.MARK}' if name in marked else name
    lines.append(_line([title, *cells]))
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
