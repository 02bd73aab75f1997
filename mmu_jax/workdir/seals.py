"""Marks that a file is whole, and as it was written.

Beside a finished file ``<file>`` stands ``<file>.seal``: its number of lines,
its hash, its name within the workdir, and what else belongs to it. A file
without a seal is not finished; one that its seal does not fit was cut, edited,
or copied here from elsewhere.
"""

from collections.abc import Iterable, Mapping
import hashlib
import pathlib
from typing import Any

from mmu_jax.errors import MissingError
from mmu_jax.errors import UserError
from mmu_jax.workdir import files

SUFFIX = '.seal'


def hash_json(value: Any) -> str:
  """Returns 32 hexadecimal digits that name a JSON value.

  Example:
    >>> hash_json({'a': 1, 'b': (2,)}) == hash_json({'b': [2], 'a': 1})
    True
  """
  text = files.to_json(value, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:32]


def write_rows(
  path: pathlib.Path,
  rows: Iterable[Mapping[str, Any]],
  name: str,
  note: Mapping[str, Any] = {},
) -> None:
  """Writes a finished JSON-lines file and its seal.

  Args:
    path: file to write.
    rows: all rows of the file.
    name: name of the file within its workdir; a copy elsewhere has another.
    note: JSON that belongs to the rows, kept in the seal.
  """
  files.write_jsonl(path, rows)
  seal(path, name, note)


def seal(path: pathlib.Path, name: str, note: Mapping[str, Any] = {}) -> None:
  """Marks a file as finished, as it is on disk now; see ``write_rows``."""
  files.sync(path)  # a log was appended to
  mark = {'name': name, **_measure(path), 'note': dict(note)}
  mark['hash'] = hash_json(mark)
  files.write_json(_place(path), mark)


def fault(path: pathlib.Path, name: str) -> str:
  """Returns why a file cannot be trusted, as a sentence; '' if it can.

  Args:
    path: file that ``write_rows`` or ``seal`` was called for.
    name: name that it should have.
  """
  if not path.is_file():
    return f'there is no {path}'
  wrong = _seal_fault(path)
  if wrong:
    return wrong
  mark = files.read_json(_place(path))
  if mark['name'] != name:
    return f'{path} was written as {mark["name"]!r}, not as {name!r}'
  found = _measure(path)
  if found['sha256'] != mark['sha256']:
    return (
      f'{path} is not as it was written: {found["lines"]} lines instead of '
      f'{mark["lines"]}, or others'
    )
  return ''


def read_rows(
  path: pathlib.Path, name: str, advice: str
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
  """Returns the rows of a finished file, and the note of its seal.

  Args:
    path: file that ``write_rows`` wrote.
    name: name that it should have.
    advice: next step for who reads the error, a sentence.

  Raises:
    FileNotFoundError: if there is no such file, or it is not finished.
    ValueError: if it is not as it was written.
  """
  wrong = fault(path, name)
  if wrong:
    gone = not (path.is_file() and _place(path).is_file())
    raise (MissingError if gone else UserError)(f'{wrong}. {advice}')
  return files.read_jsonl(path), read_note(path)


def read_note(path: pathlib.Path) -> dict[str, Any]:
  """Returns the note of the seal of a file."""
  return files.read_json(_place(path))['note']


def hash_of(path: pathlib.Path) -> str:
  """Returns the hash in the seal of a file; '' if it has no whole one."""
  return '' if _seal_fault(path) else files.read_json(_place(path))['hash']


def remove(path: pathlib.Path) -> None:
  """Removes the seal of a file that is to be written again, if there is one."""
  _place(path).unlink(missing_ok=True)


def _place(path: pathlib.Path) -> pathlib.Path:
  """Where the seal of a file is."""
  return path.with_name(path.name + SUFFIX)


def _seal_fault(path: pathlib.Path) -> str:
  """Why the seal of a file cannot be trusted; '' if it can."""
  if not _place(path).is_file():
    return f'{path} is not finished: there is no {_place(path).name}'
  try:
    mark = files.read_json(_place(path))
  except UserError as error:
    return str(error).removesuffix('.')
  kept = mark.pop('hash', None) if isinstance(mark, dict) else None
  if kept != hash_json(mark):
    return f'{_place(path)} was changed after it was written'
  return ''


def _measure(path: pathlib.Path) -> dict[str, Any]:
  """The number of lines of a file, and its hash."""
  content = path.read_bytes()
  return {
    'lines': content.count(b'\n'),
    'sha256': hashlib.sha256(content).hexdigest(),
  }
