"""Reads a config and sets the fields that the command line gives.

Messages show no value of a field that may be a key.
"""

from collections.abc import Iterator, Mapping, Sequence
import difflib
import functools
import os
import re
import textwrap
from typing import Any

from absl import flags
import ml_collections
from ml_collections import config_flags

from mmu_jax import recipes
from mmu_jax.errors import UserError
from mmu_jax.settings import rules
from mmu_jax.settings import table as settings

_PREFIX = '--config.'
_TAB = ' ' * 4
_FOLDERS = ('data.path', 'data.train_path', 'model.path', 'model.adapter')
_GROUPS = (Mapping, ml_collections.ConfigDict)


def read(
  spec: str | ml_collections.ConfigDict,
  overrides: Sequence[str],
  options: Sequence[str] = ('--config',),
) -> ml_collections.ConfigDict:
  """Returns a config with the given fields set.

  A field that a config may have and this one lacks can be set too.

  Args:
    spec: name or path of the config, see ``recipes.load``; or a config, which
      is changed.
    overrides: words of the command line, as '--config.seed=1'.
    options: other options of the command, for messages.

  Raises:
    ValueError: if the config or a field is unknown, a value is out of its
      range, or a word is no field.

  Example:
    >>> read('people:fast', ['--config.runs.npo.rate=3e-4']).runs.npo.rate
    0.0003
  """
  if isinstance(spec, str):
    config, source = recipes.load(spec), f'the config {spec}'
  else:
    config, source = spec, 'the config of the job'
  given = ['mmu']
  for word in overrides:
    name, _, value = word.partition('=')
    if name.startswith(_PREFIX):
      keys = _keys(name.removeprefix(_PREFIX))
      group = _check(config, keys, source)
      if value == 'None' and _may_be_none(keys):
        group[keys[-1]] = None
        given = [w for w in given if w.partition('=')[0] != name]
        continue  # there is no word for None but this
    elif name.startswith('--') and name.strip('-'):
      raise _no_option(name, config, options)
    given.append(word)
  values = flags.FlagValues()
  try:
    # Without sys_argv, the fields to set are looked for in sys.argv.
    config_flags.DEFINE_config_dict(
      'config', config, flag_values=values, sys_argv=given
    )
    rest = values(given)
  except flags.Error as error:
    raise _no_value(str(error), overrides) from error
  if rest[1:]:
    names = ' '.join(word.partition('=')[0] for word in rest[1:])
    raise UserError(f'unexpected arguments: {names}')
  for path in _FOLDERS:
    group, _, field = path.partition('.')
    found = values.config.get(group, {})
    known = isinstance(found, (dict, ml_collections.ConfigDict))
    if known and isinstance(found.get(field), str):
      found[field] = os.path.expanduser(found[field])
  settings.check(values.config)
  return values.config


def leaves(config: Any, path: str = '') -> Iterator[tuple[str, Any]]:
  """Yields the path and value of every field, such as 'base.stream[0].size'.

  Example:
    >>> list(leaves({'seed': 0, 'stream': ({'size': 2},), 'runs': {}}))
    [('seed', 0), ('stream[0].size', 2)]
  """
  for key, value in config.items():
    here = f'{path}.{key}' if path else str(key)
    if isinstance(value, _GROUPS):
      if key in settings.OPEN and not value:
        yield here, {}
      yield from leaves(value, here)
    elif value and isinstance(value, (list, tuple)) and _are_groups(value):
      for i, part in enumerate(value):
        yield from leaves(part, f'{here}[{i}]')
    else:
      yield here, value


def described(config: Any) -> Iterator[str]:
  """Yields the lines of every field: path and value, then meaning and rule.

  Args:
    config: whole config. No value that may be a key is shown.

  Example:
    >>> print(*described({'seed': 3}), sep='\\n')
    config.seed = 3
        seed of data, batches and random weights (a whole number >= 0 and <=
        2147483646)
  """
  for path, value in leaves(config):
    known = rules.rule_of(settings.TABLE, _keys(path))
    said = 'no field of this version'
    if isinstance(known, dict):  # an empty group of fields with any name
      known = known.get('*')
    if path in settings.MAY_LACK:
      said = 'None: the job does without'
    if isinstance(known, tuple):
      said = f'{known[1]} ({known[0].text})'
    secret = rules.may_hold_secret(repr(value))
    yield f'config.{path} = {rules.shown(value) if secret else repr(value)}'
    yield textwrap.fill(said, 80, initial_indent=_TAB, subsequent_indent=_TAB)


def _are_groups(values: Sequence[Any]) -> bool:
  """Whether a list holds parts with fields of their own."""
  return all(isinstance(value, _GROUPS) for value in values)


def _check(config: Any, keys: Sequence[str], source: str) -> Any:
  """Returns the group of a field; adds a field that a config may have.

  Raises:
    UserError: if there is no such field.
  """
  group, found, place = config, config, 'config'
  for i, key in enumerate(keys):
    inner = _inside(found, key)
    if not inner:
      if (added := _add(found, keys, i)) is not None:
        return added
      raise _no_field(config, keys, found, place, source)
    group, found, place = found, inner[0], _join(place, key)
  known = rules.rule_of(settings.TABLE, keys)
  typed = isinstance(known, tuple) and known[0].kind
  if found is None and typed:  # it may come from JSON, without a type
    group[keys[-1]] = _unset(known[0])
  return group


