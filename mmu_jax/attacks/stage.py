"""The stage that attacks finished models: ``attacks/<attack>/<model>/``.

Each folder has its settings in ``config.json`` and the result in a sealed
``rows.jsonl``, whose note names the model by content. The retrained model is
attacked first where it is finished: without it no result says much. Parts of an
attack that are done are kept until its end, so that a stopped one goes on.
"""

from collections.abc import Callable, Sequence
import math
import pathlib
import re
import shutil

import jax

from mmu_jax import distributed
from mmu_jax import workdir as workdir_lib
from mmu_jax.attacks.attack import Attack
from mmu_jax.attacks.attack import ATTACKS
from mmu_jax.attacks.attack import Rows
from mmu_jax.distributed import progress
from mmu_jax.errors import UserError
from mmu_jax.evaluation.report.scored import RETRAINED
from mmu_jax.stages import origins
from mmu_jax.stages import runs as runs_lib
from mmu_jax.stages import training
from mmu_jax.stages.job import alone
from mmu_jax.stages.job import Config
from mmu_jax.stages.job import Folder
from mmu_jax.stages.job import Job
from mmu_jax.stages.job import open_job
from mmu_jax.workdir import seals

PLACE = 'attacks'
_DONE = 'done'  # folder of the parts, until the end
_FIELDS = {'case', 'metric', 'value', 'n', 'step'}


@alone
def attack(
  config: Config, workdir: Folder, name: str, runs: Sequence[str] | None = None
) -> dict[str, Rows]:
  """Attacks models of a workdir; those that were attacked are found.

  Args:
    config: the whole config.
    workdir: folder of the job.
    name: name of the attack, a key of ``attacks.ATTACKS``.
    runs: names of models; None for all that are finished. The retrained model
      is attacked, too, wherever it is finished.

  Returns:
    Rows by model: of all models that this attack was made on.

  Raises:
    ValueError: if the attack or a model is unknown, or a model has changed
      since it was attacked.
    FileNotFoundError: if a model is not finished.
  """
  if name not in ATTACKS:
    raise UserError(f'unknown attack {name!r}; known: {", ".join(ATTACKS)}.')
  every = runs is None
  runs = _chosen(config, workdir, runs)
  job = open_job(config, workdir, begin=False)
  if every:
    progress.say(
      f'{name}: all {len(runs)} finished models, one after the other: '
      f'{", ".join(runs)}. --run=NAME attacks one'
    )
  with jax.set_mesh(job.mesh):
    for run in runs:
      _attack(job, ATTACKS[name], run)
  return distributed.first(_found, job, name)


def attacked(job: Job) -> dict[str, dict[str, Rows]]:
  """Returns the rows of a workdir by attack and model, for a report.

  Raises:
    ValueError: if a result is damaged, or its model has changed.
  """
  found = {name: _found(job, name) for name in ATTACKS}
  return {name: rows for name, rows in found.items() if rows}


def keep_part(
  folder: pathlib.Path, name: str, make: Callable[[], Rows]
) -> Rows:
  """Returns the rows of one part of an attack, made now unless they are there.

  Args:
    folder: folder of the result, whose settings are claimed.
    name: name of the part, unique in the attack.
    make: function that makes the rows; every process calls it.
  """
  clean = re.sub(r'[^\w.-]+', '_', name)
  path = folder / _DONE / f'{clean}-{seals.hash_json(name)[:6]}.jsonl'
  if distributed.first(seals.fault, path, name):
    distributed.first(seals.write_rows, path, make(), name)
  advice = f'Delete {path} to do this part again.'
  return distributed.first(seals.read_rows, path, name, advice)[0]


def check_rows(rows: Rows) -> Rows:
  """Returns rows; raises unless each has its five fields and a finite value.

  Example:
    >>> check_rows([dict(case='a', metric='exact', value=1, n=2, step=None)])
    [{'case': 'a', 'metric': 'exact', 'value': 1, 'n': 2, 'step': None}]
  """
  for row in rows:
    assert {*row} == _FIELDS, f'a row has the fields {_FIELDS}, got {row}'
    if not math.isfinite(row['value']):
      raise FloatingPointError(
        f'every result of an attack must be finite; {row["metric"]} of the '
        f'case {row["case"]!r} (step {row["step"]}) is {row["value"]}. A '
        'rate of the attack may be too high: see config.attacks.'
      )
  return rows


def _chosen(
  config: Config, workdir: Folder, runs: Sequence[str] | None
) -> list[str]:
  """The models to attack, the retrained one first where it is finished."""
  finished = runs_lib.find_models(config, workdir)
  if runs is None:
    chosen = finished
  else:
    others = [run for run in runs if run != 'base']
    runs_lib.choose_models(config, workdir, others)
    chosen = list(runs)
  first = [run for run in finished if run == RETRAINED]
  return list(dict.fromkeys([*first, *chosen]))


def _attack(job: Job, kind: Attack, run: str) -> None:
  """Attacks one model, unless its result is there."""
  runs_lib.require(job, run)
  made = runs_lib.model_folder(job, run)
  origins.check(job, made)
  wanted = training.settings_of(job, run)
  if wanted is not None and runs_lib.is_finished(made):
    workdir_lib.claim(made, wanted)
  folder = job.folder / PLACE / kind.name / run
  origins.check(job, folder)
  claim = {
    'attack': kind.name,
    'model': run,
    'content': distributed.first(origins.content, made),
    'settings': kind.settings(job.config),
    'groups': {role: list(of) for role, of in job.groups.items()},
  }
  workdir_lib.claim(folder, claim)
  path = folder / origins.ROWS
  if distributed.first(seals.hash_of, path):
    progress.say(f'{kind.name} {run}: found in {folder}')
    return
  rows = check_rows(kind.run(job, run, folder))
  note = {'content': seals.hash_json(rows)}
  note |= origins.origin(job, folder, [made])
  seal = f'{kind.name}/{run}'
  distributed.first(seals.write_rows, path, rows, seal, note)
  distributed.first(_clear, folder / _DONE)


def _clear(folder: pathlib.Path) -> None:
  """Deletes the parts of an attack whose result is written."""
  if folder.is_dir():
    shutil.rmtree(folder)


def _found(job: Job, name: str) -> dict[str, Rows]:
  """The results of an attack by model, in the order of tables."""
  parent = job.folder / PLACE / name
  paths = {
    path.parent.relative_to(parent).as_posix(): path
    for path in parent.rglob(origins.ROWS)
  }
  read = {}
  for run in runs_lib.in_order(job.config, paths):
    read[run] = _read(job, paths[run], f'{name}/{run}')
  return read


def _read(job: Job, path: pathlib.Path, seal: str) -> Rows:
  """The rows of a result, checked against the model that it is about."""
  origins.check(job, path.parent)
  advice = f'Delete {path.parent} to attack again.'
  return seals.read_rows(path, seal, advice)[0]
