"""Rules for the values of fields: data that are checked, and can be printed.

A table is a dict from the path of a field to its rule and its meaning. In a
path ``*`` stands for any name and ``#`` for the places of a list that is not
empty: ``'runs.*.rate'``, ``'base.stream.#.size'``.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import difflib
import math
import re
import sys
from typing import Any, NamedTuple

from mmu_jax.errors import UserError

_MOST = sys.float_info.max  # every finite number
_KINDS = {
  int: 'a whole number',
  float: 'a number',
  str: 'text',
  bool: 'True or False',
  None: 'text, a finite number, True or False, or a list of them',
}
_SHOWN = 5  # faults in one message
# Passwords and queries in addresses, and tokens as providers write them, but no
# folder that is called like a token: it has words, and signs that divide them.
_SECRET = re.compile(
  r'(?i:://[^/\s]*@|[?&]\w*(key|token|secret|password)\w*=|\bBearer )'
  r'|(?<![\w/.\\-])(?:sk-(?=[\w-]*\d)(?:\w+-)?(?:\w+-)?\w{20,}'
  r'|(?:hf|gsk|r8|gh[pousr])_[A-Za-z0-9]{20,}|github_pat_\w{20,}'
  r'|glpat-[\w-]{20,}|AKIA[A-Z0-9]{12,}|AIza[\w-]{16,}'
  r'|xox[a-z]-\d[\w-]{10,}|eyJ[\w-]{16,}\.)'
)


class Rule(NamedTuple):
  """Type and range of one value, or of each value of a list.

  Attributes:
    kind: int, float (whole numbers too), str or bool; None for any of them.
    low: smallest number.
    high: largest number; inf allows infinity, nan never fits.
    above: whether a number must be above ``low``, not at it.
    below: whether a number must be below ``high``, not at it.
    choices: allowed values; () for all of the kind.
    test: further condition, said by ``words``.
    words: rule in words, where type and range do not say it.
    sizes: allowed lengths, (least, most), of a list; None for one value.
    null: whether None is allowed.
    secret: whether a wrong value may be a key, so that no message shows it.
  """

  kind: type | None
  low: float = -_MOST
  high: float = _MOST
  above: bool = False
  below: bool = False
  choices: tuple[Any, ...] = ()
  test: Callable[[Any], bool] | None = None
  words: str = ''
  sizes: tuple[int, float] | None = None
  null: bool = False
  secret: bool = False

  @property
  def text(self) -> str:
    """The rule in words.

    Example:
      >>> number(0, above=True).text, whole(1).text
      ('a number > 0', 'a whole number >= 1')
    """
    if self.sizes:
      least, most = self.sizes
      count = f'{least} ' if least == most else 'one or more ' if least else ''
      return f'a list of {count}values, each {self._replace(sizes=None).text}'
    text = self.words or _KINDS[self.kind]
    if self.choices:
      text = f'one of {", ".join(map(repr, self.choices))}'
    if self.low > -_MOST:
      text += f' {">" if self.above else ">="} {self.low}'
    if self.high < _MOST:
      text += f' and {"<" if self.below else "<="} {self.high}'
    text += ', or inf' if self.high == math.inf and self.kind is float else ''
    return text + (', or None' if self.null else '')

  def accepts(self, value: Any) -> bool:
    """Whether a value keeps the rule."""
    if value is None:
      return self.null
    if self.sizes:
      least, most = self.sizes
      one = self._replace(sizes=None, null=False)
      return (
        isinstance(value, (list, tuple))
        and least <= len(value) <= most
        and all(map(one.accepts, value))
      )
    if self.kind is None and isinstance(value, (list, tuple)):
      return all(map(self.accepts, value))
    if not self._is_kind(value) or (self.choices and value not in self.choices):
      return False
    if isinstance(value, (int, float)) and not isinstance(value, bool):
      low = value > self.low if self.above else value >= self.low
      high = value < self.high if self.below else value <= self.high
      if not (low and high):  # nan is neither
        return False
    return self.test is None or self.test(value)

  def _is_kind(self, value: Any) -> bool:
    """Whether a value has the type; True is no number."""
    if isinstance(value, bool) or self.kind is bool:
      return isinstance(value, bool) and self.kind in (bool, None)
    kinds = {float: (int, float), None: (int, float, str)}
    return isinstance(value, kinds.get(self.kind, self.kind))


Table = dict[str, tuple[Rule, str]]  # path -> rule and meaning
ANY = Rule(None, null=True)
FLAG = Rule(bool)
TEXT = Rule(str)


def whole(low: int, high: float = _MOST, **more: Any) -> Rule:
  """Returns the rule of a whole number in a range."""
  return Rule(int, low, high, **more)


def number(low: float = -_MOST, high: float = _MOST, **more: Any) -> Rule:
  """Returns the rule of a number in a range."""
  return Rule(float, low, high, **more)


def one_of(*choices: Any) -> Rule:
  """Returns the rule of a value out of some of one type."""
  return Rule(type(choices[0]), choices=choices)


def several(rule: Rule, least: int = 1, most: float = math.inf) -> Rule:
  """Returns the rule of a list whose values keep a rule."""
  return rule._replace(sizes=(least, most))


def below(place: str, table: Table) -> Table:
  """Returns a table with the fields of a part at its place.

  Example:
    >>> list(below('base', {'rate': (number(), 'speed')}))
    ['base.rate']
  """
  return {f'{place}.{path}': entry for path, entry in table.items()}


def check(
  values: Mapping[str, Any], table: Table, name: str, *, others: bool = False
) -> None:
  """Raises unless every field is in a table and keeps its rule.

  Args:
    values: nested dicts of fields.
    table: rules of the fields.
    name: name of the whole, which stands before every path in a message, as
      'config', or 'config.json: '; '' for none.
    others: whether fields that are not in the table, and groups that are
      null, are passed over.

  Raises:
    ValueError: names each field with its rule, its meaning and its value, or
      the nearest name of a field that is unknown.

  Example:
    >>> table = {'runs.*.rate': (number(0, above=True), 'learning rate')}
    >>> check({'runs': {'ga': {'rate': 1e-5}}}, table, 'config')
    >>> check({'runs': {'ga': {'rate': -1}}}, table, 'config')
    Traceback (most recent call last):
    ...
    mmu_jax.errors.UserError: config.runs.ga.rate is a number > 0 (learning \
rate); got -1.
  """
  _raise(_faults(values, _nested(table), name, others))


def check_there(
  values: Mapping[str, Any], paths: Iterable[str], table: Table, name: str
) -> None:
  """Raises unless every field of some paths is there, in every group.

  Args:
    values: nested dicts of fields, which keep the rules of the table.
    paths: paths of the fields that are needed.
    table: rules of the fields.
    name: name of the whole: 'config'.

  Raises:
    ValueError: names each field that is missing, its rule and its meaning; of
      a group the fields in it.

  Example:
    >>> table = {'runs.*.rate': (number(0, above=True), 'learning rate')}
    >>> check_there({'runs': {'ga': {}}}, table, table, 'config')
    Traceback (most recent call last):
    ...
    mmu_jax.errors.UserError: config.runs.ga.rate is missing: a number > 0 \
