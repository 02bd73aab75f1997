"""A tree says what it was made from; every exchange of a part is noticed."""

import shutil
import types

import numpy as np
import pytest

from mmu_jax import checkpoint
from mmu_jax import workdir as workdir_lib
from mmu_jax.stages import origins


def _save(job, name, seed, made_from=(), note={}):  # noqa: B006
  """A tree with everything that a stage writes beside it."""
  folder = job.folder / name
  rng = np.random.default_rng(seed)
  tree = {'w': rng.normal(size=4).astype(np.float32)}
  if not (folder / 'config.json').exists():
    workdir_lib.write_json(folder / 'config.json', {'of': name})
  origin = origins.origin(job, folder, [job.folder / f for f in made_from])
  note = {**note, **origin, 'content': checkpoint.digest(tree)}
  final = folder / 'params' if name.startswith(('v', 'u', 'b')) else folder
  checkpoint.save(final, tree, note)
  return folder


def _job(folder, world='seed 0'):
  model = types.SimpleNamespace(family='llava')
  return types.SimpleNamespace(folder=folder, world=world, model=model)


def _chain(folder, world='seed 0', seed=0):
  """vanilla -> importance -> mask -> unlearned."""
  job = _job(folder, world)
  _save(job, 'vanilla', seed)
  _save(job, 'importance/forget', seed + 1, ['vanilla'])
  _save(job, 'mask/saliency', seed + 2, ['importance/forget'])
  _save(job, 'mask/random', seed + 3, ['mask/saliency'])
  _save(job, 'unlearned/ga', seed + 4, ['vanilla', 'mask/saliency'])
  return job


@pytest.fixture(name='job')
def _made(tmp_path):
  return _chain(tmp_path / 'work')


def test_a_whole_chain_fits_and_names_its_sources(job):
  folder = job.folder / 'unlearned' / 'ga'
  origins.check(job, folder)
  note = checkpoint.read_note(folder / 'params')
  found = note['origin']
  assert note['family'] == 'llava'  # read first by `mmu inspect`
  assert found['name'] == 'unlearned/ga' and found['world'] == 'seed 0'
  assert found['made_from'] == {
    name: origins.content(job.folder / name)
    for name in ('vanilla', 'mask/saliency')
  }


def test_what_is_not_there_is_not_checked(job):
  origins.check(job, job.folder / 'retrained')
  for name in ('vanilla', 'importance'):
    shutil.rmtree(job.folder / name)
  origins.check(job, job.folder / 'unlearned' / 'ga')


@pytest.mark.parametrize(
  'name', ['vanilla', 'importance/forget', 'mask/saliency']
)
def test_a_part_of_another_seed_is_noticed_behind_it(job, tmp_path, name):
  other = _chain(tmp_path / 'other', 'seed 1', seed=10)
  shutil.rmtree(job.folder / name)
  shutil.copytree(other.folder / name, job.folder / name)
  with pytest.raises(ValueError, match=f'another {name}|of another seed'):
    origins.check(job, job.folder / 'unlearned' / 'ga')
  with pytest.raises(ValueError, match='of another seed, dataset or model'):
    origins.check(job, job.folder / name)


def test_a_part_that_was_made_again_is_noticed(job):
  _save(job, 'vanilla', seed=7)
  for name in ('importance/forget', 'mask/random', 'unlearned/ga'):
    with pytest.raises(ValueError, match='made from another vanilla.*delete'):
      origins.check(job, job.folder / name)


def test_a_part_that_was_made_again_the_same_fits(job):
  shutil.rmtree(job.folder / 'vanilla')
  _save(job, 'vanilla', seed=0)
  origins.check(job, job.folder / 'unlearned' / 'ga')


def test_a_copy_under_another_name_is_noticed(job):
  shutil.rmtree(job.folder / 'mask' / 'saliency')
  shutil.copytree(job.folder / 'mask/random', job.folder / 'mask/saliency')
  with pytest.raises(ValueError, match='of another folder: name: .mask/random'):
    origins.check(job, job.folder / 'mask' / 'saliency')


def test_settings_that_were_edited_or_lost_are_noticed(job):
  path = job.folder / 'mask' / 'saliency' / 'config.json'
  workdir_lib.write_json(path, {'of': 'mask/saliency', 'threshold': 2})
  with pytest.raises(ValueError, match='saliency is of another config.json'):
    origins.check(job, job.folder / 'unlearned' / 'ga')
  path.unlink()
  with pytest.raises(ValueError, match='saliency is of another config.json'):
    origins.check(job, job.folder / 'mask' / 'random')


@pytest.mark.parametrize('origin', [None, {}, [], {'name': 'vanilla'}])
def test_a_tree_that_says_nothing_is_refused(job, origin):
  note = {'content': 'c'} | ({} if origin is None else {'origin': origin})
  checkpoint.save(job.folder / 'vanilla' / 'params', {'w': np.ones(1)}, note)
  with pytest.raises(ValueError, match='vanilla does not say what it was made'):
    origins.check(job, job.folder / 'vanilla')
