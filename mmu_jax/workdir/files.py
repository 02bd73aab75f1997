"""Files that are whole or not there: JSON, JSON lines, logs, text.

What stages write is written here, but for the arrays of checkpoints, exported
weights and locks; ``seals`` tells whether a file is as it was written.
"""

from collections.abc import Callable, Iterable, Mapping
import contextlib
import errno
import json
import math
import os
import pathlib
from typing import Any
import warnings
import zlib

from mmu_jax import inputs
from mmu_jax.errors import DamageWarning
from mmu_jax.errors import DiskError
from mmu_jax.errors import UserError

_CHECK = 'crc'  # of a line that was appended


def to_json(value: Any, **options: Any) -> str:
  """Returns a value as JSON that every reader takes.

  JSON has no word for NaN and infinity. A number that is undefined is null,
  and an infinite one, as a setting may be, is the text 'inf' or '-inf'.

  Args:
    value: JSON value, whose numbers need not be finite.
    **options: options of ``json.dumps``.

  Example:
    >>> to_json({'value': float('nan'), 'clip_norm': float('inf')})
    '{"value": null, "clip_norm": "inf"}'
  """
  return json.dumps(_finite(value), allow_nan=False, **options)


def write_bytes(path: pathlib.Path, content: bytes) -> None:
  """Writes a file beside its name, waits for the disk, and renames it.

  So a kill or a power cut leaves the old file or the new one, never half of
  it. All files of a job but its checkpoints and logs are written so.

  Args:
    path: file to write; its folder is made if it is missing.
    content: all of the file.

  Raises:
    OSError: if it cannot be written; the old file is as it was.
    LostError: if another job has taken the workdir.
  """
  _check_held(path)
  part = path.with_name(path.name + '.part')
  try:
    make_folder(path.parent)
    with part.open('wb') as file:
      file.write(content)
      file.flush()
      os.fsync(file.fileno())
    part.replace(path)
    sync(path.parent)
  except OSError as error:
    with contextlib.suppress(OSError):
      part.unlink(missing_ok=True)
    raise _failed(path, error) from error


def make_folder(folder: pathlib.Path) -> None:
  """Makes a folder and those above it; their names are on disk."""
  if not folder.is_dir():
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync(folder.parent)


def sync(path: pathlib.Path) -> None:
  """Waits until a file, or the names in a folder, are on disk."""
  if not hasattr(os, 'O_DIRECTORY'):
    return  # a system that opens no folders
  try:
    number = os.open(path, os.O_RDONLY)
    try:
      os.fsync(number)
    finally:
      os.close(number)
  except OSError as error:
    # Some network file systems know no fsync of a folder, and some folders can
    # be written and not read.
    if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EACCES):
      raise


def write_text(path: pathlib.Path, text: str) -> None:
  """Writes a text file as UTF-8; the file is whole or as it was."""
  write_bytes(path, text.encode('utf-8'))


def write_json(path: pathlib.Path, value: Any) -> None:
  """Writes a JSON file; the file is whole or as it was."""
  write_text(path, to_json(value, indent=2) + '\n')


def write_jsonl(path: pathlib.Path, rows: Iterable[Mapping[str, Any]]) -> None:
  """Writes a JSON line for each row; the file is whole or as it was."""
  write_text(path, ''.join(to_json(row) + '\n' for row in rows))


def write_log(path: pathlib.Path, rows: Iterable[Mapping[str, Any]]) -> None:
  """Writes the first lines of a log, for ``append_jsonl`` to go on with."""
  write_text(path, _log_lines(rows))


def append_jsonl(path: pathlib.Path, rows: Iterable[Mapping[str, Any]]) -> None:
  """Adds a JSON line for each row to a file, while a job runs.

  Each line ends with its checksum: nothing else says that a log is whole.

  Raises:
    OSError: if the rows cannot be written, as on a full disk. A line that is
      cut off by that, or by a kill, is left out by ``read_log``.
  """
  _check_held(path)
  try:
    with path.open('a', encoding='utf-8') as file:
      file.write(_log_lines(rows))
  except OSError as error:
    raise _failed(path, error) from error


def read_text(path: pathlib.Path) -> str:
  """Reads a text file in UTF-8.

  Raises:
    ValueError: if it is none; names the file.
  """
  try:
    return inputs.read_bytes(path).decode()
  except UnicodeDecodeError as error:
    raise UserError(
      f'{path} is no text in UTF-8: {error}. Fetch or write it again.'
    ) from error


