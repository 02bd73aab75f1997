"""One row per model: its scores, and what follows from them.

A *result* is one line of ``results.jsonl``: a dict with ``run``, ``metric``,
``value``, ``n``, ``low`` and ``high``; with ``task`` and what its score means,
see ``data.dataset.Task``; with ``layout``, ``protocol`` and ``shots``.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from mmu_jax.data.dataset import KEEP
from mmu_jax.data.dataset import Task
from mmu_jax.errors import UserError
from mmu_jax.evaluation.report.layouts import find_layout
from mmu_jax.evaluation.report.layouts.columns import Column
from mmu_jax.evaluation.report.layouts.columns import ColumnBlock

VANILLA, RETRAINED = 'vanilla', 'retrained'
_MEANING = ('split', 'modality', 'role', 'holdout', 'headline')  # of a task


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


def tasks_of(results: Iterable[dict]) -> dict[str, Task]:
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


def _values(run: dict[tuple, Score], metrics: Collection[str]):
  """The values of some metrics in every task."""
  return {key: x.value for key, x in run.items() if key[1] in metrics}


def utility(run: dict[tuple, Score], kept: Sequence[Task]) -> float | None:
  """U: mean exact match of what is to be kept; None if a task is missing.

  Args:
    run: scores of a run.
    kept: headline tasks to keep: see ``headlines``.
  """
  keys = [(task.name, 'exact_match') for task in kept]
  if not keys or not set(keys) <= set(run):
    return None
  return sum(run[key].value for key in keys) / len(keys)


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
    retrained: scores of the retrained model.
    metrics: metrics that are compared, in every task that has them.
  """
  if not retrained:
    return None
  values, gold = _values(run, metrics), _values(retrained, metrics)
  if not gold or set(values) != set(gold):
    return None
  return sum(abs(values[key] - gold[key]) for key in gold) / len(gold)


def rows(results: Sequence[dict]) -> dict[str, dict[str, Score]]:
  """The cells of a table: ``{run: {column key: Score}}``, gaps left out."""
  layout, found = find_layout(results), scores(results)
  tasks = tasks_of(results)
  table = {}
  for name, run in found.items():
    derived = {
      'utility': utility(run, headlines(tasks, KEEP)),
      'distance': distance(run, found.get(RETRAINED), layout.compared),
    }
    cells = {
      column.key: _cell(column, run, tasks, derived)
      for block in layout.blocks
      for column in block.columns
    }
    table[name] = {key: cell for key, cell in cells.items() if cell}
  return table


def _cell(column: Column, run, tasks, derived) -> Score | None:
  """What one run has in a column."""
  if column.about is None:
    value = derived[column.key]
    return None if value is None else Score(value)
  task = column.about.find(tasks)
  return run.get((task.name, column.metric)) if task else None


def shown_blocks(results: Sequence[dict]) -> list[ColumnBlock]:
  """The blocks of the layout, without the columns that no run has."""
  return with_data(results, [rows(results)])


def with_data(
  results: Sequence[dict], tables: Sequence[Mapping[str, Mapping[str, Score]]]
) -> list[ColumnBlock]:
  """The blocks of the layout, without the columns that no table has.

  Args:
    results: lines of ``results.jsonl``.
    tables: rows of one or several tables of them.
  """
  held = {key for table in tables for cells in table.values() for key in cells}
  blocks = [
    block._replace(columns=tuple(c for c in block.columns if c.key in held))
    for block in find_layout(results).blocks
  ]
  return [block for block in blocks if block.columns]
