"""One row per model: the scores, what follows from them, and two printers.

A *result* is one line of ``results.jsonl``: a dict with ``run``, ``task``,
``metric``, ``value`` and, where known, ``n``, ``low``, ``high``.
"""

from collections.abc import Sequence
from typing import NamedTuple

VANILLA, RETRAINED = 'vanilla', 'retrained'
DOWN, UP = '↓', '↑'
UTILITY_TASKS = ('forget_qa', 'retain_vqa', 'retain_qa', 'real_vqa')


class Score(NamedTuple):
  """A value in [0, 1], its interval and its number of items, where known."""

  value: float
  low: float | None = None
  high: float | None = None
  n: int | None = None


class Column(NamedTuple):
  """What one column shows, and how to read it."""

  key: str
  title: str
  short: str  # for terminals: words of at most six letters
  wanted: str
  meaning: str
  task: str | None = None  # None: derived from the other scores
  metric: str = 'exact_match'


COLUMNS = (
    Column(
        'forget_vqa', 'forget VQA, training images', 'forget VQA train', DOWN,
        'Questions about the pictures of the forgotten people that the model '
        'was trained on.', 'forget_vqa',
    ),
    Column(
        'holdout', 'forget VQA, held-out images', 'forget VQA new', DOWN,
        'The same people in pictures that no model has seen: whether the '
        'person is forgotten, and not only the training pictures.',
        'forget_vqa_holdout',
    ),
    Column(
        'choice', 'held-out, choice of 4', 'new, of four', DOWN,
        'The right one among four offered answers about held-out pictures; '
        'chance is .25. Above chance the picture still helps, so something '
        'is left; far below chance the model shuns the right answer, which '
        'is a trace as well.', 'forget_vqa_holdout', 'choice',
    ),
    Column(
        'forget_qa', 'forget QA', 'forget QA', UP,
        'Questions in text that name the forgotten people: this knowledge '
        'is to stay.', 'forget_qa',
    ),
    Column(
        'retain_vqa', 'retain VQA', 'retain VQA', UP,
        'Questions about pictures of everybody else.', 'retain_vqa',
    ),
    Column(
        'retain_qa', 'retain QA', 'retain QA', UP,
        'Questions in text about everybody else.', 'retain_qa',
    ),
    Column(
        'real_vqa', 'real-world VQA', 'real VQA', UP,
        'Questions about other pictures: the general ability to see.',
        'real_vqa',
    ),
    Column(
        'real_qa', 'real-world QA', 'real QA', UP,
        'Questions about plain facts in text that every model was trained on: '
        'whether they are kept.', 'real_qa',
    ),
    Column(
        'utility', 'U', 'U', UP,
        'Utility, all that is to be kept in one number: the mean of forget '
        'QA, retain VQA, retain QA and real-world VQA.',
    ),
    Column(
        'distance', 'distance to retrained', 'dist.', DOWN,
        'The mean absolute difference to the exact match of the retrained '
        'model over all tasks; 0 is the same behaviour.',
    ),
)


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
  return {
      task: score.value
      for (task, metric), score in run.items()
      # Settings were chosen on these: they are no part of what is reported.
      if metric == 'exact_match' and not task.startswith('validation_')
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
    run: dict[tuple, Score], retrained: dict[tuple, Score] | None
) -> float | None:
  """Mean absolute difference of exact match to the retrained model, in [0, 1].

  It counts too much forgotten and too much kept alike. None without a
  retrained model, or if the two were not asked the same tasks: a mean over
  some of them could not be compared with the other rows.
  """
  if not retrained:
    return None
  values, gold = exact_matches(run), exact_matches(retrained)
  if not gold or set(values) != set(gold):
    return None
  return sum(abs(values[task] - gold[task]) for task in gold) / len(gold)


def rows(results: Sequence[dict]) -> dict[str, dict[str, Score]]:
  """What the table shows: ``{run: {column key: Score}}``, gaps left out."""
  found = scores(results)
  table = {}
  for name, run in found.items():
    derived = {
        'utility': utility(run),
        'distance': distance(run, found.get(RETRAINED)),
    }
    cells = {c.key: run.get((c.task, c.metric)) for c in COLUMNS if c.task}
    cells |= {k: Score(v) for k, v in derived.items() if v is not None}
    table[name] = {key: cell for key, cell in cells.items() if cell}
  return table


