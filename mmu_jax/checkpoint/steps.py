"""The numbered folders of checkpoints: which there are, and which are whole.

A step folder gets its numeric name only when everything is on disk, including
note and checksums. Half steps, damaged steps and steps being deleted have other
names. In a job of several processes the first one looks and renames, so that
all take the same step; all of them read the files.
"""

import contextlib
import os
import pathlib
import shutil
from typing import Any
import warnings

import jax
from jax.experimental import multihost_utils
import numpy as np

from mmu_jax import distributed
from mmu_jax import workdir as workdir_lib
from mmu_jax.checkpoint import digests
from mmu_jax.distributed import locks
from mmu_jax.errors import DamageWarning
from mmu_jax.errors import DiskError
from mmu_jax.errors import MissingError
from mmu_jax.errors import UserError

NOTE = '_NOTE'  # in a step
COPY = 'note.json'  # beside the steps, for people
DAMAGED, DELETING = '.damaged', '.deleting'
PART = 'ocdbt.process_'  # in a step, of each process
HALF = 'orbax-checkpoint-tmp'  # in the names that Orbax gives


def steps(folder: pathlib.Path) -> list[int]:
  """Returns the numbers of the steps in a folder, in order.

  A folder with neither note nor checksums does not count: a process could not
  write its part of it.

  Example:
    >>> import pathlib, tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> for name in ('20', '3', '40.orbax-checkpoint-tmp', 'note.json'):
    ...   (folder / name).mkdir()
    ...   (folder / name / NOTE).touch()
    >>> (folder / '30').mkdir()
    >>> steps(folder)
    [3, 20]
  """
  return distributed.first(_steps, str(folder))


def newest(folder: pathlib.Path) -> int:
  """Returns the number of the newest step.

  Raises:
    FileNotFoundError: if there is none.
  """
  found = steps(folder)
  if not found:
    raise missing(folder)
  return found[-1]


def open_folder(folder: pathlib.Path) -> None:
  """Makes a folder, and deletes half steps of killed processes."""
  distributed.first(_open, str(folder))


def delete_old(folder: pathlib.Path, keep_last: int, keep_every: int) -> None:
  """Deletes all but the steps to keep; in one process."""
  for step in _steps(str(folder))[:-keep_last]:
    if not keep_every or step % keep_every:
      delete(folder / str(step))


def delete(path: pathlib.Path) -> None:
  """Deletes a step, if it is there: it is out of sight at once."""
  if path.exists():
    gone = path.with_name(path.name + DELETING)
    path.rename(gone)
    shutil.rmtree(gone)


def give_up(path: pathlib.Path) -> None:
  """Marks a step as failed: ignored even if Orbax gives it its number."""
  for name in (NOTE, digests.NAME):
    with contextlib.suppress(OSError):
      (path / name).unlink(missing_ok=True)


def check_parts(path: pathlib.Path) -> None:
  """Raises unless every process has summed up its part of a step."""
  missing = [
    i
    for i in range(jax.process_count())
    if not (path / f'{digests.NAME}.{i}').exists()
  ]
  if missing:
    raise OSError(f'processes {missing} have not written their parts')


def whole_step(folder: pathlib.Path, step: int | None) -> int:
  """Returns the step to restore, after verifying every byte of it.

  Damaged newer steps are renamed, with a warning. If all are damaged they keep
  their names: such a run must not start again as if there were no checkpoint.

  Args:
    folder: folder of the steps.
    step: number of the only step to use; None for the newest whole one.

  Raises:
    FileNotFoundError: if there is none.
    ValueError: if none is whole.
  """
  found = steps(folder)
  if not found or (step is not None and step not in found):
    raise missing(folder, step)
  damaged = {}
  for number in reversed(found) if step is None else [step]:
    wrong = damage(folder / str(number))
    if not wrong:
      if damaged:
        distributed.first(_put_aside, str(folder), list(damaged))
        _say_which(folder, damaged, number)
      return number
    damaged[number] = wrong
  raise UserError(
    f'the checkpoint {folder / str(max(damaged))} is damaged, and no other '
    f'is {"left" if step is None else "asked for"}: {_say(damaged)}. Delete '
    'this step and run the stage again, or copy it here again from where it '
    'is whole.'
  )


def _say_which(folder, damaged, number) -> None:
  """Warns, in the first process, that an older step is taken."""
  if distributed.is_first():
    warnings.warn(
      f'in {folder}, {_say(damaged)}. Step {number}, the one before, '
      f'is taken; the damaged one is now called <step>{DAMAGED} and is '
      'not read again.',
      DamageWarning,
      stacklevel=4,
    )


def damage(path: pathlib.Path) -> list[str]:
  """Returns the faults of a step, [] if there is none.

  Every process reads a part of the files, and all get the same answer.
  """
  wrong, blocks = distributed.first(_blocks, str(path))
  if wrong:
    return wrong
  blocks = [digests.Block(*block) for block in blocks]
  mine = range(jax.process_index(), len(blocks), jax.process_count())
  bad = np.zeros(len(blocks), bool)
  bad[mine] = list(digests.changed(path, [blocks[i] for i in mine]))
  if jax.process_count() > 1:
    bad = multihost_utils.process_allgather(bad).any(axis=0)
  files = dict.fromkeys(blocks[i].file for i in bad.nonzero()[0])
  return [f'{file} is not as it was written' for file in files]


