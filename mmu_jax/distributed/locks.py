"""One job at a time in a workdir, also where machines share its file system.

Two trainings in one workdir would write each other's checkpoints and logs. The
file ``.lock`` says who is at work: machine, process, since when, and a number
that grows every ten seconds. A job that was killed leaves its lock, which the
next one recognises: on the same machine at once, since the process is gone;
from another machine when the number has not grown for a minute. A job that was
silent for so long and comes back finds another's lock, and stops.
"""

from collections.abc import Iterator
import contextlib
import json
import os
import pathlib
import platform
import re
import threading
import time
from typing import Any
import uuid

from mmu_jax.distributed import processes
from mmu_jax.distributed import progress
from mmu_jax.errors import DiskError
from mmu_jax.errors import LostError
from mmu_jax.errors import UserError

NAME = '.lock'
BEAT = 10  # seconds between two signs of life
SILENCE = 60  # seconds without one after which a job is taken to be gone
_FIELDS = {'machine', 'host', 'pid', 'started', 'since', 'token', 'beat'}
_held: dict[str, str] = {}  # folder -> token of the lock of this job


@contextlib.contextmanager
def alone_in(workdir: str | pathlib.Path) -> Iterator[None]:
  """Keeps other jobs out of a workdir for as long as the context lasts.

  The processes of one job count as one; contexts of one process may be nested.

  Args:
    workdir: folder of the job. If it is missing it is made, and removed at
      the end where nothing was written into it.

  Raises:
    ValueError: if another job is at work there; says which.
    OSError: if the folder cannot be written to.

  Example:
    >>> import tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> with alone_in(folder):
    ...   (folder / NAME).exists()
    True
    >>> (folder / NAME).exists()
    False
  """
  if not str(workdir):
    raise UserError("the workdir is the folder of a job; got ''.")
  folder = str(pathlib.Path(workdir).absolute())
  if folder in _held:
    yield
    return
  token, made = processes.first(_take, folder)
  _held[folder] = token
  stop = threading.Event()
  if processes.is_first():
    threading.Thread(
      target=_beat, args=(folder, token, stop), daemon=True
    ).start()
  try:
    yield
    processes.barrier('all have written')  # after an error they may not come
  finally:
    stop.set()
    del _held[folder]
    if processes.is_first():
      _release(folder, token, made)


def check_held(path: str | pathlib.Path) -> None:
  """Raises where a job has lost the workdir that a file is in.

  A machine that was suspended does not know that another took its lock. So
  whoever writes asks first.

  Args:
    path: file or folder to write, in a workdir or not.

  Raises:
    LostError: if the lock of its workdir is another's, or gone; says whose.
  """
  for folder, token in list(_held.items()):
    if not pathlib.Path(path).absolute().is_relative_to(folder):
      continue
    with contextlib.suppress(OSError):  # the file system is away for a while
      other = _read(pathlib.Path(folder, NAME))
      if other.get('token') == token or (other and 'pid' not in other):
        continue
      how = f'taken by another job{_who(other)}' if other else 'removed'
      raise LostError(
        f'the lock of {folder} was {how}. Without a sign of life for {SILENCE} '
        's a job is taken to be gone; this one stops, so that two do not write '
        'there. Once the other has ended, run the same command again.'
      )


def _take(folder: str) -> tuple[str, bool]:
  """Takes the lock; returns its token, and whether the folder was made."""
  path, me = pathlib.Path(folder, NAME), _myself()
  made = not path.parent.exists()
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    while not _create(path, me):
      other = _read(path)
      if other and _is_gone(path, other):
        if _remove(path, other):
          ended = f'a job that has ended{_who(other)}'
          progress.say(f'mmu: removed the lock of {ended}')
      elif other and _read(path).get('token') == other['token']:
        raise _busy(path, other)
    for claim in path.parent.glob(f'{NAME}.*'):  # of locks that are gone
      claim.unlink(missing_ok=True)
  except OSError as error:
    raise DiskError(
      f'{path} cannot be written ({error.strerror}). Make the workdir '
      'writable, or give another one.'
    ) from error
  return me['token'], made


def _create(path: pathlib.Path, me: dict[str, Any]) -> bool:
  """Writes a lock unless there is one."""
  try:
    number = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
  except FileExistsError:
    return False
  with os.fdopen(number, 'w', encoding='utf-8') as file:
    file.write(json.dumps(me))
    file.flush()
    os.fsync(file.fileno())  # a power cut would leave it empty
  return True