(learning rate).
  """
  nested = _nested(table)
  _raise(x for path in paths for x in _missing(values, nested, path, name))


def rule_of(
  table: Table, words: Sequence[str], literal: float = math.inf
) -> Any:
  """Returns the rule and meaning that a table has for a field.

  Args:
    table: rules of the fields.
    words: path of the field; '[0]' is a place of a list.
    literal: index of the first word that must be in the table by itself, not
      as any name.

  Returns:
    The rule and the meaning; for a group a dict of them by name; None for a
    field that is unknown.

  Example:
    >>> table = {'runs.*.rate': (number(0, above=True), 'learning rate')}
    >>> rule_of(table, ['runs', 'ga', 'rate'])[1]
    'learning rate'
  """
  node: Any = _nested(table)
  for i, word in enumerate(words):
    if not isinstance(node, dict):
      return None
    named = '#' if word.startswith('[') else word
    node = node.get(named, node.get('*') if i < literal else None)
  return node


def shown(value: Any, rule: Rule = TEXT) -> str:
  """Returns a value as a message may show it: short, and no key.

  Example:
    >>> shown('https://me:word@host/v1')
    '*** (not shown: it may hold a key)'
  """
  text = repr(value)
  hidden = isinstance(value, str) and rule.secret
  if hidden or may_hold_secret(text):
    return '*** (not shown: it may hold a key)'
  return text if len(text) < 80 else f'{text[:77]}...'


def may_hold_secret(text: str) -> bool:
  """Whether a text looks as if it held a key or a password.

  Example:
    >>> may_hold_secret('https://host/v1?api_key=x')
    True
  """
  return bool(_SECRET.search(text))


def _nested(table: Table) -> dict[str, Any]:
  """Nested dicts by the words of the paths; (rule, meaning) at the ends."""
  root: dict[str, Any] = {}
  for path, entry in table.items():
    *above, last = path.split('.')
    node = root
    for word in above:
      node = node.setdefault(word, {})
    node[last] = entry
  return root


def _raise(faults: Iterable[str]) -> None:
  """Raises the first of some faults, if there are any."""
  found = list(dict.fromkeys(faults))
  more = len(found) - _SHOWN
  if found:
    text = '\n'.join(found[:_SHOWN])
    raise UserError(text + (f'\n(and {more} more faults)' if more > 0 else ''))


def _faults(value: Any, node: Any, path: str, others: bool) -> Iterator[str]:
  """Says each fault of a value and of those within it."""
  if isinstance(node, tuple):
    rule, meaning = node
    if not rule.accepts(value):
      yield f'{path} is {rule.text} ({meaning}); got {shown(value, rule)}.'
    elif isinstance(value, str) and may_hold_secret(value):
      yield (
        f'{path} ({meaning}) seems to hold a key or a password (not shown), '
        'and settings are written into files. Put it into an environment '
        'variable.'
      )
  elif value is None and others:
    return
  elif '#' in node:
    if not isinstance(value, (list, tuple)) or not value:
      yield f'{path} is a list, not empty, of fields; got {shown(value)}.'
      return
    for i, inner in enumerate(value):
      yield from _faults(inner, node['#'], f'{path}[{i}]', others)
  elif not isinstance(value, Mapping):
    known = ', '.join(node)
    yield f'{path} has fields of its own ({known}); got {shown(value)}.'
  else:
    for key, inner in value.items():
      within = node.get(key, node.get('*'))
      if within is not None:
        yield from _faults(inner, within, _join(path, key), others)
      elif not others:
        yield _unknown(str(key), node, path)


def _missing(value: Any, node: Any, path: str, place: str) -> Iterator[str]:
  """Says each place where the path of a field leads to nothing."""
  word, _, rest = path.partition('.')
  if word == '#':
    inner = {f'{place}[{i}]': item for i, item in enumerate(value)}
  elif word in ('*', ''):
    inner = {f'{place}.{k}': v for k, v in value.items()} if word else {}
  elif word in value:
    inner = {f'{place}.{word}': value[word]}
  else:
    within = node.get(word, node.get('*'))
    if isinstance(within, tuple):
      meaning = f'{within[0].text} ({within[1]})'
    elif '#' in within:
      meaning = f'a list of parts, each with {", ".join(within["#"])}'
    else:
      meaning = f'a group with {", ".join(within)} (*: any name)'
    yield f'{place}.{word} is missing: {meaning}.'
    return
  for where, item in inner.items() if rest else ():
    yield from _missing(item, node.get(word, node.get('*')), rest, where)


def _join(path: str, key: object) -> str:
  """A path with one more word; a path that is no field yet gets no dot."""
  return f'{path}{key}' if not path or path[-1] == ' ' else f'{path}.{key}'


def _unknown(key: str, node: Mapping[str, Any], path: str) -> str:
  """Says that a field is unknown, and the nearest that is known."""
  near = difflib.get_close_matches(key, node, 1, 0.4)
  hint = f'; did you mean {path}.{near[0]}' if near else ''
  return f'{path} has no field {shown(key)}{hint}? It has {", ".join(node)}.'