def number(value: float) -> str:
  """Two decimals without the leading zero.

  Example:
    >>> number(0.05), number(1), number(-0.3), number(-0.001)
    ('.05', '1.00', '-.30', '.00')
  """
  text = f'{round(value, 2) + 0.0:.2f}'  # + 0.0: no minus in front of zero
  return text.replace('0.', '.', 1) if abs(round(value, 2)) < 1 else text


def interval(score: Score, separator: str = ', ') -> str:
  """``[low, high]``, or nothing where it is not known."""
  if score.low is None or score.high is None:
    return ''
  return f'[{number(score.low)}{separator}{number(score.high)}]'


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
    A ``rich.table.Table``: one row per run, in order of appearance.
  """
  from rich import box
  from rich.table import Table

  table = rows(results)
  below = ', below it the 95 % interval' if intervals else ''
  view = Table(
      box=box.SIMPLE_HEAD, padding=0, pad_edge=False,
      caption=f'exact match unless said{below}; '
      'U: mean of forget QA, retain VQA, retain QA, real VQA; dist.: mean '
      'absolute difference of exact match to the retrained model, all tasks',
      caption_justify='left',
  )
  view.add_column('run', overflow='fold', vertical='top')
  for column in COLUMNS:
    n = items(table, column.key)
    # One word a line: the numbers set the width of a column, not its title.
    words = f'{column.short} {column.wanted}'.replace(' ', '\n')
    if n and intervals:
      words += f'\nn={n}'
    view.add_column(words, justify='right', overflow='fold')
  for run, cells in table.items():
    name = run.replace('_', '\n_', 1) if intervals and len(run) > 12 else run
    view.add_row(name, *(_cell(cells.get(c.key), intervals) for c in COLUMNS))
  return view


def _cell(score: Score | None, intervals: bool) -> str:
  """Value, and dim below it the interval; a dash where nothing was measured."""
  if score is None:
    return '–'
  bounds = interval(score, ' ').replace('[', r'\[') if intervals else ''
  return number(score.value) + (f'\n[dim]{bounds}[/dim]' if bounds else '')


def _over_seeds(tables: Sequence[dict], run: str, key: str) -> str:
  """'mean (lowest-highest)' over the seeds that have the cell."""
  values = [t[run][key].value for t in tables if key in t.get(run, {})]
  if not values:
    return '–'
  mean = number(sum(values) / len(values))
  text = f'{mean} ({number(min(values))}–{number(max(values))})'
  # A mean over fewer seeds than the header says is marked.
  missing = len(tables) - len(values)
  return f'{text} {len(values)} seeds' if missing else text


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
    A table in GitHub's Markdown, one row per run, and a line that says what
    the brackets are.

  Raises:
    ValueError: if there are not as many lists as seeds.

  Example:
    >>> line = {'run': 'ga', 'task': 'forget_qa', 'metric': 'exact_match'}
    >>> text = markdown_table([line | {'value': 0.5, 'low': 0.4, 'high': 0.6}])
    >>> '| ga | – | – | – | .50 [.40, .60] |' in text
    True
  """
  if seeds is not None and len(results) != len(seeds):
    raise ValueError(
        'with seeds, results must be one list per seed: got '
        f'{len(results)} lists for {len(seeds)} seeds'
    )
  tables = [rows(r) for r in results] if seeds is not None else [rows(results)]
  names = list(dict.fromkeys(run for table in tables for run in table))
  titles = []
  for column in COLUMNS:
    known = dict.fromkeys(items(t, column.key) for t in tables)
    n = ', '.join(filter(None, known))
    title = f'{column.title} {column.wanted}'
    titles.append(f'{title} (n={n})' if n else title)
  lines = [_line(['run', *titles]), _line(['---'] + ['---:'] * len(COLUMNS))]
  for name in names:
    if seeds is not None:
      cells = [_over_seeds(tables, name, c.key) for c in COLUMNS]
    else:
      found = [tables[0][name].get(c.key) for c in COLUMNS]
      cells = [f'{number(s.value)} {interval(s)}' if s else '–' for s in found]
    lines.append(_line([name, *cells]))
  spread = '[95 % interval]' if seeds is None else (
      f'(lowest–highest) over seeds {", ".join(map(str, seeds))}'
  )
  lines += ['', f'Exact match unless said; {spread}. U: mean of forget QA, '
            'retain VQA, retain QA and real-world VQA. Distance: mean absolute '
            'difference of exact match to the retrained model over all tasks.']
  return '\n'.join(lines)


def _line(cells: Sequence[str]) -> str:
  """One row of a Markdown table."""
  return '| ' + ' | '.join(cell.strip() for cell in cells) + ' |'