def _is_gone(path: pathlib.Path, other: dict[str, Any]) -> bool:
  """Whether a lock is of a job that has ended; may look for a minute."""
  if other.get('machine') == _machine():
    return _started(other['pid']) != other['started']
  until, said = time.monotonic() + SILENCE, False
  while time.monotonic() < until:
    time.sleep(min(BEAT, SILENCE) / 10)
    if _read(path) != other:
      return False  # a sign of life; or it has ended, or was being written
    if not said:
      kind = 'of a job on another machine' if 'pid' in other else 'empty or cut'
      progress.say(
        f'mmu: {path} is {kind}{_who(other)}; looking for a sign of life for '
        f'up to {SILENCE} s'
      )
      said = True
  return True


def _busy(path: pathlib.Path, other: dict[str, Any]) -> UserError:
  """The error of a workdir where another job is at work."""
  return UserError(
    f'another job is at work in {path.parent}{_who(other)}. Wait until it has '
    'ended, or give another --workdir. If you know that there is none, delete '
    f'{path}.'
  )


def _who(other: dict[str, Any]) -> str:
  """Whose lock it is, in brackets."""
  if 'pid' not in other:
    return ''
  return f' (process {other["pid"]} on {other["host"]}, since {other["since"]})'


def _remove(path: pathlib.Path, other: dict[str, Any]) -> bool:
  """Removes a lock if it is still this one; returns whether it was there.

  Between looking and removing, another job could have put its own lock in the
  place. So whoever removes a lock first claims its end: a lock whose name has
  the token of the other, which no later lock has. One claim alone can be made,
  and the claim of a process that was killed meanwhile ends in the same way.
  """
  claim = path.with_name(f'{NAME}.{other["token"]}')
  if not _create(claim, _myself()):
    first = _read(claim)
    if first and _is_gone(claim, first):
      _remove(claim, first)
    time.sleep(0.01)
    return False
  try:
    if _read(path).get('token') != other['token']:
      return False
    path.unlink()
    return True
  finally:
    claim.unlink(missing_ok=True)


def _beat(folder: str, token: str, stop: threading.Event) -> None:
  """Gives a sign of life now and then, while the lock is ours."""
  path = pathlib.Path(folder, NAME)
  while not stop.wait(BEAT):
    # The file system may be away for a while: it is tried again.
    with contextlib.suppress(OSError), path.open('r+') as file:
      mine = _fields(file.read())
      if mine.get('token') == token:
        file.seek(0)
        file.write(json.dumps({**mine, 'beat': mine['beat'] + 1}))


def _release(folder: str, token: str, made: bool) -> None:
  """Removes our lock, and a folder that was made and holds nothing."""
  path = pathlib.Path(folder, NAME)
  with contextlib.suppress(OSError):
    _remove(path, {'token': token})
    if made:
      path.parent.rmdir()


def _read(path: pathlib.Path) -> dict[str, Any]:
  """The fields of a lock; of a cut one a token alone; {} where it is gone."""
  try:
    text, status = path.read_text(errors='replace'), path.stat()
  except FileNotFoundError:
    return {}
  return _fields(text) or {'token': f'{status.st_ino}_{status.st_mtime_ns}'}


def _fields(text: str) -> dict[str, Any]:
  """The fields of a whole lock, else {}; the token becomes part of a name."""
  try:
    found = json.loads(text)
  except (ValueError, RecursionError):
    return {}
  whole = isinstance(found, dict) and found.keys() >= _FIELDS
  if not whole or not all(isinstance(found[x], int) for x in ('pid', 'beat')):
    return {}
  return found if re.fullmatch(r'\w{1,64}', str(found['token'])) else {}


def _myself() -> dict[str, Any]:
  """The fields of the lock of this process."""
  return {
    'host': platform.node(),
    'machine': _machine(),
    'pid': os.getpid(),
    'started': _started(os.getpid()),
    'since': time.strftime('%Y-%m-%d %H:%M:%S'),
    'token': uuid.uuid4().hex,
    'beat': 0,
  }


def _machine() -> str:
  """Names a machine since it was started, and what it calls processes."""
  parts = [platform.node()]
  with contextlib.suppress(OSError):  # Linux alone has these
    parts.append(pathlib.Path('/proc/sys/kernel/random/boot_id').read_text())
    parts.append(os.readlink('/proc/self/ns/pid'))
  return ' '.join(part.strip() for part in parts)


def _started(pid: int) -> str:
  """When a process of this machine was started; '' if it has ended."""
  try:
    # The name, which may hold blanks, ends with the last bracket.
    stat = pathlib.Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2]
    state, started = stat.split()[0], stat.split()[19]
    return '' if state == 'Z' else started
  except OSError:
    pass
  if pathlib.Path('/proc/self').exists():
    return ''
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return ''
  except PermissionError:
    pass  # it is there, and of another user
  return 'there'
