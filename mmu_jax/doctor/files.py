"""Checks of files: the same for every process, and room on the disk."""

from collections.abc import Mapping
import contextlib
import hashlib
import inspect
import pathlib
import secrets
import shutil
import time
from typing import Any

import jax

from mmu_jax import distributed
from mmu_jax import inputs
from mmu_jax import tree as tree_lib
from mmu_jax.data import datasets
from mmu_jax.data.readers import prepared
from mmu_jax.errors import FAIL
from mmu_jax.errors import Finding
from mmu_jax.errors import OK
from mmu_jax.errors import WARN
from mmu_jax.models import from_options
from mmu_jax.models.hub import loading as checkpoints

_COPIES = 3  # train states on disk: two that are kept and one being written
_STATE_BYTES = 12  # of a parameter: itself and two moments of Adam, float32
_VOCABULARY = 32_000  # of a model whose tokenizer is not made yet
_MARKER = '.mmu_doctor'
_PATIENCE = 5.0  # seconds; network file systems show new files late


def paths(config: Mapping[str, Any], name: str = 'config') -> dict[str, str]:
  """Returns the paths in a config: field -> path.

  Example:
    >>> paths({'data': {'path': 'CLEAR', 'ratio': 5}, 'model': {'path': ''}})
    {'config.data.path': 'CLEAR'}
  """
  found = {}
  for key, value in config.items():
    field = f'{name}.{key}'
    if isinstance(value, Mapping):
      found |= paths(value, field)
    elif key.endswith('path') and isinstance(value, str) and value:
      found[field] = value
  return found


def missing_paths(config: Mapping[str, Any]) -> list[Finding]:
  """Looks whether the paths that a dataset needs are given.

  Args:
    config: config of the job.

  Example:
    >>> config = {'data': {'name': 'own', 'path': ''}, 'model': {'path': ''}}
    >>> [finding.what for finding in missing_paths(config)]
    ['config.data.path', 'config.model.path']
  """
  data, model = config.get('data', {}), config.get('model', {})
  make = datasets.DATASETS.get(data.get('name'))
  takes = inspect.signature(make).parameters if make else ()
  name, path = data.get('name'), str(data.get('path', ''))
  found = []
  if 'path' in takes and not path:
    found.append(
      Finding(
        FAIL,
        'config.data.path',
        f'dataset {name!r} is read from a path, and none is given',
        'Set --config.data.path=PATH.',
      )
    )
  own = data.get('processor') or prepared.PEOPLE in path
  if 'processor' in takes and not own and not model.get('path'):
    found.append(
      Finding(
        FAIL,
        'config.model.path',
        f'dataset {name!r} is encoded with the '
        'processor of a checkpoint, and none is given',
        'Set --config.model.path=DIR; to try the config with a small '
        'model, --config.data.processor=small.',
      )
    )
  return found


def look_at_path(field: str, path: str) -> Finding:
  """Looks whether every process reads the same at a path.

  Args:
    field: field of the config that has the path.
    path: path of a file or folder.
  """
  everyone = distributed.gather(_look(pathlib.Path(path)))
  failed = [f'process {i}: {x[1]}' for i, x in enumerate(everyone) if not x[0]]
  what = f'{field} = {path}'
  if failed:
    return Finding(
      FAIL,
      what,
      '; '.join(failed[:3]),
      inputs.download(path, 'dataset' if '.data.' in field else 'model')
      or 'Give a path that every process can read, or copy it to all machines.',
    )
  if len({x[1] for x in everyone}) > 1:
    return Finding(
      FAIL,
      what,
      'processes find different files there',
      'Put the same files on all machines, or use a shared file system.',
    )
  return Finding(OK, what, f'{everyone[0][2]}, read by all processes')


