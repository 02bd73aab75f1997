"""Finds a config by its name or path, and runs its ``get_config``."""

from collections.abc import Iterator
import contextlib
import importlib.machinery
import importlib.util
import inspect
import pathlib

import ml_collections

from mmu_jax.errors import MissingError
from mmu_jax.errors import UserError

_PACKAGE = pathlib.Path(__file__).parents[1]


def load(spec: str) -> ml_collections.ConfigDict:
  """Returns the config that a name or path stands for.

  Args:
    spec: name of a config that comes with the package, or path of a Python
      file (it has a slash, or ends in '.py'); then a colon and the variant,
      if one is wanted: 'people', 'clear:ratio=10', 'mine/job.py:fast'.

  Returns:
    A new config; changing it changes no other.

  Raises:
    FileNotFoundError: if there is no such config; names those that exist.
    ValueError: if the file is no config, or does not know the variant.

  Example:
    >>> load('people:fast').data.num_people
    12
  """
  name, *variant = spec.split(':', 1)
  path = _path(name)
  loader = importlib.machinery.SourceFileLoader('mmu_config', str(path))
  module_spec = importlib.util.spec_from_loader('mmu_config', loader)
  assert module_spec is not None
  module = importlib.util.module_from_spec(module_spec)
  try:
    with _own_code(path):
      loader.exec_module(module)
  except SyntaxError as error:
    raise UserError(
      f'{path} is not a config: it must be a Python file with a function '
      f'get_config, and line {error.lineno} is no Python ({error.msg}).'
    ) from error
  make = getattr(module, 'get_config', None)
  if not callable(make):
    raise UserError(
      f'{path} is not a config: it has no function get_config. Write one '
      'that returns a ConfigDict, as the files in configs/ do.'
    )
  try:
    inspect.signature(make).bind(*variant)
  except TypeError as error:
    raise UserError(
      f'get_config of {path} must take a variant or nothing, as in {spec!r}: '
      f'{error}.'
    ) from error
  with _own_code(path):
    config = make(*variant)
  if not isinstance(config, ml_collections.ConfigDict):
    raise UserError(
      f'get_config of {path} must return a ConfigDict; it returns '
      f'{type(config).__name__}.'
    )
  return config


@contextlib.contextmanager
def _own_code(path: pathlib.Path) -> Iterator[None]:
  """Says of an error that it is in a config; it keeps its traceback."""
  try:
    yield
  except Exception as error:
    error.add_note(f'This was raised by the code of the config {path}.')
    raise


def known() -> tuple[str, ...]:
  """Returns the names of the configs that come with the package.

  Example:
    >>> 'people' in known()
    True
  """
  return tuple(sorted(path.stem for path in _folder().glob('*.py')))


def _folder() -> pathlib.Path:
  """The folder of configs: in the package, or beside it in a checkout."""
  inside = _PACKAGE / 'configs'
  return inside if inside.is_dir() else _PACKAGE.parent / 'configs'


def _path(name: str) -> pathlib.Path:
  """The file of a config."""
  if '/' not in name and not name.endswith('.py'):
    path = _folder() / f'{name}.py'
    rule = f'the configs are {", ".join(known())}, or the path of a file'
  else:
    path = pathlib.Path(name)
    rule = f'{name} is not a file; a config is also one of {", ".join(known())}'
  if not path.is_file():
    raise MissingError(
      f'there is no config {name!r}: {rule}. Give --config=NAME:VARIANT or '
      '--config=FILE.py:VARIANT.'
    )
  return path
