"""Workdirs beside each other: means over seeds, costs, attacks, and tests.

Each workdir is a job of the same kind with another seed. Cells are the mean,
with the lowest and the highest value in brackets.
"""

from collections.abc import Iterable, Mapping, Sequence
import gzip
import json
import pathlib
import statistics
from typing import Any, NamedTuple

from mmu_jax import workdir as workdir_lib
from mmu_jax.attacks import showing
from mmu_jax.attacks.attack import ATTACKS
from mmu_jax.attacks.attack import Rows
from mmu_jax.errors import MissingError
from mmu_jax.errors import UserError
from mmu_jax.evaluation.report import scored
from mmu_jax.evaluation.report import table
from mmu_jax.evaluation.scoring import results as results_lib
from mmu_jax.workdir import seals

_NO_SCORE = (showing.AREA, ', low', ', high')  # ends of areas and intervals
_LEAST = 4  # models that an order needs
_KEPT = '.json.gz'


class Seed(NamedTuple):
  """The contents of a workdir.

  Attributes:
    seed: seed of its job.
    scores: lines of ``results.jsonl``.
    attacks: rows by attack and model.
    costs: rounds, and seconds from the first to the last line of the log, by
      model; pauses count.
    settings: all that the scores depend on beside the seed, by place.
  """

  seed: int
  scores: list[dict[str, Any]]
  attacks: dict[str, dict[str, Rows]]
  costs: dict[str, tuple[int, float]]
  settings: dict[str, Any]


def read_seed(place: str | pathlib.Path) -> Seed:
  """Reads the scores, attacks and costs of a workdir.

  Args:
    place: workdir, or a file of ``keep_seed``.

  Raises:
    FileNotFoundError: if nothing has been evaluated in it.
    ValueError: if a file is not as it was written.
  """
  folder = pathlib.Path(place)
  if folder.name.endswith(_KEPT) and not folder.is_dir():
    return _read_kept(folder)
  scores, note = results_lib.read(folder)
  world = workdir_lib.read_object(folder / workdir_lib.WORLD)
  rounds = {row['run']: row['step'] for row in scores}
  costs = {run: (rounds[run], _seconds(folder, run)) for run in rounds}
  alike = {k: v for k, v in world.items() if k not in ('seed', 'content')}
  settings = {'the world': alike} | _settings(folder, rounds, note['models'])
  return Seed(world['seed'], scores, _attacks(folder), costs, settings)


def keep_seed(seed: Seed, folder: str | pathlib.Path) -> pathlib.Path:
  """Writes all that tables need into one small file, and its seal.

  A workdir can then be deleted, and its numbers compared with later ones. A
  later call for the same seed of the same world writes the file anew.

  Args:
    seed: contents of a workdir.
    folder: folder that gets ``seed0.json.gz``; made if it is missing.

  Returns:
    The file.

  Raises:
    ValueError: if the folder has such a file of another world.
  """
  path = pathlib.Path(folder) / f'seed{seed.seed}{_KEPT}'
  workdir_lib.make_folder(path.parent)
  if path.exists():
    before = read_seed(path).settings['the world']
    wrong = workdir_lib.differences(before, seed.settings['the world'])
    if wrong:
      raise UserError(
        f'{path} is of another world: {wrong[0]}. Give another folder.'
      )
  text = workdir_lib.to_json(seed._asdict()).encode()
  workdir_lib.write_bytes(path, gzip.compress(text, mtime=0))
  seals.seal(path, path.name)
  return path


def _read_kept(path: pathlib.Path) -> Seed:
  """Reads a file of ``keep_seed``."""
  advice = (
    'Take a file that `mmu compare --to` wrote, with its seal beside it, or a '
    'workdir.'
  )
  if not path.is_file():
    raise MissingError(f'there is no {path}. {advice}')
  wrong = seals.fault(path, path.name)
  if wrong:
    raise UserError(f'{wrong}. {advice}')
  found = json.loads(gzip.decompress(path.read_bytes()))
  if set(found) != set(Seed._fields):
    raise UserError(f'{path} is of another version of mmu_jax. {advice}')
  costs = {run: tuple(cost) for run, cost in found['costs'].items()}
  return Seed(**{**found, 'costs': costs})


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


def _settings(
  folder: pathlib.Path, runs: Iterable[str], contents: Mapping[str, str]
) -> dict[str, Any]:
  """The settings of models and attacks, where they are still there.

  Raises:
    ValueError: if a model was attacked that is not the one with the scores.
  """
  found: dict[str, Any] = {}
  for run in runs:
    for place in (folder / run, folder / 'unlearned' / run):
      if (place / workdir_lib.CONFIG).is_file():
        made = workdir_lib.read_object(place / workdir_lib.CONFIG)
        found[f'the model {run}'] = made
  for path in folder.glob(f'attacks/*/*/{workdir_lib.CONFIG}'):
    claim = workdir_lib.read_object(path)
    run = claim['model']
    if contents.get(run, claim['content']) != claim['content']:
      raise UserError(
        f'{path.parent} is about other parameters than the model {run!r} has '
        f'scores of. Delete that folder and attack again.'
      )
    found[f'the attack {claim["attack"]} on {run}'] = claim['settings']
  return found


def _attacks(folder: pathlib.Path) -> dict[str, dict[str, Rows]]:
  """The results of all attacks in a workdir."""
  found: dict[str, dict[str, Rows]] = {}
  for name in ATTACKS:
    parent = folder / 'attacks' / name
    for path in sorted(parent.rglob('rows.jsonl')):
      model = path.parent.relative_to(parent).as_posix()
      advice = f'Delete {path.parent} and attack again.'
      rows, _ = seals.read_rows(path, f'{name}/{model}', advice)
      found.setdefault(name, {})[model] = rows
  return found


def _seconds(folder: pathlib.Path, run: str) -> float:
  """From the first to the last line of the log of a model; 0 without one."""
  places = (folder / run, folder / 'unlearned' / run)
  logs = [place / 'timing.jsonl' for place in places]
  times = [
    row['time']
    for log in logs
    if log.is_file()
    for row in workdir_lib.read_log(log)
  ]
  return max(times) - min(times) if times else 0.0
