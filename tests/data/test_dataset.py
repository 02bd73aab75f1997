"""Every dataset says of each task what its score means."""

import json

import benchmark_folders
import pytest
from small_worlds import SMALL

from mmu_jax.data import datasets
from mmu_jax.data.dataset import sibling
from mmu_jax.evaluation.asking.protocols import PROTOCOLS
from mmu_jax.evaluation.report.layouts import LAYOUTS

# Task: split, modality, role, held out, reported, headline.
FORGET, KEEP = 'forget', 'keep'
PEOPLE = {
  'forget_vqa': ('forget', 'vqa', FORGET, False, True, False),
  'forget_vqa_holdout': ('forget', 'vqa', FORGET, True, True, True),
  'forget_qa': ('forget', 'qa', KEEP, False, True, True),
  'retain_vqa': ('retain', 'vqa', KEEP, False, True, True),
  'retain_qa': ('retain', 'qa', KEEP, False, True, True),
  'real_vqa': ('real', 'vqa', KEEP, False, True, True),
  'real_qa': ('real', 'qa', KEEP, False, True, False),
}
WITHOUT_QA_OF_REAL = [name for name in PEOPLE if name != 'real_qa']
WANTED = {
  'people': PEOPLE
  | {
    f'validation_{name}': (*PEOPLE[name][:4], False, PEOPLE[name][5])
    for name in WITHOUT_QA_OF_REAL
  },
  'mllmu_bench': PEOPLE
  | {'forget_qa_holdout': ('forget', 'qa', KEEP, True, True, False)},
  'clear': {
    'forget_vqa': ('forget', 'vqa', FORGET, False, True, True),
    'forget_qa': PEOPLE['forget_qa'],
    'retain_vqa': PEOPLE['retain_vqa'],
    'retain_qa': PEOPLE['retain_qa'],
    'real_faces': ('real', 'vqa', KEEP, False, True, False),
    'real_world': ('real', 'vqa', KEEP, False, True, False),
  },
  'own': {'forget_qa': PEOPLE['forget_qa'], 'retain_qa': PEOPLE['retain_qa']},
}
SHOWN = {
  'people': ('people', 'plain', ''),
  'mllmu_bench': ('mllmu_bench', 'fixed', 'official_mllmu_bench'),
  'clear': ('clear', 'fixed', 'official_clear'),
  'own': ('own', 'fixed', ''),
}


@pytest.fixture(scope='module')
def data(tmp_path_factory):
  """Every dataset, from small folders."""
  folder = tmp_path_factory.mktemp('data')
  own = folder / 'own.jsonl'
  lines = [
    dict(question=f'{s}?', answer='yes', split=s) for s in ('forget', 'retain')
  ]
  own.write_text('\n'.join(map(json.dumps, lines)))
  options = {
    'people': SMALL,
    'mllmu_bench': dict(path=benchmark_folders.mllmu_bench(folder / 'mllmu')),
    'clear': dict(path=benchmark_folders.clear(folder / 'clear')),
    'own': dict(path=own),
  }
  return {name: datasets.load(name, 0, **x) for name, x in options.items()}


@pytest.mark.parametrize('name', WANTED)
def test_every_task_says_what_its_score_means(name, data):
  found = {key: task[2:] for key, task in data[name].tasks.items()}
  assert found == WANTED[name]
  assert all(task.name == key for key, task in data[name].tasks.items())


@pytest.mark.parametrize('name', SHOWN)
def test_every_dataset_names_its_tables_and_protocols(name, data):
  found = data[name]
  assert (found.layout, found.protocol, found.official) == SHOWN[name]
  assert found.layout in LAYOUTS
  assert {found.protocol, found.official} - {''} <= PROTOCOLS.keys()


def test_a_sibling_is_about_the_same_people(data):
  tasks = data['mllmu_bench'].tasks
  new = tasks['forget_vqa_holdout']
  assert sibling(new, tasks, holdout=False).name == 'forget_vqa'
  assert sibling(new, tasks, modality='qa').name == 'forget_qa_holdout'
  assert sibling(tasks['real_vqa'], tasks, holdout=True) is None


def test_pictures_are_asked_about_in_vqa_alone(data):
  for found in data.values():
    for task in found.tasks.values():
      shown = {row.picture is not None for row in task.rows}
      assert shown == {task.modality == 'vqa'}