def read_json(path: pathlib.Path) -> Any:
  """Reads a JSON file.

  Raises:
    ValueError: if it is not JSON; names the file.
  """
  return _read(path, _loads)


def read_object(path: pathlib.Path) -> dict[str, Any]:
  """Reads a file with one JSON object, of others: a bare NaN stays one.

  Raises:
    ValueError: if it holds anything else; names the file.
  """
  found = _read(path, json.loads)
  if not isinstance(found, dict):
    raise UserError(
      f'{path} must hold a JSON object, got {type(found).__name__}. Fetch or '
      'write it again.'
    )
  return found


def read_jsonl(path: str | pathlib.Path) -> list[dict[str, Any]]:
  """Returns the rows of a JSON-lines file; blank lines are skipped.

  A process that was killed leaves a partial last line, which is dropped with
  a warning. A broken line anywhere else means that the file is damaged.

  Args:
    path: file to read.

  Raises:
    ValueError: naming file and line, if a line that is not the last one is
      not a JSON object.
  """
  text = pathlib.Path(path).read_text(encoding='utf-8', errors='replace')
  lines = [(i, s) for i, s in enumerate(text.split('\n'), 1) if s.strip()]
  found: list[dict[str, Any]] = []
  for number, line in lines:
    try:
      row = _loads(line)
    except json.JSONDecodeError as error:
      if number == lines[-1][0]:
        warnings.warn(
          f'{path}: line {number} is cut off (a stopped process?) and is '
          f'left out: {line[:60]!r}',
          DamageWarning,
          stacklevel=2,
        )
        return found
      raise UserError(
        f'{path}, line {number}: every line must be a JSON object; got '
        f'{line[:60]!r} ({error}): remove that line or write the file again'
      ) from error
    if not isinstance(row, dict):
      raise UserError(
        f'{path}, line {number}: every line must be a JSON object; got '
        f'{line[:60]!r}: write the file again'
      )
    found.append(row)
  return found


def read_log(path: str | pathlib.Path) -> list[dict[str, Any]]:
  """Returns the rows of a log as ``read_jsonl``, and checks each of them.

  Args:
    path: file that ``write_log`` and ``append_jsonl`` wrote.

  Raises:
    ValueError: naming file and row, if a row was changed.
  """
  rows = read_jsonl(path)
  for number, row in enumerate(rows, 1):
    kept = row.pop(_CHECK, None)
    if kept != _line_sum(row):
      how = 'is missing' if kept is None else 'is of another row'
      raise UserError(
        f'{path}, row {number} is not as it was written: its checksum {how}; '
        f'got {to_json(row)[:60]!r}. Remove that line, and run the same '
        'command again.'
      )
  return rows


def _check_held(path: pathlib.Path) -> None:
  """Raises where another job has taken the workdir; without JAX until then."""
  from mmu_jax.distributed import locks

  locks.check_held(path)


def _read(path: pathlib.Path, loads: Callable[[str], Any]) -> Any:
  """Reads a JSON file; names it where it is none."""
  text = inputs.read_bytes(path)
  try:
    return loads(text.decode())
  # Not JSON, not text, or too many brackets within each other.
  except (ValueError, RecursionError) as error:
    raise UserError(
      f'{path} is not JSON: {error}. Fetch or write it again.'
    ) from error


def _loads(text: str) -> Any:
  """A JSON value; bare NaN and infinity of earlier versions as ``to_json``."""
  return json.loads(text, parse_constant=lambda word: _finite(float(word)))


def _log_lines(rows: Iterable[Mapping[str, Any]]) -> str:
  """The lines of a log, each with its checksum."""
  return ''.join(
    to_json({**row, _CHECK: _line_sum(row)}) + '\n' for row in rows
  )


def _line_sum(row: Mapping[str, Any]) -> int:
  """The checksum of a line of a log."""
  return zlib.crc32(to_json(row).encode())


def _finite(value: Any) -> Any:
  """A JSON value whose numbers are finite."""
  if isinstance(value, float) and not math.isfinite(value):
    return None if math.isnan(value) else str(float(value))
  if isinstance(value, Mapping):
    return {k: _finite(v) for k, v in value.items()}
  if isinstance(value, (list, tuple)):
    return [_finite(v) for v in value]
  return value


def _failed(path: pathlib.Path, error: OSError) -> OSError:
  """The error of a file that cannot be written."""
  return DiskError(
    f'{path} cannot be written ({error.strerror}); the old file is as it '
    'was. Free space, or make the folder writable, and run the same command '
    'again: it goes on.'
  )
