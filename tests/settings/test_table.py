"""Every field of every recipe has a range, and a value outside is refused."""

import dataclasses
import functools
import itertools
import json
import math
import pathlib
import re

import pytest

import mmu_jax
from mmu_jax import models
from mmu_jax import recipes
from mmu_jax import workdir
from mmu_jax.errors import UserError
from mmu_jax.settings import rules
from mmu_jax.settings import table

SPECS = [
  *(f'people:{name}' for name in ('full', 'all', 'fast', 'paper_exact')),
  *(f'frontier:{name}' for name in ('all', 'fast')),
  *(f'{kind}:{name}' for kind in ('own', 'tfds') for name in ('full', 'fast')),
  *(
    f'{kind}:{name},ratio={ratio}'
    for kind, ratios in (('clear', (1, 5, 10)), ('mllmu_bench', (5, 10, 15)))
    for name in ('full', 'fast', 'paper_exact')
    for ratio in ratios
  ),
]
ROOT = pathlib.Path(mmu_jax.__file__).parent


@functools.cache
def _recipes():
  return {spec: recipes.load(spec).to_dict() for spec in SPECS}


def _leaves(value, path=()):
  """(path, value) of every field; a list of parts is walked, too."""
  if isinstance(value, dict) and value:
    for key, inner in value.items():
      yield from _leaves(inner, (*path, key))
  elif (
    isinstance(value, (list, tuple)) and value and isinstance(value[0], dict)
  ):
    for i, inner in enumerate(value):
      yield from _leaves(inner, (*path, i))
  else:
    yield path, value


def _entry(path):
  """The path of the table that a field has; None for a group without fields."""
  node = rules._nested(table.TABLE)
  words = []
  for key in path:
    word = '#' if isinstance(key, int) else key if key in node else '*'
    node = node[word]
    words.append(word)
  return '.'.join(words) if isinstance(node, tuple) else None


@pytest.mark.parametrize('spec', SPECS)
def test_every_recipe_passes_and_each_of_its_fields_is_known(spec):
  table.check(recipes.load(spec))
  further = ('data.*', 'options.*', 'optimizer.*')  # of somebody else's
  for path, _ in _leaves(_recipes()[spec]):
    entry = _entry(path)
    assert entry is None or not entry.endswith(further), path


@pytest.mark.parametrize('spec', SPECS)
def test_settings_come_back_from_json_as_they_were(spec):
  plain = _recipes()[spec]
  plain['unlearn']['max_retain_loss'] = math.inf
  plain['runs'][next(iter(plain['runs']))]['clip_norms'] = {'forget': math.inf}
  found = table.restored(json.loads(workdir.to_json(plain)))
  tuples = lambda x: (
    {k: tuples(v) for k, v in x.items()}
    if isinstance(x, dict)
    else tuple(map(tuples, x))
    if isinstance(x, (list, tuple))
    else x
  )
  assert found == tuples(plain)
  table.check(found)


def test_every_meaning_can_be_read_alone():
  """`mmu config` shows one at a time: no 'the same', no 'their'."""
  for path, (_, meaning) in table.TABLE.items():
    first = meaning.split()[0]
    assert first not in {'the', 'its', 'of', 'their', 'also'}, path
    assert 'the same' not in meaning and 'their squares' not in meaning, path
    assert len(meaning) <= 60 and meaning[-1] not in '.;,', path


def test_every_entry_is_in_a_recipe_or_read_by_the_code():
  used = {_entry(p) for c in _recipes().values() for p, _ in _leaves(c)}
  others = [
    path.read_text()
    for path in ROOT.rglob('*.py')
    if path.parent.name != 'settings'
  ]
  code = '\n'.join(others)
  for path in set(table.TABLE) - used:
    word = path.split('.')[-1]
    assert word == '*' or re.search(rf'\b{word}\b', code), path


def test_every_entry_says_its_meaning():
  for path, (rule, meaning) in table.TABLE.items():
    assert len(meaning) > 3 and not meaning.endswith('.'), path
    assert len(f'{path}{rule.text}') < 200


@pytest.mark.parametrize('family', models.MODELS.values(), ids=lambda f: f.name)
def test_every_size_of_every_family_is_a_field(family):
  """A new family adds its fields."""

  def names(kind, place):
    for field in dataclasses.fields(kind):
      if dataclasses.is_dataclass(field.default):
        yield from names(type(field.default), f'{place}.{field.name}')
      else:
        yield f'{place}.{field.name}'

  known = {**table.TABLE, 'model.text_config.mrope_section': ()}
  assert [x for x in names(family.config, 'model') if x not in known] == []


def _outside(rule):
  """Values that a rule must not take."""
  wrong = [math.nan, -math.inf, {'a': 1}, object()]
  if rule.kind is not None:
    wrong += [math.nan, [math.nan]]
  if rule.kind in (int, float):
    wrong += ['1', '', True, False, [1]] + ([] if rule.null else [None])
    if not rule.choices and rule.low > -1e300:
      wrong += [rule.low - 1] + ([rule.low] if rule.above else [])
    if rule.high < 1e300:
      wrong += [rule.high + 1] + ([rule.high] if rule.below else [])
    if rule.high < math.inf:
      wrong.append(math.inf)
  if rule.kind is int:
    wrong.append(1.5)
  if rule.kind is str:
    wrong += [1, 0, None, ['']]
  if rule.kind is bool:
    wrong += [0, 1, 'True']
  if rule.choices:
    wrong += ['none of these', 10**6]
  if rule.sizes:
    wrong = [[x] for x in wrong if not isinstance(x, list)]
    wrong += ['vqa/forget', 3, None, {}]
    wrong += [[]] if rule.sizes[0] else []
  return wrong