def look_at_workdir(workdir: str) -> Finding:
  """Looks whether all processes write into one workdir.

  Each writes a file and all look for the files of the others; afterwards they
  are deleted, and the folder too if it was not there.

  Args:
    workdir: workdir of the job.
  """
  folder, what = pathlib.Path(workdir), f'workdir = {workdir}'
  try:
    missing, word = distributed.first(_open, str(folder))
  except OSError as error:
    return Finding(FAIL, what, f'process 0: {error}', _where(error))
  mine = folder / f'{_MARKER}.{word}.{jax.process_index()}'
  try:
    mine.write_text(word)
    said = ''
  except OSError as error:
    said = str(error)
  errors = distributed.gather(said)  # all have written
  seen = distributed.gather(_see(folder, word))
  with contextlib.suppress(OSError):
    mine.unlink()
  distributed.barrier('all have deleted their files')
  distributed.first(_close, missing)
  failed = [f'process {i}: {text}' for i, text in enumerate(errors) if text]
  if failed:
    return Finding(
      FAIL,
      what,
      '; '.join(failed[:3]),
      'Every process writes its part of a checkpoint: use one folder on a '
      'shared file system where all may write.',
    )
  blind = [i for i, number in enumerate(seen) if number < len(seen)]
  if blind:
    return Finding(
      FAIL,
      what,
      f'process {blind[0]} sees {seen[blind[0]]} of '
      f'{len(seen)} files that the processes wrote there',
      'It must be one folder for all: use a shared file system.',
    )
  return Finding(OK, what, 'written by every process and seen by all')


def look_at_disk(workdir: str, config: Mapping[str, Any] | None) -> Finding:
  """Compares the free disk with the size of the checkpoints of a job.

  Args:
    workdir: workdir of the job.
    config: config of the job; None only says how much is free.
  """
  sized = config is not None and 'model' in config
  need = distributed.first(_need, config) if sized else 0
  free = distributed.first(_free, workdir)
  shown = f'{free / 1e9:.1f} GB free'
  if need:
    shown += f', {need / 1e9:.1f} GB for {_COPIES} train states'
  what = 'disk of the workdir'
  if need > free:
    return Finding(FAIL, what, shown, 'Free some, or use another --workdir.')
  if need * 2 > free:
    return Finding(
      WARN,
      what,
      f'{shown}; models and importances come on top',
      'See that nothing else fills the disk.',
    )
  return Finding(OK, what, shown)


def _look(path) -> tuple[bool, str, str]:
  """(readable, error or fingerprint, words) of a path on this machine."""
  try:
    if path.is_dir():
      entries = sorted(path.iterdir())
      files = [p for p in entries if p.is_file()]
      names = [f'{p.name}:{p.stat().st_size}' for p in files]
      names += [p.name for p in entries if not p.is_file()]
      words = f'{len(entries)} entries'
    else:
      files, names = [path], [str(path.stat().st_size)]
      words = f'{path.stat().st_size:,} bytes'
    for file in files:
      with file.open('rb') as stream:
        stream.read(1)
  except OSError as error:
    return False, str(error), ''
  return True, hashlib.sha256('\n'.join(names).encode()).hexdigest(), words


def _open(folder) -> tuple[list[str], str]:
  """Makes a workdir; which folders were missing, and a word for this check."""
  path = pathlib.Path(folder)
  missing = [str(p) for p in (path, *path.parents) if not p.exists()]
  path.mkdir(parents=True, exist_ok=True)
  return missing, secrets.token_hex(8)


def _see(folder, word) -> int:
  """How many files of the processes this one sees in the end."""
  end = time.monotonic() + _PATIENCE
  while True:
    try:
      texts = [p.read_text() for p in folder.glob(f'{_MARKER}.{word}.*')]
    except OSError:  # counts as not seen
      texts = []
    if texts.count(word) >= jax.process_count() or time.monotonic() > end:
      return texts.count(word)
    time.sleep(0.2)


def _close(missing) -> None:
  """Deletes the folders that were made for the check."""
  with contextlib.suppress(OSError):  # somebody has put something there
    for path in missing:
      pathlib.Path(path).rmdir()


def _free(workdir) -> int:
  """Free bytes where a workdir is, or will be."""
  path = pathlib.Path(workdir).absolute()
  there = next(p for p in (path, *path.parents) if p.exists())
  return shutil.disk_usage(there).free


def _need(config) -> int:
  """Bytes of the train states of a job that are on disk at once."""
  model = dict(config['model'])
  path, _ = model.pop('path', ''), model.pop('processor', None)
  if path:
    built, _ = checkpoints.read_headers(path)
  else:
    built = from_options(model.pop('name'), _VOCABULARY, **model)
  return _COPIES * _STATE_BYTES * tree_lib.count(built.abstract_params)


def _where(error) -> str:
  """The next step for a workdir that cannot be made."""
  if isinstance(error, PermissionError):
    return 'Use a --workdir where you may write.'
  return 'Use another --workdir, or see to the disk.'
