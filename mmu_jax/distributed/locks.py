"""One job at a time in a workdir, also where machines share its file system.

Two trainings in one workdir would write each other's checkpoints and logs. The
file ``.lock`` says who is at work: machine, process, since when, and a number
that grows every ten seconds. A job that was killed leaves its lock, which the
next one recognises: on the same machine at once, since the process is gone;
from another machine when the number has not grown for a minute.
"""

from collections.abc import Iterator
import contextlib
import json
import os
import pathlib
import platform
import threading
import time
from typing import Any
import uuid

from mmu_jax.distributed import processes
from mmu_jax.distributed import progress
from mmu_jax.errors import DiskError
from mmu_jax.errors import UserError

NAME = '.lock'
BEAT = 10  # seconds between two signs of life
SILENCE = 60  # seconds without one after which a job is taken to be gone
_held: dict[str, int] = {}  # folder -> how often this process is in it


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
  folder = str(pathlib.Path(workdir).absolute())
  token, made = '', False
  if not _held.get(folder):
    token, made = processes.first(_take, folder)
  _held[folder] = _held.get(folder, 0) + 1
  stop = threading.Event()
  if token and processes.is_first():
    threading.Thread(
      target=_beat, args=(folder, token, stop), daemon=True
    ).start()
  try:
    yield
  finally:
    stop.set()
    _held[folder] -= 1
    if token and processes.is_first():
      _release(folder, token, made)


def _take(folder: str) -> tuple[str, bool]:
  """Takes the lock; returns its token, and whether the folder was made."""
  path, me = pathlib.Path(folder, NAME), _myself()
  made = not path.parent.exists()
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    while not _create(path, me):
      other = _read(path)
      if _is_gone(path, other) and _remove(path, other):
        progress.say(
          f'mmu: removed the lock of a job that has ended{_who(other)}'
        )
  except OSError as error:
    if isinstance(error, UserError):
      raise
    raise DiskError(
      f'{path} cannot be written ({error.strerror}). Make the workdir '
      'writable, or give another one.'
    ) from error
  return me['token'], made


def _create(path: pathlib.Path, me: dict[str, Any]) -> bool:
  """Writes the lock unless there is one."""
  try:
    number = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
  except FileExistsError:
    return False
  with os.fdopen(number, 'w', encoding='utf-8') as file:
    file.write(json.dumps(me))
  return True


def _is_gone(path: pathlib.Path, other: dict[str, Any]) -> bool:
  """Whether a lock is of a job that has ended; raises where it is at work."""
  if other.get('machine') == _machine():
    if _started(other['pid']) != other['started']:
      return True
    raise _busy(path, other)
  if other:
    progress.say(
      f'mmu: {path} is of a job on another machine{_who(other)}; looking for '
      f'a sign of life for up to {SILENCE} s'
    )
  until = time.monotonic() + SILENCE
  while time.monotonic() < until:
    time.sleep(min(BEAT, SILENCE) / 10)
    now = _read(path)
    if now and now.get('token') == other.get('token') and now != other:
      raise _busy(path, now)
    if now != other:
      return False  # it has ended, or was only being written: look again
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
  if not other:
    return ''
  return f' (process {other["pid"]} on {other["host"]}, since {other["since"]})'


def _remove(path: pathlib.Path, other: dict[str, Any]) -> bool:
  """Removes a lock if it is still this one; returns whether it was there.

  A lock is removed here alone, by one job at a time: between looking and
  removing, another job could have put its own lock in the place.
  """
  with _guarded(path):
    if _read(path).get('token') != other.get('token') or not path.exists():
      return False
    path.unlink()
    return True


@contextlib.contextmanager
def _guarded(path: pathlib.Path) -> Iterator[None]:
  """Waits for its turn to remove a lock; a turn takes milliseconds."""
  guard = path.with_name(f'{NAME}.guard')
  until = time.monotonic() + SILENCE
  while True:
    try:
      os.close(os.open(guard, os.O_CREAT | os.O_EXCL))
      break
    except FileExistsError:
      time.sleep(0.01)
    if time.monotonic() > until:  # of a job that was killed in its turn
      guard.unlink(missing_ok=True)
      until = time.monotonic() + SILENCE
  try:
    yield
  finally:
    guard.unlink(missing_ok=True)


def _beat(folder: str, token: str, stop: threading.Event) -> None:
  """Gives a sign of life now and then, as long as the lock is ours."""
  path = pathlib.Path(folder, NAME)
  while not stop.wait(BEAT):
    try:
      with path.open('r+', encoding='utf-8') as file:
        mine = json.loads(file.read())
        if mine['token'] != token:
          return
        file.seek(0)
        file.write(json.dumps({**mine, 'beat': mine['beat'] + 1}))
    except (OSError, ValueError, KeyError):
      return  # it was deleted or taken; the disk may be gone, too


def _release(folder: str, token: str, made: bool) -> None:
  """Removes our lock, and a folder that was made and holds nothing."""
  path = pathlib.Path(folder, NAME)
  with contextlib.suppress(OSError):
    _remove(path, {'token': token})
    if made:
      path.parent.rmdir()


def _read(path: pathlib.Path) -> dict[str, Any]:
  """The fields of a lock; {} where it is gone or being written."""
  try:
    found = json.loads(path.read_text(encoding='utf-8'))
  except (FileNotFoundError, ValueError):
    return {}
  fields = ('machine', 'host', 'pid', 'started', 'since', 'token', 'beat')
  whole = isinstance(found, dict) and all(name in found for name in fields)
  return found if whole else {}


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
