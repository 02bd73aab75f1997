"""Results of attacks as tables and curves: rows in, lines or a figure out."""

from collections.abc import Mapping
import math
from typing import Any, NamedTuple

from mmu_jax.attacks.attack import Attack
from mmu_jax.attacks.attack import Rows
from mmu_jax.evaluation.report import plots
from mmu_jax.evaluation.report import table
from mmu_jax.evaluation.report.scored import RETRAINED

AREA = 'area'
_ACROSS = 3  # panels in a row
_VISIBLE = 0.02  # a share that is never above this says nothing


class Line(NamedTuple):
  """One score of a case, of every model.

  Attributes:
    case: name of the case.
    score: metric, and the step of a curve.
    n: number of questions or pictures behind it.
    values: values by model.
    summary: whether it stands for a curve, or is no part of one.
  """

  case: str
  score: str
  n: int
  values: dict[str, float]
  summary: bool


def curve_area(
  curve: Mapping[int, float], other: Mapping[int, float]
) -> float | None:
  """Returns the mean distance of two curves, positive if the first is above.

  The trapezoid rule over log2(1 + step), so that the first steps count as much
  as the many later ones, divided by the range.

  Args:
    curve: values by step.
    other: values by step of the model that is compared with.

  Returns:
    The distance, in the unit of the values; None without two common steps.

  Example:
    >>> round(curve_area({0: 0.2, 1: 0.2, 3: 1}, {0: 0, 1: 0, 3: 1}), 3)
    0.15
  """
  steps = sorted({*curve} & {*other})
  if len(steps) < 2:
    return None
  x = [math.log2(1 + step) for step in steps]
  gaps = [curve[step] - other[step] for step in steps]
  pairs = zip(x, x[1:], gaps, gaps[1:])
  total = sum((b - a) * (p + q) / 2 for a, b, p, q in pairs)
  return total / (x[-1] - x[0])


def lines_of(found: Mapping[str, Rows]) -> list[Line]:
  """Returns the scores of an attack, case by case, each of every model.

  Before the steps of a curve stands its area, see ``curve_area``, for all
  models but the retrained one, where that was attacked.

  Args:
    found: rows by model.
  """
  values: dict[tuple, dict[str, float]] = {}
  sizes: dict[tuple, int] = {}
  for model, rows in found.items():
    for row in rows:
      key = row['case'], row['metric'], row['step']
      values.setdefault(key, {})[model] = row['value']
      sizes.setdefault(key, row['n'])
  lines, curves = [], set()
  for case, metric, step in values:
    n, of = sizes[case, metric, step], values[case, metric, step]
    if step is None:
      lines.append(Line(case, metric, n, of, True))
      continue
    if (case, metric) not in curves:
      curves.add((case, metric))
      lines += _area_line(case, metric, n, _curves(found, case, metric))
    lines.append(Line(case, f'{metric}, step {step}', n, of, False))
  cases = list(dict.fromkeys(line.case for line in lines))
  return sorted(lines, key=lambda line: cases.index(line.case))


def terminal_table(found: Mapping[str, Rows]) -> Any:
  """Returns a table for the terminal: a line for each score, below its case.

  Of curves it has the metric that ``draw_curves`` draws.

  Args:
    found: rows by model.
  """
  drawn = _drawn([row for rows in found.values() for row in rows])
  shown = lambda line: line.summary or line.score.startswith(drawn)
  scores = [['score']]
  columns: dict[str, list[list[str]]] = {'n': [['n']]}
  columns |= {m: [m.replace('_', '\n_').split('\n')] for m in found}
  case = None
  for line in filter(shown, lines_of(found)):
    if line.case != case:
      case = line.case
      scores.append([case])
      for column in columns.values():
        column.append([''])
    scores.append([f'  {line.score}'])
    columns['n'].append([str(line.n)])
    for model in found:
      columns[model].append([_cell(line, model)])
  return table.Fitted([scores, *columns.values()])


def section(attack: Attack, found: Mapping[str, Rows]) -> dict[str, Any]:
  """Returns the part of a report about an attack, for its template.

  Args:
    attack: the attack.
    found: rows by model.

  Returns:
    Title, reading, models, and lines as dicts; those that are no summary are
    shown on demand. ``figure`` is one of matplotlib, or None without curves.
  """
  lines = [
    line._asdict() | {'cells': [_cell(line, model) for model in found]}
    for line in lines_of(found)
  ]
  summary = [line for line in lines if line['summary']]
  return {
    'name': attack.name,
    'title': attack.title,
    'reading': attack.reading,
    'models': list(found),
    'lines': summary or lines,
    'more': lines if len(lines) > len(summary) > 0 else [],
    'figure': draw_curves(found),
  }


def draw_curves(found: Mapping[str, Rows]) -> Any:
  """Returns a figure with a panel for each case, a curve for each model.

  Shares are drawn; nats where every share is close to 0, as of long answers.

  Args:
    found: rows by model.

  Returns:
    A ``matplotlib.figure.Figure``; None without curves.
  """
  every = [r for rows in found.values() for r in rows if r['step'] is not None]
  metric = _drawn(every)
  if not metric:
    return None
  cases = list(dict.fromkeys(r['case'] for r in every if r['metric'] == metric))
  figure, axes = plots.panels(len(cases), _ACROSS)
  style = plots.styles(list(found))
  for ax, case in zip(axes, cases):
    for model, curve in _curves(found, case, metric).items():
      colour, marker = style[model]
      x = [math.log2(1 + step) for step in curve]
      dash = '--' if model == RETRAINED else '-'
      ax.plot(x, list(curve.values()), color=colour, marker=marker, ls=dash)
      ax.set_xticks(x, [str(step) for step in curve])
      ax.lines[-1].set(ms=5, lw=1.5, label=model)
    ax.set_title(case, fontsize=10, loc='left')
    ax.set_xlabel('steps of the attack', fontsize=9)
  for ax in axes[::_ACROSS]:
    ax.set_ylabel(metric.replace('_', ' '), fontsize=9)
  names = dict(zip(*reversed(axes[0].get_legend_handles_labels())))
  figure.legend(
    list(names.values()),
    list(names),
    loc='outside upper left',
    ncols=max(1, min(len(names), 6)),
    fontsize=9,
    frameon=False,
  )
  return figure


def _drawn(rows: Rows) -> str:
  """The metric to draw: the first, unless it is close to 0 everywhere."""
  highest: dict[str, float] = {}
  for row in rows:
    metric = row['metric']
    highest[metric] = max(row['value'], highest.get(metric, 0.0))
  return next((m for m, x in highest.items() if x > _VISIBLE), '')


def _curves(
  found: Mapping[str, Rows], case: str, metric: str
) -> dict[str, dict[int, float]]:
  """The values by step of each model that has the case."""
  of = lambda rows: {
    row['step']: row['value']
    for row in rows
    if (row['case'], row['metric']) == (case, metric)
  }
  curves = {model: of(rows) for model, rows in found.items()}
  return {model: curve for model, curve in curves.items() if curve}


def _area_line(
  case: str, metric: str, n: int, curves: Mapping[str, dict[int, float]]
) -> list[Line]:
  """The areas between the curves and the retrained model's, if it has one."""
  other = curves.get(RETRAINED, {})
  areas = {
    model: area
    for model, curve in curves.items()
    if model != RETRAINED and (area := curve_area(curve, other)) is not None
  }
  return [Line(case, f'{metric}, {AREA}', n, areas, True)] if areas else []


def _cell(line: Line, model: str) -> str:
  """A value as text; a dash where there is none."""
  return table.number(line.values[model]) if model in line.values else '–'
