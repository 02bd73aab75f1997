"""The settings of a folder, and what a result was made with."""

import collections
from collections.abc import Mapping
import importlib.metadata
import json
import pathlib
import platform
import subprocess
from typing import Any, TYPE_CHECKING

from mmu_jax import __version__
from mmu_jax.errors import UserError
from mmu_jax.workdir.files import read_json
from mmu_jax.workdir.files import to_json
from mmu_jax.workdir.files import write_json

if TYPE_CHECKING:
  import jax

CONFIG, MANIFEST = 'config.json', 'manifest.json'
WORLD = 'world.json'  # the settings that all of a workdir shares
PACKAGES = ('jax', 'flax', 'optax', 'orbax-checkpoint', 'transformers', 'numpy')


def claim(
  folder: pathlib.Path, settings: Mapping[str, Any], name: str = CONFIG
) -> bool:
  """Writes the settings of a folder, or checks that they are the same.

  Called before any result is written, so that a later run with other settings
  cannot take over the results of an earlier one. A folder that holds nothing
  else yet may be claimed again. Process 0 looks and writes.

  Args:
    folder: folder to claim; made if it is missing.
    settings: JSON value with everything that the result depends on.
    name: name of the file that holds the settings.

  Returns:
    Whether the folder holds no result yet.

  Raises:
    ValueError: if the folder was made from other settings; names them. If it
      holds results and no such file.
    OSError: if the file cannot be written.
  """
  from mmu_jax import distributed

  settings = json.loads(to_json(settings))  # tuples become lists
  return distributed.first(_claim, str(folder), settings, name)


def is_empty(workdir: str) -> bool:
  """Whether a workdir holds no result of any stage."""
  return not _results(pathlib.Path(workdir), WORLD)


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


def manifest(
  seed: int, mesh: 'jax.sharding.Mesh | None' = None
) -> dict[str, Any]:
  """Returns the versions, machine, code and seed that a result was made with.

  Args:
    seed: seed of the config.
    mesh: mesh of the devices, if there is one.

  Example:
    >>> manifest(3)['seed']
    3
  """
  import jax

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


def _claim(where: str, settings: Any, name: str) -> bool:
  """Claims a folder, in one process; returns whether it holds no result."""
  folder = pathlib.Path(where)
  path = folder / name
  found = read_json(path) if path.exists() else None
  held = _results(folder, name)
  if found == settings:
    return not held
  if not held:
    write_json(path, settings)
    return True
  if found is None:
    raise UserError(
      f'{path} is missing, and {folder} holds {", ".join(held[:4])}: nothing '
      'says what they were made from. Put the file back, use another '
      '--workdir, or delete that folder to make it again.'
    )
  raise UserError(
    f'{folder} was made from other settings: '
    f'{"; ".join(differences(found, settings)[:4])}. Use another --workdir, '
    'set these back, or delete that folder to make it again.'
  )


def _results(folder: pathlib.Path, claim: str = CONFIG) -> list[str]:
  """What depends on the settings, beside the claim of a folder."""
  first = (claim, CONFIG, MANIFEST, WORLD)

  def is_result(path: pathlib.Path) -> bool:
    if path.is_dir():
      return path.name.isdigit() or any(path.rglob('*.json*'))
    return path.suffix in ('.json', '.jsonl') and path.name not in first

  there = folder.iterdir() if folder.is_dir() else ()
  return sorted(path.name for path in there if is_result(path))


def _revision() -> str:
  """The git revision of the code, 'unknown' outside of a checkout."""
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
