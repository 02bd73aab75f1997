"""The stage attacks each model once, and knows whom its results are about."""

import math
import shutil
import types

import jax.numpy as jnp
import ml_collections
import pytest

from mmu_jax import checkpoint
from mmu_jax import sharding
from mmu_jax import stages
from mmu_jax import workdir as workdir_lib
from mmu_jax.attacks import stage
from mmu_jax.data.dataset import Dataset
from mmu_jax.errors import MissingError
from mmu_jax.errors import UserError
from mmu_jax.stages import job as job_lib
from mmu_jax.stages import runs

ROW = dict(case='a', metric='exact', value=0.5, n=3, step=None)


def _model(job, name, value=1.0):
  """A finished model of one number."""
  folder, tree = runs.model_folder(job, name), {'w': jnp.full(2, value)}
  shutil.rmtree(folder, ignore_errors=True)
  workdir_lib.write_json(folder / 'config.json', {})
  path = folder.relative_to(job.folder).as_posix()
  origin = dict(name=path, world='w', settings=stage.seals.hash_json({}))
  note = {'content': checkpoint.digest(tree), 'rounds': 1}
  note['origin'] = origin | {'made_from': {}}
  checkpoint.save(folder / 'params', tree, note)


@pytest.fixture
def job(tmp_path, monkeypatch):
  """A job with three models, which an attack only names."""
  config = ml_collections.ConfigDict(dict(seed=0, runs=dict(ga={}, npo={})))
  made = job_lib.Job(
    config,
    tmp_path,
    Dataset({}, {}, {}),
    None,
    None,
    types.SimpleNamespace(source=None, family='llava'),
    {},
    False,
    tmp_path,
    sharding.make_mesh(''),
    'w',
  )
  for name in ('base', 'vanilla', 'retrained', 'ga'):
    _model(made, name)
  monkeypatch.setattr(stage, 'open_job', lambda *_, **__: made)
  monkeypatch.setattr(stage.training, 'settings_of', lambda *_: None)
  return made


@pytest.fixture
def attacked(job, monkeypatch):
  """The models that were attacked, in order."""
  from mmu_jax.attacks import relearn

  asked = []

  def act(job, model, folder):
    asked.append(model)
    assert (folder / 'config.json').exists()
    return stage.keep_part(folder, 'part', lambda: [ROW])

  monkeypatch.setattr(relearn, 'relearn', act)
  return asked


def _attack(job, *names, **more):
  return stage.attack(job.config, job.folder, 'relearn', names or None, **more)


def test_retrained_is_first_and_nobody_is_attacked_twice(job, attacked, capsys):
  found = _attack(job, 'ga')
  assert attacked == ['retrained', 'ga']
  assert list(found) == ['retrained', 'ga'] and found['ga'] == [ROW]
  assert {*_attack(job)} == {'vanilla', 'retrained', 'ga'}
  said = capsys.readouterr().out
  assert 'relearn: all 3 finished models' in said
  assert 'relearn ga: found in' in said
  assert attacked == ['retrained', 'ga', 'vanilla']
  assert {*_attack(job, 'base')} == {'base', 'vanilla', 'retrained', 'ga'}
  folder = job.folder / 'attacks' / 'relearn' / 'ga'
  assert not (folder / 'done').exists()  # its parts are in the result
  assert stage.attacked(job)['relearn'] == _attack(job)
  # A result is no model.
  assert runs.find_models(job.config, job.folder) == [
    'vanilla',
    'retrained',
    'ga',
  ]
  assert stages.attack is stage.attack


def test_parts_that_are_done_are_not_done_again(tmp_path):
  made = []

  def make():
    made.append(1)
    return [ROW]

  for name in ('one picture', 'one_picture', 'one picture'):
    assert stage.keep_part(tmp_path, name, make) == [ROW]
  assert len(made) == 2  # names that look alike in a folder differ


def test_a_model_that_changed_is_refused(job, attacked):
  _attack(job, 'ga')
  _model(job, 'ga', value=2.0)
  for use in (lambda: _attack(job, 'ga'), lambda: stage.attacked(job)):
    with pytest.raises(UserError, match='made from another unlearned/ga'):
      use()


def test_other_settings_of_the_attack_are_refused(job, attacked):
  _attack(job, 'ga')
  job.config.attacks = {'relearn': {'rows': 7}}
  with pytest.raises(UserError, match='other settings: settings.rows: 144'):
    _attack(job, 'ga')


def test_a_result_that_was_edited_is_refused(job, attacked):
  _attack(job, 'ga')
  path = job.folder / 'attacks' / 'relearn' / 'ga' / 'rows.jsonl'
  path.write_text(path.read_text().replace('0.5', '0.0'))
  with pytest.raises(UserError, match='not as it was written.*attack again'):
    stage.attacked(job)


def test_unknown_attacks_and_models_are_named(job, attacked):
  with pytest.raises(UserError, match="unknown attack 'x'; known: relearn, "):
    stage.attack(job.config, job.folder, 'x')
  with pytest.raises(UserError, match="unknown run 'gaa'"):
    _attack(job, 'gaa')
  with pytest.raises(MissingError, match='Train it first'):
    _attack(job, 'npo')
  assert not attacked or attacked == ['retrained']


@pytest.mark.parametrize('value', [math.nan, math.inf])
def test_rows_are_finite(value):
  with pytest.raises(FloatingPointError, match="exact of the case 'a'"):
    stage.check_rows([ROW, ROW | {'value': value}])
  with pytest.raises(AssertionError, match='five fields|has the fields'):
    stage.check_rows([{'case': 'a'}])
