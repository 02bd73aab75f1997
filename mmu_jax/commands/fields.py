"""Reads a config and sets the fields that the command line gives.

Messages show no value of a field that may be a key.
"""

from collections.abc import Mapping, Sequence
import difflib
from typing import Any

from absl import flags
import ml_collections
from ml_collections import config_flags

from mmu_jax import recipes
from mmu_jax.errors import UserError
from mmu_jax.settings import table as settings
from mmu_jax.settings.rules import may_hold_secret
from mmu_jax.settings.rules import shown

_PREFIX = '--config.'


def read(spec: str, overrides: Sequence[str]) -> ml_collections.ConfigDict:
  """Returns a config with the given fields set.

  Args:
    spec: name or path of the config, see ``recipes.load``.
    overrides: words of the command line, as '--config.seed=1'.

  Raises:
    ValueError: if the config or a field is unknown, a value is out of its
      range, or a word is no field.

  Example:
    >>> read('people:fast', ['--config.runs.npo.rate=3e-4']).runs.npo.rate
    0.0003
  """
  config = recipes.load(spec)
  for word in overrides:
    _check(config, word, spec)
  values, given = flags.FlagValues(), ['mmu', *overrides]
  try:
    # Without sys_argv, the fields to set are looked for in sys.argv.
    config_flags.DEFINE_config_dict(
      'config', config, flag_values=values, sys_argv=given
    )
    rest = values(given)
  except flags.Error as error:
    said = str(error)
    if may_hold_secret(said):
      said = said.partition('=')[0] + ' has a value of another type'
    raise UserError(
      f'{said}. Options are --config, --workdir, and fields of the config '
      'such as --config.seed=1.'
    ) from error
  if rest[1:]:
    names = ' '.join(word.partition('=')[0] for word in rest[1:])
    raise UserError(f'unexpected arguments: {names}')
  settings.check(values.config)
  return values.config


def _check(config: ml_collections.ConfigDict, word: str, spec: str) -> None:
  """Raises ValueError if a word sets a field that the config does not have."""
  if not word.startswith(_PREFIX):
    return
  found: Any = config
  path = 'config'
  field = word.partition('=')[0]
  for key in field.removeprefix(_PREFIX).split('.'):
    name = key.partition('[')[0]
    if not isinstance(found, (Mapping, ml_collections.ConfigDict)):
      raise UserError(
        f'the config {spec} has no such field: {field}. {path} is '
        f'{shown(found)} and has no fields.'
      )
    if name not in found:
      near = difflib.get_close_matches(name, map(str, found), 1)
      raise UserError(
        f'the config {spec} has no such field: {field}.'
        + (f' Did you mean {path}.{near[0]}?' if near else '')
        + f' {path} has {", ".join(map(str, found)) or "no fields"}.'
      )
    if '[' in key and not isinstance(found[name], (list, tuple)):
      raise UserError(
        f'the config {spec} has no such field: {field}. {path}.{name} is no '
        'list.'
      )
    found, path = (None if '[' in key else found[name]), f'{path}.{name}'
