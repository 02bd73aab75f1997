"""Workdirs beside each other: means over seeds, costs, attacks, and tests.

Each workdir is a job of the same kind with another seed. Cells are the mean,
with the lowest and the highest value in brackets.
"""

from collections.abc import Mapping, Sequence
import statistics

from mmu_jax import workdir as workdir_lib
from mmu_jax.attacks import showing
from mmu_jax.attacks.attack import ATTACKS
from mmu_jax.attacks.attack import Rows
from mmu_jax.errors import UserError
from mmu_jax.evaluation.report import scored
from mmu_jax.evaluation.report import table
from mmu_jax.stages.across.seeds import Seed

_NO_SCORE = (showing.AREA, ', low', ', high')  # ends of areas and intervals
_LEAST = 4  # models that an order needs


def seed_tables(seeds: Sequence[Seed]) -> dict[str, str]:
  """Returns tables in Markdown by title: scores, costs, and each attack.

  Args:
    seeds: workdirs of different seeds, at least one, of one layout.

  Raises:
    ValueError: if two have the same seed, or their layouts differ.
  """
  numbers = [seed.seed for seed in seeds]
  if len({*numbers}) < len(numbers):
    raise UserError(
      f'workdirs to compare have different seeds; got {numbers}. Leave one out.'
    )
  kinds = {row['layout'] for seed in seeds for row in seed.scores}
  if len(kinds) > 1:
    raise UserError(
      f'workdirs to compare are of one kind of data; got {sorted(kinds)}.'
    )
  for seed in seeds[1:]:
    for place in {*seed.settings} & {*seeds[0].settings}:
      wrong = workdir_lib.differences(
        seeds[0].settings[place], seed.settings[place]
      )
      if wrong:
        raise UserError(
          f'workdirs to compare differ in their seed alone; {place} of seeds '
          f'{seeds[0].seed} and {seed.seed} differs: {wrong[0]}.'
        )
  scores = [seed.scores for seed in seeds]
  several = table.markdown_table(scores, numbers) if len(seeds) > 1 else ''
  made = {
    'Scores': several or table.markdown_table(scores[0]),
    'Costs': _costs(seeds),
  }
  for name in ATTACKS:
    found = [s.attacks[name] for s in seeds if name in s.attacks]
    if found:
      runs = dict.fromkeys(run for seed in seeds for run in seed.costs)
      made[f'Attack: {name}'] = _attack(found, list(runs))
  orders = _orders(seeds)
  return made | ({'Which scores tell models apart': orders} if orders else {})


def closeness(
  seed: Seed,
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]:
  """Returns how far each model is from the retrained one, score by score.

  Args:
    seed: workdir.

  Returns:
    Score -> model -> distance to the retrained model's score, for the columns
    of the table and for attacks without steps; and the same for two
    scores to foretell: the distance over all tasks, and the area of
    relearning, its mean over pictures.
  """
  cells = scored.defined(scored.rows(seed.scores))
  of = {
    column.title: {
      run: cells[run][column.key].value
      for run in cells
      if column.key in cells[run]
    }
    for block in scored.shown_blocks(seed.scores)
    for column in block.columns
  }
  wanted = {'distance': of.pop('distance to retrained', {})}
  areas: dict[str, list[float]] = {}
  for name, found in seed.attacks.items():
    for line in showing.lines_of(found):
      title = f'{name}: {line.case}, {line.score}'
      if name == 'relearn' and line.score == f'exact, {showing.AREA}':
        if 'picture' in line.case:
          for run, value in line.values.items():
            areas.setdefault(run, []).append(abs(value))
      elif line.summary and not line.score.endswith(_NO_SCORE):
        of[title] = dict(line.values)
  wanted['relearning'] = {run: statistics.mean(x) for run, x in areas.items()}
  away = {
    title: {
      run: abs(value - values[scored.RETRAINED])
      for run, value in values.items()
      if run != scored.RETRAINED
    }
    for title, values in of.items()
    if scored.RETRAINED in values
  }
  return away, wanted


def _orders(seeds: Sequence[Seed]) -> str:
  """Rank correlations of each score with distance and relearning."""
  found: dict[str, dict[str, list[float]]] = {}
  for seed in seeds:
    away, wanted = closeness(seed)
    for title, values in away.items():
      for target, others in wanted.items():
        rho = _rank_correlation(values, others)
        if rho is not None:
          found.setdefault(title, {}).setdefault(target, []).append(rho)
  if not found:
    return ''
  lines = [
    '| score | order of distance | order of relearning |',
    '|---|--:|--:|',
  ]
  mean = lambda by, k: _spread(by[k]) if k in by else '–'
  order = lambda by: -statistics.mean(by.get('relearning') or by['distance'])
  for title, by in sorted(found.items(), key=lambda item: order(item[1])):
    cells = [mean(by, 'distance'), mean(by, 'relearning')]
    lines.append(f'| {title} | {" | ".join(cells)} |')
  return '\n'.join(
    [
      *lines,
      '',
      'Spearman correlation over models: how far a score is from the retrained '
      "model's, against the distance over all tasks and the size of the area "
      f'of relearning, above or below 0. It needs {_LEAST} models; 1 is the '
      'same order.',
    ]
  )


def _rank_correlation(
  a: Mapping[str, float], b: Mapping[str, float]
) -> float | None:
  """Spearman's rho over common models; None for few, or for equal values."""
  common = sorted({*a} & {*b})
  x, y = ([of[run] for run in common] for of in (a, b))
  if len(common) < _LEAST or len({*x}) < 2 or len({*y}) < 2:
    return None
  from scipy import stats  # half a second, which few commands need

  return float(stats.spearmanr(x, y).statistic)


def _costs(seeds: Sequence[Seed]) -> str:
  """Rounds and seconds of every model."""
  runs = dict.fromkeys(run for seed in seeds for run in seed.costs)
  lines = ['| run | rounds | seconds |', '|---|--:|--:|']
  for run in runs:
    rounds, seconds = zip(*(s.costs[run] for s in seeds if run in s.costs))
    each = ', '.join(map(str, dict.fromkeys(rounds)))
    lines.append(f'| {run} | {each} | {_spread(seconds, 0)} |')
  return '\n'.join(lines)


def _attack(found: Sequence[Mapping[str, Rows]], order: Sequence[str]) -> str:
  """The summary lines of an attack over seeds, a column for each model."""
  every = {model: 0 for rows in found for model in rows}
  models = [m for m in order if m in every]
  models += [m for m in every if m not in models]
  values: dict[tuple[str, str], dict[str, list[float]]] = {}
  for rows in found:
    for line in showing.lines_of(rows):
      for model, value in line.values.items() if line.summary else ():
        of = values.setdefault((line.case, line.score), {})
        of.setdefault(model, []).append(value)
  lines = [
    f'| case | score | {" | ".join(models)} |',
    '|---|---|' + '--:|' * len(models),
  ]
  for (case, score), of in values.items():
    cells = [_spread(of[m]) if m in of else '–' for m in models]
    lines.append(f'| {case} | {score} | {" | ".join(cells)} |')
  return '\n'.join(lines)


def _spread(values: Sequence[float], digits: int = 2) -> str:
  """The mean, and the range where there are several."""
  text = (lambda x: f'{x:.0f}') if not digits else table.number
  mean = text(statistics.mean(values))
  if len(values) < 2:
    return mean
  return f'{mean} ({text(min(values))}–{text(max(values))})'
