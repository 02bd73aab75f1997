"""A rule accepts its range alone, and a message shows no key."""

import math

import pytest

from mmu_jax.errors import UserError
from mmu_jax.settings import rules

POSITIVE = rules.number(0, above=True)


@pytest.mark.parametrize(
  'rule, good, bad',
  [
    (rules.whole(1), [1, 10**9], [0, -1, 1.0, True, '1', None, [1], math.inf]),
    (POSITIVE, [1, 5e-324, 1e300], [0, -1, math.nan, math.inf, True, '1', {}]),
    (rules.number(0, math.inf), [0, math.inf], [math.nan, -0.1, -math.inf]),
    (rules.number(0, 1, below=True), [0, 0.999], [1, 1.0, -1e-9, math.nan]),
    (rules.one_of('a', 'b'), ['a'], ['', 'c', 1, None, ['a']]),
    (rules.one_of(1, 2), [1, 2], [True, 3, 1.0, '1']),
    (rules.FLAG, [True, False], [0, 1, 'True', None]),
    (rules.TEXT, ['', 'x'], [1, None, ['x'], {}]),
    (rules.ANY, [1, 'x', None, (1, 2.0)], [math.nan, {}, (math.inf,)]),
    (rules.several(POSITIVE), [[1], (1, 2.5)], [[], 'x', 1, [0], [1, None]]),
    (rules.several(rules.TEXT, 0), [[], ['x']], ['x', None, [1]]),
    (rules.several(rules.whole(0), 3, 3), [[1, 2, 3]], [[1, 2], [1] * 4]),
    (rules.whole(1, null=True), [None, 1], [0, math.nan]),
  ],
  ids=lambda x: x.text if isinstance(x, rules.Rule) else '',
)
def test_a_rule_accepts_its_range_alone(rule, good, bad):
  assert [x for x in good if not rule.accepts(x)] == []
  assert [x for x in bad if rule.accepts(x)] == []


TABLE = {
  'rate': (POSITIVE, 'speed'),
  'runs.*.rounds': (rules.whole(1), 'steps'),
  'stream.#.size': (rules.whole(1), 'rows'),
}


@pytest.mark.parametrize(
  'values, message',
  [
    ({'rate': math.nan}, 'it.rate is a number > 0 (speed); got nan.'),
    (
      {'runs': {'a': {'rounds': True}}},
      'it.runs.a.rounds is a whole number >= 1 (steps); got True.',
    ),
    (
      {'stream': [{'size': 1}, {'size': 0}]},
      'it.stream[1].size is a whole number >= 1 (rows); got 0.',
    ),
    ({'stream': ()}, 'it.stream is a list, not empty, of fields; got ().'),
    ({'runs': {'a': 3}}, 'it.runs.a has fields of its own (rounds); got 3.'),
    (
      {'runs': {'a': {'round': 3}}},
      "it.runs.a has no field 'round'; did you mean it.runs.a.rounds? It has "
      'rounds.',
    ),
    (
      {'rate': -1, 'stream': [{'size': -2}]},
      'it.rate is a number > 0 (speed); got -1.\n'
      'it.stream[0].size is a whole number >= 1 (rows); got -2.',
    ),
  ],
)
def test_a_message_has_path_rule_meaning_and_value(values, message):
  with pytest.raises(UserError) as raised:
    rules.check(values, TABLE, 'it')
  assert str(raised.value) == message


def test_fields_of_others_are_passed_over_where_the_caller_says_so():
  rules.check({'rate': 1, 'x': math.nan}, TABLE, 'it', others=True)
  with pytest.raises(UserError, match="no field 'x'"):
    rules.check({'rate': 1, 'x': math.nan}, TABLE, 'it')


@pytest.mark.parametrize(
  'secret',
  [
    'https://me:hunter2@host/v1',
    'https://host/v1?api_key=hunter2',
    'sk-proj-hunter2hunter2hunter2',
    'glpat-hunter2hunter2hunter2',
    'gsk_hunter2hunter2hunter2',
    'r8_hunter2hunter2hunter2',
    'hf_hunter2hunter2hunter2',
    'ghp_hunter2hunter2hunter2',
    'AKIAHUNTER2HUNTER2X',
    'Bearer hunter2',
  ],
)
def test_no_message_shows_a_key(secret):
  table = TABLE | {'path': (rules.TEXT, 'folder')}
  for values in (
    {'path': secret},
    {'rate': secret},
    {'runs': secret},
    {secret: 1},
    {'stream': [{'size': [secret]}]},
  ):
    with pytest.raises(UserError) as raised:
      rules.check(values, table, 'it')
    assert 'hunter2' not in str(raised.value).lower()


@pytest.mark.parametrize(
  'text',
  [
    *('runs/people', 'llava-1.5-7b-hf', 'my-hf-models/x1', 'a@b', 'fsdp=-1'),
    *(
      'b?',
      '/models/hf_llava_v1_5_7b_checkpoint',
      'hf_llava_v1_5_7b_finetuned',
    ),
    *('/data/sk-learn-models-folder-2024', 'sk-learn-models-folder-2024'),
    *(
      '/data/xoxo-land/pictures',
      '/models/ghp_abcdefghijklmnopqrstuvwxyz012345',
    ),
  ],
)
def test_a_path_is_no_key(text):
  assert not rules.may_hold_secret(text)