def _may_be_none(keys: Sequence[str]) -> bool:
  """Whether None is a value of a field, and no text."""
  if '.'.join(keys) in settings.MAY_LACK:
    return True
  known = rules.rule_of(settings.TABLE, keys)
  return isinstance(known, tuple) and known[0].null and known[0].kind is not str


def _no_value(said: str, overrides: Sequence[str]) -> UserError:
  """Says the rule of a field that got something of another type."""
  for word in overrides:
    name, _, value = word.partition('=')
    path = name.removeprefix(_PREFIX)
    known = rules.rule_of(settings.TABLE, _keys(path))
    here = f'{name}=' in said or f'config.{path} ' in said
    if here and isinstance(known, tuple):
      rule, meaning = known
      got = rules.shown(value, rule)
      return UserError(f'config.{path} is {rule.text} ({meaning}); got {got}.')
    if here and isinstance(known, dict):
      return UserError(
        f'config.{path} has fields of its own ({", ".join(known)}), to be set '
        f'one by one, as in {name}.{next(iter(known))}=...'
      )
  if rules.may_hold_secret(said):
    said = said.partition('=')[0] + ' has a value of another type'
  return UserError(f'{said}. A field is set as in --config.seed=1.')


def _keys(field: str) -> list[str]:
  """The words of a path; the place of a list is a word: '[0]'."""
  return re.sub(r'(?<=.)\[', '.[', field).split('.')


def _join(path: str, key: str) -> str:
  """A path with one more word."""
  return f'{path}{key}' if key.startswith('[') else f'{path}.{key}'


def _inside(found: Any, key: str) -> list[Any]:
  """The value below a word of a path, in a list; empty if there is none."""
  if isinstance(found, _GROUPS):
    return [found[key]] if key in found else []
  if isinstance(found, (list, tuple)) and re.fullmatch(r'\[\d{1,9}\]', key):
    return list(found[int(key[1:-1]) :][:1])
  return []


def _add(found: Any, keys: Sequence[str], i: int) -> Any:
  """Adds a field of the table of all fields; its group, None for no field."""
  named = i and keys[i - 1] in settings.OPEN
  known = rules.rule_of(settings.TABLE, keys, literal=i + 1 if named else i)
  if not isinstance(known, tuple) or not isinstance(found, _GROUPS[1]):
    return None
  for key in keys[i:-1]:
    found[key] = ml_collections.ConfigDict()
    found = found[key]
  found[keys[-1]] = _unset(known[0])
  return found


def _unset(rule: rules.Rule) -> Any:
  """None that takes a value of the type of a rule."""
  kind = tuple if rule.sizes else rule.kind
  return ml_collections.config_dict.placeholder(kind)


def _no_field(
  config: Any, keys: Sequence[str], found: Any, place: str, source: str
) -> UserError:
  """Says that a field is unknown, the nearest, and all of its group."""
  if isinstance(found, _GROUPS):
    has = f'{place} has {", ".join(map(str, found)) or "no fields"}.'
  elif isinstance(found, (list, tuple)) and found and _are_groups(found):
    has = f'{place} is a list with the places [0] to [{len(found) - 1}].'
  else:
    has = f'{place} is {rules.shown(found)} and has no fields.'
  near = ' or '.join(_nearest(config, keys))
  field = functools.reduce(_join, keys)
  return UserError(
    f'{source} has no such field: {_PREFIX}{field}. '
    + (f'Did you mean {near}? ' if near else '')
    + has
  )


def _nearest(config: Any, keys: Sequence[str]) -> list[str]:
  """Whole paths of fields that were perhaps meant, at most three.

  A like name is taken at every level; of a lone name, fields elsewhere.
  """
  at, path = config, 'config'
  walked: list[str] = []
  for key in keys:
    if not (inner := _inside(at, key)):
      known = rules.rule_of(settings.TABLE, walked)
      names = [*at] if isinstance(at, _GROUPS) else []
      names += [*known] if isinstance(known, dict) else []
      near = difflib.get_close_matches(key, map(str, names), 1)
      if not near:
        break
      key, inner = near[0], _inside(at, near[0])
    at = inner[0] if inner else None
    path, walked = _join(path, key), [*walked, key]
  else:
    if not isinstance(at, _GROUPS):
      return [path]
  same = [p for p, _ in leaves(config) if [_keys(p)[-1]] == keys]
  same = sorted(same, key=lambda p: len(_keys(p)))[:3]
  changed = walked != [*keys][: len(walked)]
  return [f'config.{p}' for p in same] or [path] * changed


def _no_option(word: str, config: Any, options: Sequence[str]) -> UserError:
  """Says that an option is unknown, and the nearest option or field."""
  near = difflib.get_close_matches(word, options, 1)
  name = word.lstrip('-')
  if name in config or name in dict(leaves(config)):
    near = [_PREFIX + name]
  return UserError(
    f'there is no option {word}. '
    + (f'Did you mean {near[0]}? ' if near else '')
    + f'Options are {", ".join(options)}, and fields of the config such as '
    '--config.seed=1.'
  )