def time_of(path: pathlib.Path) -> int:
  """Returns the time a step was made, in nanoseconds; 0 if that is damaged."""
  return distributed.first(_time_of, str(path))


def write_copy(folder: pathlib.Path, note: dict[str, Any]) -> None:
  """Writes the note that people read, whole or not at all."""
  distributed.first(_write_copy, str(folder), note)


def read_note(folder: pathlib.Path) -> dict[str, Any]:
  """Reads the note of the newest step.

  Raises:
    FileNotFoundError: if there is none.
    ValueError: if it is not as it was written.
  """
  found = distributed.first(_read_note, str(folder))
  if found is None:
    raise MissingError(
      f'{folder} holds no finished tree with a note. Run the stage that '
      'writes it, or give another folder.'
    )
  return found


def missing(folder: pathlib.Path, step: int | None = None) -> MissingError:
  """Returns the error of a missing checkpoint."""
  which = '' if step is None else f' of step {step}'
  return MissingError(
    f'there is no checkpoint{which} in {folder}. Run the stage that writes '
    'it, or give another folder.'
  )


def failed(folder: pathlib.Path, error: Exception) -> OSError:
  """Returns the error of a checkpoint that cannot be written."""
  found = _steps(str(folder))
  left = f'step {found[-1]} there is whole' if found else 'none is there yet'
  said = ' '.join(str(error).split())
  said = said if len(said) < 250 else '... ' + said[-250:]  # the cause is last
  return DiskError(
    f'a checkpoint cannot be written to {folder}; {left}. Free space, or '
    'make the folder writable, and run the same command again: it goes on '
    f'from what is whole. The system says: {type(error).__name__}: {said}'
  )


def _steps(folder: str) -> list[int]:
  """The numbers of the steps."""
  if not os.path.isdir(folder):
    return []
  names = (name for name in os.listdir(folder) if name.isdigit())
  return sorted(int(name) for name in names if _counts(folder, name))


def _counts(folder: str, name: str) -> bool:
  """Whether all of a step has been there; since then a file may be lost."""
  return any(
    os.path.exists(os.path.join(folder, name, file))
    for file in (NOTE, digests.NAME)
  )


def _open(folder: str) -> None:
  """Makes a folder, and clears it."""
  locks.check_held(folder)
  try:
    workdir_lib.make_folder(pathlib.Path(folder))
    for path in pathlib.Path(folder).iterdir():
      if _is_left(path):
        shutil.rmtree(path)
  except OSError as error:
    raise failed(pathlib.Path(folder), error) from error


def _is_left(path: pathlib.Path) -> bool:
  """Whether it is half of a step, or a step that was being deleted."""
  if path.name.isdigit() and not _counts(str(path.parent), path.name):
    return any(path.glob(f'{PART}*'))  # or it is not one of ours
  return HALF in path.name or path.suffix == DELETING


def _put_aside(folder: str, damaged: list[int]) -> None:
  """Renames damaged steps; where that is not allowed they stay."""
  for step in damaged:
    path = pathlib.Path(folder, str(step))
    aside = path.with_name(path.name + DAMAGED)
    try:
      shutil.rmtree(aside, ignore_errors=True)
      path.rename(aside)
    except PermissionError:
      pass  # a folder of others, which is only read


def _blocks(path: str):
  """The view of the first process of a step, as JSON."""
  return digests.blocks(pathlib.Path(path))


def _time_of(path: str) -> int:
  """When the checksums of a step were written."""
  file = pathlib.Path(path, digests.NAME)
  return file.stat().st_mtime_ns if file.exists() else 0


def _write_copy(folder: str, note: dict[str, Any]) -> None:
  """Writes a note beside its final name first."""
  path = pathlib.Path(folder, COPY)
  try:
    workdir_lib.write_json(path, note)
  except OSError as error:
    raise failed(pathlib.Path(folder), error.__cause__ or error) from error


def _read_note(folder: str) -> dict[str, Any] | None:
  """Reads a note, if there is one."""
  found = [pathlib.Path(folder, str(step)) for step in _steps(folder)]
  if not found:
    return None
  if digests.is_changed(found[-1], NOTE):
    raise UserError(
      f'the note {found[-1] / NOTE} is not as it was written. Delete this '
      'step and run the stage again, or copy it here again from where it is '
      'whole.'
    )
  return workdir_lib.read_json(found[-1] / NOTE)


def _say(damaged: dict[int, list[str]]) -> str:
  """Names steps and the fault of each."""
  return '; '.join(
    f'step {step} is damaged ({", ".join(wrong[:3])}'
    + (f' and {len(wrong) - 3} more)' if len(wrong) > 3 else ')')
    for step, wrong in damaged.items()
  )
