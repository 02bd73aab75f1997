"""The table of attacks: light, and with settings for every config."""

import ast
import inspect
import pathlib

import ml_collections
import pytest

from mmu_jax import recipes
from mmu_jax.attacks import attack as attack_lib
from mmu_jax.attacks import ATTACKS
from mmu_jax.settings import attacking
from mmu_jax.settings import rules
from mmu_jax.settings import table

CONFIG = ml_collections.ConfigDict


def test_the_table_imports_nothing_that_is_slow():
  body = ast.parse(inspect.getsource(attack_lib)).body
  names = [
    getattr(x, 'module', None) or x.names[0].name
    for x in body
    if isinstance(x, (ast.Import, ast.ImportFrom))
  ]
  assert {*names} == {'importlib', 'pathlib', 'typing'}


@pytest.mark.parametrize('name', ATTACKS)
def test_an_attack_is_a_function_of_its_name(name, monkeypatch):
  kind = ATTACKS[name]
  module = __import__(f'mmu_jax.attacks.{name}', fromlist=[name])
  monkeypatch.setattr(module, name, lambda *given: list(given))
  assert kind.run('job', 'ga', pathlib.Path('x')) == [
    'job',
    'ga',
    pathlib.Path('x'),
  ]
  assert kind.title == kind.title.strip('.') and kind.reading.endswith('.')


@pytest.mark.parametrize('name', ATTACKS)
def test_defaults_keep_their_rules_and_none_is_missing(name):
  made = recipes.attacks()[name]
  rules.check({name: made}, attacking.ATTACKS, 'attacks')
  known = {
    path.split('.')[1]
    for path in attacking.ATTACKS
    if path.startswith(f'{name}.')
  }
  assert known == {*made} and made['models'] == ()


def test_a_config_of_earlier_has_the_defaults_and_others_their_own():
  kind, default = ATTACKS['relearn'], recipes.attacks()['relearn']
  assert kind.spec(CONFIG()).to_dict() == default
  cases = {'mine': dict(learns='text', pictures=0, draw=0, rate=0.1)}
  own = CONFIG({'attacks': {'relearn': {'cases': cases, 'rows': 3}}})
  assert kind.spec(own).to_dict() == default | {'cases': cases, 'rows': 3}


def test_the_result_does_not_depend_on_who_is_attacked():
  kind = ATTACKS['relearn']
  config = recipes.load('people:fast')
  was = kind.settings(config)
  config.attacks.relearn.models = ('vanilla',)
  assert kind.settings(config) == was
  config.attacks.relearn.rows = 5
  assert kind.settings(config) == was | {'rows': 5}
  asks = kind._replace(asks=True).settings(config)
  assert asks == was | dict(rows=5, max_new_tokens=12, repetition_penalty=0.0)


def test_a_config_without_attacks_is_whole():
  config = recipes.load('people:fast')
  del config['attacks']
  table.check(config)