def _check_some(values):
  """Checks a config of few fields."""
  rules.check(values, table.TABLE, 'config')


def _with(path, value):
  """A config with one field."""
  for word in reversed(path.split('.')):
    value = [value] if word == '#' else {'some' if word == '*' else word: value}
  return value


@pytest.mark.parametrize('path', table.TABLE)
def test_a_value_outside_of_the_range_is_refused_by_name(path):
  rule, _ = table.TABLE[path]
  said = path.replace('.#', '[0]').replace('*', 'some')
  for value in _outside(rule):
    with pytest.raises(UserError) as raised:
      _check_some(_with(path, value))
    message = str(raised.value)
    assert message.startswith(f'config.{said} is {rule.text} ('), message
    assert 'got ' in message


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
  'path, values',
  {
    'unlearn.clip_norm': [0, -1, NAN, '1', 1e-300],
    'runs.ga_diff.clip_norms.forget': [0, -1, NAN],
    'base.clip_norm': [-1, NAN],
    'saliency.threshold': [0, -1, NAN, INF, None],
    'unlearn.max_retain_loss': [0, -1, NAN],
    'unlearn.retain_rate': [0, -1e-5, NAN, INF, 1e-50, 1e30],
    'runs.ga_diff.rate': [0, -1e-5, NAN, INF, 1e-50],
    'base.warmup': [10**9],
    'runs.ga_diff.warmup': [-1, 1.5, 10**9],
    'runs.ga_diff.options.weight': [0, -0.3, NAN],
    'runs.ga_diff.options.margin': [0, -12.0, NAN],
    'vanilla.rate': [1e-50, 1e30],
    'unlearn.optimizer.b2': [1, 1.0, -0.1, NAN],
    'unlearn.optimizer.eps': [0, -1e-6, NAN, 1e30, 1e-300],
    'unlearn.optimizer.weight_decay': [1e30],
    'unlearn.save_every': [0, -1, 1.5],
    'unlearn.probe_every': [0],
    'unlearn.rounds': [0, -3, True],
    'runs.ga_diff.rounds': [0, -3],
    'runs.npo.options.beta': [0, -0.1, NAN, 1e-300, 1e30],
    'runs.ga_diff.options.forget_every': [0, -1],
    'unlearn.limits.forget': [0],
    'evaluation.batch_size': [0],
    'evaluation.max_new_tokens': [0, 10**12],
    'evaluation.repetition_penalty': [-1, 1e-300, 1e-3, 1e30],
    'unlearn.exempt': ['(', None],
    'seed': [-1, 2**31, True],
  }.items(),
)
def test_settings_that_undo_the_method_are_refused(path, values):
  for value in values:
    config = recipes.load('people:fast').to_dict()
    *above, last = path.split('.')
    place = config
    for word in above:
      place = place[word]
    place[last] = value
    with pytest.raises(UserError) as raised:
      table.check(config)
    assert str(raised.value).startswith(f'config.{path} is ')
    assert '\n' not in str(raised.value)  # nothing else is wrong


@pytest.mark.parametrize('spec', ['people:fast', 'mllmu_bench:paper_exact'])
def test_a_field_that_is_missing_is_named_with_its_meaning(spec):
  """Of every field that has no default where it is read."""
  found = 0
  for path, _ in _leaves(recipes.load(spec).to_dict()):
    config = recipes.load(spec).to_dict()
    entry = _entry(path)
    if entry is None or entry not in table.REQUIRED:
      continue
    place = config
    for key in path[:-1]:
      place = place[key]
    if not isinstance(place, dict):
      continue
    del place[path[-1]]
    if entry.endswith('*'):
      continue  # a name, not a field
    rule, meaning = table.TABLE[entry]
    with pytest.raises(UserError) as raised:
      table.check(config)
    said = str(raised.value)
    assert f'.{path[-1]} is missing: {rule.text} ({meaning}).' in said, path
    assert '\n' not in said, path
    found += 1
  assert found == {'people:fast': 173, 'mllmu_bench:paper_exact': 112}[spec]


def test_a_group_that_is_missing_is_named_with_its_fields():
  for group in ('base', 'saliency', 'unlearn', 'runs', 'groups', 'model'):
    config = recipes.load('people:fast').to_dict()
    del config[group]
    with pytest.raises(UserError, match=f'^config.{group} is missing: a group'):
      table.check(config)
  config = recipes.load('people:fast').to_dict()
  del config['unlearn']['streams']['forget']
  with pytest.raises(UserError, match='streams.forget is missing: a list of'):
    table.check(config)


def test_a_field_that_is_unknown_gets_the_nearest_name():
  config = recipes.load('people:fast').to_dict()
  config['unlearn']['clip_nrom'] = 1.0
  with pytest.raises(UserError, match='did you mean config.unlearn.clip_norm?'):
    table.check(config)


def test_a_part_of_your_own_is_one_more_entry(monkeypatch):
  config = recipes.load('people:fast').to_dict() | {'relearn': {'rounds': 0}}
  with pytest.raises(UserError, match="has no field 'relearn'"):
    table.check(config)
  entry = rules.whole(1), 'rounds of the attack'
  monkeypatch.setitem(table.TABLE, 'relearn.rounds', entry)
  with pytest.raises(UserError, match='config.relearn.rounds is a whole'):
    table.check(config)
  config['relearn']['rounds'] = 3
  table.check(config)


def test_options_of_your_own_are_plain_values():
  for part in ('data', 'unlearn.optimizer', 'runs.mine.options'):
    for value in (3, 'x', True, (1, 2), None):
      _check_some(_with(f'{part}.mine', value))
    for value in (NAN, INF, {'a': NAN}, itertools.count()):
      with pytest.raises(UserError, match=f'config.{part}.mine is '):
        _check_some(_with(f'{part}.mine', value))
