"""What enters from outside: names that become files, and files to read."""

import os
import pathlib
import re
import stat

from mmu_jax.errors import MissingError
from mmu_jax.errors import UserError

LARGEST = 2**30  # bytes of a file that is read at once
_LONGEST = 100  # bytes of a name; file systems take 255, with an ending
_SIGNS = '/\\:*?"<>|'
_DEVICES = re.compile(r'(con|prn|aux|nul|(com|lpt)\d)(\..*)?', re.IGNORECASE)
# A task of this name would be written over files about another task.
_FILES = ('.jsonl', '.ndjson', '.parquet', '.json')
_ENDINGS = ('.partial', '.judged')


def check_name(name: object, what: str, parts: int = 1) -> str:
  """Returns a name that becomes a file or folder, if it is safe as one.

  Called where a name enters, and again where a file gets it.

  Args:
    name: name from a config or from data: of a task, a run, a split, a mask.
    what: kind of name, for the message: 'task'.
    parts: most folders that a name may have, with '/' between them.

  Raises:
    ValueError: if the name is no text, empty, longer than 100 bytes, or leads
      elsewhere; says which rule it breaks.

  Example:
    >>> check_name('forget_vqa', 'task')
    'forget_vqa'
    >>> check_name('../../ga', 'run')  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    mmu_jax.errors.UserError: the name of a run ... it has '/'. Rename it.
  """
  rule = ''
  if not isinstance(name, str):
    rule = f'it is of type {type(name).__name__}'
  else:
    pieces = name.split('/') if parts > 1 else [name]
    if len(pieces) > parts:
      rule = f'it has more than {parts} parts'
    rule = next(filter(None, map(_broken_rule, pieces)), rule)
  if rule:
    raise UserError(
      f'the name of a {what} becomes a file, and {str(name)[:60]!r} cannot: '
      f'{rule}. Rename it.'
    )
  return str(name)


def no_folder(path: str | os.PathLike, kind: str) -> MissingError:
  """Returns the error for a folder that is not there.

  Args:
    path: path as it was given; it may be a name of the hub.
    kind: 'model' or 'dataset'.
  """
  fix = download(path, kind) or 'Check the path.'
  return MissingError(f'there is no folder {str(path)[:200]}. {fix}')


def download(path: str | os.PathLike, kind: str) -> str:
  """Returns how to get a name of the hub; '' for a path that is none.

  Args:
    path: path as it was given.
    kind: 'model' or 'dataset'.

  Example:
    >>> download('org/name', 'model').split(': ')[1]
    'hf download org/name --local-dir name'
  """
  text = str(path)[:200]
  if not re.fullmatch(r'\w[\w.-]*/[\w.-]+', text) or text.endswith(_FILES):
    return ''
  more = ' --repo-type dataset' if kind == 'dataset' else ''
  return (
    'If it is a name of the Hugging Face hub, give the folder that this makes: '
    f'hf download {text}{more} --local-dir {text.split("/")[1]}'
  )


def check_file(path: str | os.PathLike, most: int | None = None) -> None:
  """Raises unless a path is a file that can be read to its end.

  Pipes, sockets, devices and folders are none: reading some of them never
  ends. Links are followed.

  Args:
    path: path of the file.
    most: most bytes that it may have; None for any number.

  Raises:
    FileNotFoundError: if there is nothing.
    ValueError: if it is no regular file, too large, or cannot be looked at.
  """
  shown = str(path)[:200]
  try:
    found = os.stat(path)
  except (FileNotFoundError, NotADirectoryError) as error:
    raise MissingError(f'there is no file {shown}. Check the path.') from error
  except (OSError, ValueError) as error:  # no rights, too long, a null byte
    why = getattr(error, 'strerror', None) or error
    raise UserError(f'{shown!r} is not a file to read: {why}.') from error
  if not stat.S_ISREG(found.st_mode):
    kind = 'a folder' if stat.S_ISDIR(found.st_mode) else 'a pipe or device'
    raise UserError(f'{shown} must be a file, and is {kind}. Check the path.')
  if most is not None and found.st_size > most:
    raise UserError(
      f'{shown} has {found.st_size:,} bytes, and at most {most:,} are read. '
      'Is it the right file?'
    )


def read_bytes(path: str | os.PathLike, most: int = LARGEST) -> bytes:
  """Returns the bytes of a file: see ``check_file`` for arguments and errors.

  A file that grows while it is read is an error too.
  """
  check_file(path, most)
  try:
    with open(path, 'rb') as file:
      # A buffer of the file's size: one of the limit's would be 1 GiB.
      size = os.fstat(file.fileno()).st_size
      found = file.read(min(size, most) + 1)
  except OSError as error:
    raise UserError(
      f'{path} cannot be read: {error.strerror}. Check its rights.'
    ) from error
  if len(found) > min(size, most):
    raise UserError(f'{path} grows while it is read. Is it the right file?')
  return found


def is_inside(path: pathlib.Path, folder: pathlib.Path) -> bool:
  """Whether a path is below a folder, when links and '..' are followed.

  Example:
    >>> is_inside(pathlib.Path('a/b/../c.png'), pathlib.Path('a'))
    True
    >>> is_inside(pathlib.Path('a/../../c.png'), pathlib.Path('a'))
    False
  """
  try:
    return path.resolve().is_relative_to(folder.resolve())
  except (OSError, ValueError, RuntimeError):  # a loop of links, a null byte
    return False


def _broken_rule(name: str) -> str:
  """The rule that a name of one part breaks, or ''."""
  signs = [sign for sign in name if sign in _SIGNS or not sign.isprintable()]
  if not name.strip():
    return 'it is empty'
  if signs:
    return f'it has {signs[0]!r}'
  if len(name.encode()) > _LONGEST:
    return f'it has more than {_LONGEST} bytes'
  if name.startswith('.') or name.endswith('.') or name != name.strip():
    return 'it begins or ends with a dot or space'
  if _DEVICES.fullmatch(name):
    return 'systems reserve it for a device'
  if name.endswith(_ENDINGS):
    return f'it ends as files of the package do ({", ".join(_ENDINGS)})'
  return ''
