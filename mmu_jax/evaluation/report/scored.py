"""One row per model: its scores, and what follows from them.

A *result* is one line of ``results.jsonl``: a dict with ``run``, ``metric``,
``value``, ``n``, ``low`` and ``high``; with ``task`` and its meaning, as in
``data.dataset.Task``; with ``layout``, ``protocol`` and ``shots``.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
import math
from typing import NamedTuple

from mmu_jax.data.dataset import FORGET
from mmu_jax.data.dataset import KEEP
from mmu_jax.data.dataset import Task
from mmu_jax.errors import UserError
from mmu_jax.evaluation.report.layouts import columns as c
from mmu_jax.evaluation.report.layouts import find_layout

VANILLA, RETRAINED = 'vanilla', 'retrained'
_MEANING = ('split', 'modality', 'role', 'holdout', 'headline')  # of a task


class Score(NamedTuple):
  """A value, its interval and its number of items, where known.

  A value that is undefined, null in ``results.jsonl``, is NaN here.
  """

  value: float
  low: float | None = None
  high: float | None = None
  n: int | None = None

  @property
  def is_defined(self) -> bool:
    """Whether there is a value to compare or to draw."""
    return not math.isnan(self.value)


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
    value = math.nan if row['value'] is None else row['value']
    score = Score(value, row.get('low'), row.get('high'), row.get('n'))
    found.setdefault(row['run'], {})[row['task'], row['metric']] = score
  return found


def tasks_in(results: Iterable[dict]) -> dict[str, Task]:
  """The tasks that some results are scores of, by name and without rows.

  Raises:
    ValueError: if the results do not say what their tasks are.
  """
  found = {}
  for row in results:
    if not {*_MEANING} <= row.keys():
      raise UserError(
        f'a score must say of its task {", ".join(_MEANING)}; got {row}. '
        'Scores of an earlier version do not: run `mmu evaluate` again.'
      )
    meaning = {name: row[name] for name in _MEANING}
    found[row['task']] = Task(row['task'], (), **meaning)
  return found


def headlines(tasks: Mapping[str, Task], role: str) -> list[Task]:
  """The tasks of a role that stand for the rest."""
  return [t for t in tasks.values() if t.headline and t.role == role]


def _utility(run: dict[tuple, Score], kept: Sequence[Task]) -> float | None:
  """U: mean exact match of tasks to keep; None if a task is missing."""
  keys = [(task.name, 'exact_match') for task in kept]
  if not keys or not set(keys) <= set(run):
    return None
  return sum(run[key].value for key in keys) / len(keys)


def _distance(
  run: dict[tuple, Score],
  retrained: dict[tuple, Score] | None,
  metrics: Collection[str],
) -> float | None:
  """Mean absolute difference to the retrained model, in [0, 1].

  It counts too much forgotten and too much kept alike. None without a
  retrained model, or if the two were not asked the same tasks: a mean over
  some of them could not be compared with the other rows.
  """
  values, gold = (
    {key: x.value for key, x in scored.items() if key[1] in metrics}
    for scored in (run, retrained or {})
  )
  if not gold or set(values) != set(gold):
    return None
  return sum(abs(values[key] - gold[key]) for key in gold) / len(gold)


def shown_layout(results: Sequence[dict]) -> c.Layout:
  """Returns the layout of some results, fitted to the tasks they are about.

  Tasks that no column of the layout shows have a block of their own. Where a
  column that the summary speaks about has no task, another one about the same
  split with the same role and metric takes its place. And the role of a task
  says which way its scores are wanted to go.
  """
  layout, tasks = find_layout(results), tasks_in(results)
  blocks = [
    block._replace(
      columns=tuple(_by_role(x, layout, tasks) for x in block.columns)
    )
    for block in layout.blocks
  ]
  shown = {
    task.name for b in blocks for x in b.columns if (task := x.of(tasks))
  }
  others = tuple(
    c.Column(
      f'{task.name}/{metric}',
      f'{task.name}, {metric}',
      f'{task.name} {metric}'.replace('_', ' '),
      c.DOWN if task.role == FORGET else c.UP,
      f'A task of its own, about the split {task.split!r}.',
      c.About(task.split, task.modality, task.holdout, task.name),
      metric,
    )
    for task in tasks.values()
    for metric in dict.fromkeys(row['metric'] for row in results)
    if task.name not in shown and metric in layout.compared
  )
  if others:
    blocks.append(c.ColumnBlock('other tasks', '', others))
  columns = [x for block in blocks for x in block.columns]
  forget = _fitted(layout.forget, columns, tasks)
  text = tuple(
    fitted
    for group in layout.text
    if (fitted := _fitted(group, columns, tasks))
  )
  usual = layout.text[0][0].key
  kept = [
    (text[0][0].key, text[0][0].title)
    if text and key == usual
    else (key, title)
    for key, title in layout.kept
  ]
  return layout._replace(
    blocks=tuple(blocks), forget=forget, text=text, kept=tuple(kept)
  )


def _by_role(column: c.Column, layout: c.Layout, tasks) -> c.Column:
  """A column with the direction that the role of its task asks for."""
  task = column.of(tasks)
  if not task or column.metric not in layout.compared:
    return column
  return column._replace(wanted=c.DOWN if task.role == FORGET else c.UP)


def _fitted(
  told: Sequence[c.Told], columns: Sequence[c.Column], tasks
) -> tuple[c.Told, ...]:
  """Columns to speak about; where they have no task, others about the same."""
  found = [_told(x, columns, tasks) for x in told]
  fitted = {x.key: x for x in found if x}
  if not fitted:  # some other score about the same
    x = next(iter(_about_the_same(told[0], columns, tasks)), None)
    if x:
      words = x.title if x.right else f'in {x.title}'
      fitted[x.key] = told[0]._replace(
        key=x.key,
        title=x.title,
        words=words,
        about=_asked_about(x, told[0]),
        right=x.right,
        chance=0.0,
      )
  return tuple(fitted.values())


def _told(told: c.Told, columns: Sequence[c.Column], tasks) -> c.Told | None:
  """A column of the summary, or the same metric about other questions."""
  usual = next(x for x in columns if x.key == told.key)
  if usual.of(tasks):
    return told
  same = _about_the_same(told, columns, tasks)
  x = next((x for x in same if x.metric == usual.metric), None)
  if not x:
    return None
  about = _asked_about(x, told)
  return told._replace(key=x.key, title=x.title, about=about)


def _about_the_same(told, columns: Sequence[c.Column], tasks) -> list[c.Column]:
  """The columns about the same split, with the same role."""
  usual = next(x for x in columns if x.key == told.key)
  role = FORGET if usual.wanted == c.DOWN else KEEP
  split = usual.about.split if usual.about else FORGET
  return [
    x
    for x in columns
    if (task := x.of(tasks)) and (task.split, task.role) == (split, role)
  ]


def _asked_about(column: c.Column, told: c.Told) -> str:
  """Whom the questions of another column are about."""
  if column.wanted == c.UP:
    return told.about
  named = column.about and column.about.name
  return f'questions of {named}' if named else 'pictures of them'


def rows(results: Sequence[dict]) -> dict[str, dict[str, Score]]:
  """The cells of a table: ``{run: {column key: Score}}``, gaps left out."""
  layout, found = shown_layout(results), scores(results)
  tasks = tasks_in(results)
  table = {}
  for name, run in found.items():
    derived = {
      'utility': _utility(run, headlines(tasks, KEEP)),
      'distance': _distance(run, found.get(RETRAINED), layout.compared),
    }
    cells = {
      column.key: _cell(column, run, tasks, derived)
      for block in layout.blocks
      for column in block.columns
    }
    table[name] = {key: cell for key, cell in cells.items() if cell}
  return table


def defined(
  table: Mapping[str, Mapping[str, Score]],
) -> dict[str, dict[str, Score]]:
  """Returns a table without the cells whose value is undefined."""
  return {
    run: {key: cell for key, cell in cells.items() if cell.is_defined}
    for run, cells in table.items()
  }


MARK = '†'  # behind the name of a run that does not answer
_MOST_UNUSABLE = 0.5  # share of the answers to one task


def unusable(results: Sequence[dict]) -> dict[str, str]:
  """Says of runs that they do not answer, so that no score of theirs counts.

  A run is named if at least half of its generated answers to a task are empty
  or gibberish, by the metrics of these names. A low forget score beside them
  is a broken model and not a forgotten person.

  Returns:
    Run -> sentence for a footnote, with the worst task and its share.
  """
  shares: dict[tuple, float] = {}
  for row in results:
    kind, _, what = row['metric'].rpartition('_')
    if what in ('empty', 'gibberish') and row['value'] is not None:
      key = row['run'], row['task'], kind
      # A later score replaces an earlier one; the two share no answer.
      shares[*key, what] = row['value']
  worst: dict[str, tuple[float, str]] = {}
  for run, task, kind, _ in shares:
    both = [shares.get((run, task, kind, w), 0) for w in ('empty', 'gibberish')]
    worst[run] = max(worst.get(run, (0.0, '')), (sum(both), task))
  return {
    run: f'{run}: {100 * share:.0f} % of the answers to {task} are empty or '
    'gibberish, so its scores say that the model is broken, not that it forgot'
    for run, (share, task) in worst.items()
    if share >= _MOST_UNUSABLE
  }


def _cell(column: c.Column, run, tasks, derived) -> Score | None:
  """The score of one run in a column."""
  if column.about is None:
    value = derived[column.key]
    return None if value is None else Score(value)
  task = column.of(tasks)
  return run.get((task.name, column.metric)) if task else None


def of_each(
  results: Sequence[dict], runs: Sequence[str]
) -> dict[str, dict[str, dict[str, float]]]:
  """The scores of single people or things, worst first.

  The worst is the one of whom most is left in the first of ``runs``: by the
  highest share of right answers, then by choices, then by likeness.

  Args:
    results: lines of ``results.jsonl``.
    runs: names of models, the one to judge first.

  Returns:
    Name -> run -> key of a column of ``Layout.forget`` -> score.
  """
  layout, tasks = shown_layout(results), tasks_in(results)
  columns = {x.key: x for block in layout.blocks for x in block.columns}
  found: dict[str, dict[str, dict[str, float]]] = {}
  for told in layout.forget:
    task = columns[told.key].of(tasks)
    for row in results:
      which = row['run'], row['task'], row['metric']
      if task and which[0] in runs:
        if which[1:] == (task.name, columns[told.key].metric):
          for name, (value, _) in row.get('entities', {}).items():
            found.setdefault(name, {}).setdefault(which[0], {})[told.key] = (
              value
            )
  kinds = (
    [t.key for t in layout.forget if t.right and not t.chance],
    [t.key for t in layout.forget if t.chance],
    [t.key for t in layout.forget if not t.right],
  )

  def left(name: str) -> list[float]:
    of = found[name].get(runs[0], {})
    return [
      -max((of.get(key, -1.0) for key in keys), default=0) for keys in kinds
    ]

  return {name: found[name] for name in sorted(found, key=left)}


def shown_blocks(results: Sequence[dict]) -> list[c.ColumnBlock]:
  """The blocks of the layout, without the columns that no run has."""
  return with_data(results, [rows(results)])


def with_data(
  results: Sequence[dict], tables: Sequence[Mapping[str, Mapping[str, Score]]]
) -> list[c.ColumnBlock]:
  """The blocks of the layout, without the columns that no table has.

  Args:
    results: lines of ``results.jsonl``.
    tables: rows of one or several tables of them.
  """
  held = {key for table in tables for cells in table.values() for key in cells}
  blocks = [
    block._replace(columns=tuple(x for x in block.columns if x.key in held))
    for block in shown_layout(results).blocks
  ]
  return [block for block in blocks if block.columns]
