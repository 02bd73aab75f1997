"""The numbers of a workdir, and the small file that keeps them."""

from collections.abc import Iterable, Mapping
import gzip
import json
import pathlib
from typing import Any, NamedTuple

from mmu_jax import workdir as workdir_lib
from mmu_jax.attacks.attack import ATTACKS
from mmu_jax.attacks.attack import Rows
from mmu_jax.errors import MissingError
from mmu_jax.errors import UserError
from mmu_jax.evaluation.scoring import results as results_lib
from mmu_jax.workdir import seals

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


def select_runs(seed: Seed, names: Iterable[str]) -> Seed:
  """Returns the contents of the chosen models and the references alone.

  Args:
    seed: contents of a workdir.
    names: names of models to keep beside vanilla and retrained.

  Raises:
    ValueError: if a name has no scores.
  """
  have = {row['run'] for row in seed.scores}
  names = set(names)
  if names - have:
    raise UserError(
      f'seed {seed.seed} has no scores of {", ".join(sorted(names - have))}, '
      f'but of {", ".join(sorted(have))}.'
    )
  kept = names | {'vanilla', 'retrained'}
  return seed._replace(
    scores=[row for row in seed.scores if row['run'] in kept],
    attacks={
      attack: {k: rows for k, rows in found.items() if k in kept}
      for attack, found in seed.attacks.items()
      if names & set(found)
    },
    costs={k: cost for k, cost in seed.costs.items() if k in kept},
    settings={
      k: made
      for k, made in seed.settings.items()
      if k == 'the world' or k.split(' ')[-1] in kept
    },
  )


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
