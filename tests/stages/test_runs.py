"""Any finished folder of a workdir is a model, wherever it came from."""

import types

import ml_collections
import numpy as np
import pytest

from mmu_jax import checkpoint
from mmu_jax import workdir as workdir_lib
from mmu_jax.stages import runs


@pytest.fixture
def job(tmp_path):
  """What the functions read of a job."""
  return types.SimpleNamespace(
    config=ml_collections.ConfigDict({'runs': {'npo': {}, 'ga': {}}}),
    folder=tmp_path,
    unlearned=tmp_path,
    model=types.SimpleNamespace(source=None),
  )


def _make(folder, finished=True):
  """A model folder with one parameter."""
  workdir_lib.write_json(folder / 'config.json', {'path': folder.name})
  if finished:
    note = {'rounds': 3, 'content': f'of {folder.name}'}
    checkpoint.save(folder / 'params', {'w': np.ones(2)}, note)


MADE = (
  'base',
  'retrained',
  'vanilla',
  'unlearned/ga',
  'unlearned/npo',
  'unlearned/earlier',
  'attacks/relearn/ga',
  'quantized/ga',
  'tuning/unlearned/ga-0.1',
)


def test_every_finished_model_but_base_and_tuning_is_found_in_order(job):
  """Those of training, then the runs of the config, then all others."""
  for path in MADE:
    _make(job.folder / path)
  _make(job.folder / 'attacks' / 'relearn' / 'npo', finished=False)
  _make(job.folder / 'mask' / 'saliency', finished=False)
  checkpoint.save(job.folder / 'importance' / 'x', {'w': np.ones(2)}, {})
  assert runs.find_models(job.config, job.folder) == [
    'vanilla',
    'retrained',
    'ga',
    'npo',
    'attacks/relearn/ga',
    'earlier',
    'quantized/ga',
  ]


def test_a_name_leads_back_to_its_folder(job):
  for path in MADE[:-1]:
    _make(job.folder / path)
  found = {
    runs.model_folder(job, name)
    for name in runs.find_models(job.config, job.folder)
  }
  assert found == {job.folder / path for path in MADE[1:-1]}
  assert runs.model_folder(job, 'base') == job.folder / 'base'


@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_parameters_that_are_not_finite_are_refused_by_name(job, bad):
  """Whoever reads them: a NaN model would pass for one that forgot."""
  tree = {'a': {'kernel': np.ones((2, 3))}, 'b': {'scale': np.ones(4)}}
  job.model.abstract_params = tree
  job.placed = lambda tree: tree
  for name, value in (('good', 1), ('bad', bad)):
    tree['b']['scale'][2] = value
    folder = job.folder / 'attacks' / name
    workdir_lib.write_json(folder / 'config.json', {})
    checkpoint.save(folder / 'params', tree, {'rounds': 3})
  read = runs.final_params(job, 'attacks/good')
  np.testing.assert_array_equal(read['b']['scale'], np.ones(4))
  with pytest.raises(FloatingPointError) as error:
    runs.final_params(job, 'attacks/bad')
  for part in ("1 leaves hold NaN or infinity, the first is 'b/scale'", 'bad'):
    assert part in str(error.value)
  assert str(job.folder) in str(error.value)


def test_models_are_chosen_by_name(job):
  _make(job.folder / 'vanilla')
  _make(job.folder / 'attacks' / 'relearn' / 'ga')
  every = ['vanilla', 'attacks/relearn/ga']
  assert runs.choose_models(job.config, job.folder, None) == every
  assert runs.choose_models(job.config, job.folder, every[::-1]) == every[::-1]
  assert runs.choose_models(job.config, job.folder, ['npo']) == [
    'npo'
  ]  # it may be trained
  with pytest.raises(ValueError, match="run 'base'; .* is vanilla, retrained"):
    runs.choose_models(job.config, job.folder, ['base'])
  with pytest.raises(ValueError, match="run 'earlier'.*ga, npo, attacks"):
    runs.choose_models(job.config, job.folder, ['earlier'])


def test_a_model_made_from_another_says_so(job):
  _make(job.folder / 'unlearned' / 'ga')
  claim = lambda **settings: runs.claim_model(
    job, 'attacks/relearn/ga', made_by='relearn', source='ga', settings=settings
  )
  folder = claim(rate=0.1)
  assert folder == job.folder / 'attacks' / 'relearn' / 'ga'
  assert workdir_lib.read_json(folder / 'config.json') == {
    'made_by': 'relearn',
    'from': 'ga',
    'settings': {'rate': 0.1},
    'source': {'path': 'ga'},
    'source_content': 'of ga',
  }
  assert not runs.is_finished(folder)
  checkpoint.save(folder / 'params', {'w': np.zeros(2)}, {'rounds': 1})
  assert runs.is_finished(folder) and claim(rate=0.1) == folder
  with pytest.raises(ValueError, match='settings.rate: 0.1 there, 0.2 asked'):
    claim(rate=0.2)
  # It was made from a model that has been made anew since.
  workdir_lib.write_json(
    job.folder / 'unlearned' / 'ga' / 'config.json', {'path': 'other'}
  )
  with pytest.raises(ValueError, match="source.path: 'ga' there, 'other'"):
    claim(rate=0.1)


@pytest.mark.parametrize('name', ['ga', 'a/b/c/d'])
def test_a_name_that_nobody_would_find_is_refused(job, name):
  _make(job.folder / 'vanilla')
  with pytest.raises(ValueError, match=f'path of 2 to 3 folders.*got {name!r}'):
    runs.claim_model(job, name, made_by='x', source='vanilla', settings={})


@pytest.mark.parametrize(
  'name', ['../x', '..', '/abs', 'a/../b', '../../x/y', '', 'a//b', '.hid/ga']
)
def test_a_name_that_leads_elsewhere_has_no_folder(job, name):
  with pytest.raises(ValueError, match='the name of a run becomes a file'):
    runs.model_folder(job, name)


def test_a_missing_model_says_how_to_train_it(job):
  with pytest.raises(FileNotFoundError, match='mmu train --run=ga'):
    runs.final_folder(job, 'ga')
  with pytest.raises(FileNotFoundError, match='mmu train --run=ga'):
    runs.claim_model(job, 'a/x/ga', made_by='x', source='ga', settings={})
  with pytest.raises(FileNotFoundError, match='mmu train --run=base'):
    runs.require(job, 'base')
  job.model.source = 'a checkpoint'
  runs.require(job, 'base')
