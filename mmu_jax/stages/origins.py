"""What every tree of a workdir was made from, and whether that is still so.

The note of a tree has the ``family`` of its model, its ``content``
(``checkpoint.digest``) and its ``origin``::

  name       the folder in the workdir
  world      hash of world.json: seed, data with all rows and pictures, model
  settings   hash of the config.json of the folder
  made_from  the content of every tree of the workdir that it was made from

So a mask of other importances, a model of another seed, or a folder that was
copied to another name is noticed before anything is made from it.
"""

from collections.abc import Mapping, Sequence
import pathlib
from typing import Any

from mmu_jax import checkpoint
from mmu_jax import distributed
from mmu_jax import workdir as workdir_lib
from mmu_jax.errors import UserError
from mmu_jax.stages.job import Job
from mmu_jax.training import loop
from mmu_jax.workdir import seals

ROWS = 'rows.jsonl'  # rows that a stage made, in the place of a tree


def origin(
  job: Job, folder: pathlib.Path, made_from: Sequence[pathlib.Path] = ()
) -> dict[str, Any]:
  """Returns ``family`` and ``origin`` of the note of a tree that is being made.

  Args:
    job: job whose tree it is.
    folder: folder with the ``config.json`` of the tree.
    made_from: folders of the trees that it is made from; those that are not
      there are left out, such as the base model of a checkpoint.

  Returns:
    JSON: ``{'family': name, 'origin': {...}}``.
  """
  found = distributed.first(_origin, job, folder, made_from)
  return {'family': job.model.family, 'origin': found}


def check(job: Job, folder: pathlib.Path) -> None:
  """Raises unless a finished tree, and all it was made from, fit together.

  Args:
    job: job whose tree it is.
    folder: folder of a model, a mask or an importance; nothing is checked
      where it holds no finished tree. Arrays are not read.

  Raises:
    ValueError: naming the folder, what it was made from, and the way out.
  """
  distributed.first(_check, job, folder)


def content(folder: pathlib.Path) -> str:
  """Returns the content of the tree in a folder, '' if there is none."""
  return (_note(folder) or {}).get('content', '')


def _origin(job, folder, made_from):
  """The origin of a tree, in one process."""
  return {
    'name': _name(job, folder),
    'world': job.world,
    'settings': _settings(folder),
    'made_from': {_name(job, f): content(f) for f in made_from if content(f)},
  }


def _check(job, folder) -> None:
  """Checks a tree and its origin, in one process."""
  note = _note(folder)
  if note is None:
    return
  way_out = (
    f'Put back the one that belongs here, or delete {folder} to make it again.'
  )
  found = note.get('origin')
  known = isinstance(found, Mapping) and {*found} == {*_MEANT, 'made_from'}
  if not (known and note.get('content')):
    raise UserError(
      f'{folder} does not say what it was made from, as trees of an earlier '
      f'version do not. Delete it to make it again.'
    )
  wanted = _origin(job, folder, ()) | {'made_from': found['made_from']}
  wrong = workdir_lib.differences(found, wanted)
  if wrong:
    meant = _MEANT[wrong[0].partition(':')[0]]
    raise UserError(f'{folder} is {meant}: {wrong[0]}. {way_out}')
  for name, was in found['made_from'].items():
    source = job.folder / name
    now = content(source)
    if now and now != was:
      raise UserError(
        f'{folder} was made from another {name}: its content was {was}, and '
        f'{source} has {now}. {way_out}'
      )
    _check(job, source)


_MEANT = {
  'name': 'of another folder',
  'world': 'of another seed, dataset or model',
  'settings': 'of another config.json',
}


def _note(folder: pathlib.Path) -> dict[str, Any] | None:
  """The note of the tree of a folder, or of its rows, if there is one."""
  if seals.hash_of(folder / ROWS):
    return seals.read_note(folder / ROWS)
  final = folder / loop.FINAL
  for path in (final, folder):
    if checkpoint.latest_step(path) is not None:
      return checkpoint.read_note(path)
  return None


def _name(job: Job, folder: pathlib.Path) -> str:
  """The name of a folder within its workdir."""
  return folder.relative_to(job.folder).as_posix()


def _settings(folder: pathlib.Path) -> str:
  """The hash of the settings of a folder; '' if they are gone."""
  path = folder / workdir_lib.CONFIG
  return seals.hash_json(workdir_lib.read_json(path)) if path.exists() else ''
