"""A folder of a job: what it was made from, and files that are never half."""

import collections
from collections.abc import Iterable, Mapping
import contextlib
import importlib.metadata
import json
import pathlib
import platform
import subprocess
from typing import Any
import warnings

import jax

from mmu_jax import __version__
from mmu_jax import distributed
from mmu_jax.errors import DiskError
from mmu_jax.errors import UserError

CONFIG = 'config.json'
PACKAGES = ('jax', 'flax', 'optax', 'orbax-checkpoint', 'transformers', 'numpy')


def claim(
  folder: pathlib.Path, settings: Mapping[str, Any], name: str = CONFIG
) -> None:
  """Writes what a folder is made from, or checks that it is the same.

  It comes first, before any result is written, so that a later run with other
  settings cannot take over the results of an earlier one. A folder that holds
  nothing else yet may be claimed anew. Of several processes the first looks
  and writes.

  Args:
    folder: made if it is missing.
    settings: JSON; everything that the result depends on.
    name: of the file that says so.

  Raises:
    ValueError: if the folder was made from other settings; names them.
    OSError: if it cannot be written to.
  """
  settings = json.loads(json.dumps(settings))  # tuples become lists
  distributed.first(_claim, str(folder), settings, name)


def _claim(folder: str, settings: Any, name: str) -> None:
  """Claims a folder, in one process."""
  folder = pathlib.Path(folder)
  path = folder / name
  found = read_json(path) if path.exists() else None
  if found == settings:
    return
  held = {p.name for p in folder.iterdir()} if folder.is_dir() else set()
  if found is None or held == {name}:
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, settings)
    return
  raise UserError(
    f'{folder} was made from other settings: '
    f'{"; ".join(differences(found, settings)[:4])}. Use another --workdir, '
    'set these back, or delete that folder to make it again.'
  )


def differences(old: Any, new: Any, name: str = '') -> list[str]:
  """Says where two JSON values differ: ``'a.b: 1 there, 2 asked for'``.

  Example:
    >>> differences({'a': {'b': 1}, 'c': 3}, {'a': {'b': 2}, 'c': 3})
    ['a.b: 1 there, 2 asked for']
  """
  if old == new:
    return []
  if isinstance(old, dict) and isinstance(new, dict):
    keys = [*old, *(key for key in new if key not in old)]
    return [
      text
      for key in keys
      for text in differences(
        old.get(key), new.get(key), f'{name}.{key}' if name else key
      )
    ]
  return [f'{name}: {old!r} there, {new!r} asked for']


def write_json(path: pathlib.Path, value: Any) -> None:
  """Writes a JSON file at once."""
  _write(path, json.dumps(value, indent=2) + '\n')


def write_jsonl(path: pathlib.Path, rows: Iterable[Mapping[str, Any]]) -> None:
  """Writes a JSON line for each row, all at once."""
  _write(path, ''.join(json.dumps(row) + '\n' for row in rows))


def append_jsonl(path: pathlib.Path, rows: Iterable[Mapping[str, Any]]) -> None:
  """Adds a JSON line for each row to a file, for those who wait for them.

  Raises:
    OSError: if the disk is full, say. A line that is cut off by it, or by a
      kill, is left out by ``read_jsonl``.
  """
  try:
    with path.open('a', encoding='utf-8') as file:
      file.write(''.join(json.dumps(row) + '\n' for row in rows))
  except OSError as error:
    raise _failed(path, error) from error


def read_json(path: pathlib.Path) -> Any:
  """Reads a JSON file."""
  return json.loads(path.read_text())


def read_jsonl(path: str | pathlib.Path) -> list[dict[str, Any]]:
  """The rows of a JSON-lines file; blank lines are passed over.

  A process that was killed leaves a partial last line: that one is dropped
  with a warning. A broken line anywhere else means that the file is damaged.

  Args:
    path: the file.

  Returns:
    One dict per line.

  Raises:
    ValueError: naming file and line, if a line that is not the last one is
      not a JSON object.
  """
  text = pathlib.Path(path).read_text(encoding='utf-8', errors='replace')
  lines = [(i, s) for i, s in enumerate(text.split('\n'), 1) if s.strip()]
  found = []
  for number, line in lines:
    try:
      row = json.loads(line)
    except json.JSONDecodeError as error:
      if number == lines[-1][0]:
        warnings.warn(
          f'{path}: line {number} is cut off (a stopped process?) and is '
          f'left out: {line[:60]!r}',
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


def manifest(
  seed: int, mesh: jax.sharding.Mesh | None = None
) -> dict[str, Any]:
  """Returns what a result was made with: versions, machine, code, seed.

  Args:
    seed: of the config.
    mesh: on which it is made, if on one.

  Example:
    >>> manifest(3)['seed']
    3
  """
  devices = jax.devices()
  kinds = collections.Counter(device.device_kind for device in devices)
  return {
    'seed': seed,
    'processes': jax.process_count(),
    'mesh': None if mesh is None else dict(mesh.shape),
    'python': platform.python_version(),
    'packages': {
      'mmu_jax': __version__,
      **{name: importlib.metadata.version(name) for name in PACKAGES},
    },
    'devices': [str(device) for device in devices],
    'device_kinds': dict(kinds),
    'revision': _revision(),
  }


def _write(path: pathlib.Path, text: str) -> None:
  """Writes beside the file and renames: a killed process leaves the old.

  It does not wait for the disk (fsync): a kill loses nothing that was written,
  and after a power cut the stage is run again.
  """
  part = path.with_name(path.name + '.part')
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    part.write_text(text)
    part.replace(path)
  except OSError as error:
    with contextlib.suppress(OSError):
      part.unlink(missing_ok=True)
    raise _failed(path, error) from error


def _failed(path: pathlib.Path, error: OSError) -> OSError:
  """What to do about a file that cannot be written."""
  return DiskError(
    f'{path} cannot be written ({error.strerror}); what was there is as it '
    'was. Free space, or make the folder writable, and run the same command '
    'again: it goes on.'
  )


def _revision() -> str:
  """The git revision of the code, 'unknown' where it is not in a checkout."""
  here = pathlib.Path(__file__).parent
  try:
    found = subprocess.run(
      ['git', 'describe', '--always', '--dirty'],
      cwd=here,
      capture_output=True,
      text=True,
      check=True,
    )
  except (OSError, subprocess.CalledProcessError):
    return 'unknown'
  return found.stdout.strip()
