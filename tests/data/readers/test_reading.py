"""Readers share pictures, tasks and choices, and import little."""

import base64
import subprocess
import sys

import benchmark_folders
import pytest

from mmu_jax.data.readers import reading
from mmu_jax.data.row import Row
from mmu_jax.errors import UserError

READERS = ('mllmu_bench', 'clear', 'own', 'prepared', 'parquet', 'reading')


def test_no_reader_loads_transformers_or_the_synthetic_world():
  code = [
    'import importlib, sys',
    f'for name in {READERS!r}:',
    '  importlib.import_module("mmu_jax.data.readers." + name)',
    '  heavy = {"transformers", "tokenizers", "tensorflow_datasets"}',
    '  heavy |= {f"mmu_jax.data.people.{x}" for x in ("world", "vocabulary")}',
    '  assert not heavy & set(sys.modules), (name, heavy & set(sys.modules))',
  ]
  subprocess.run([sys.executable, '-c', '\n'.join(code)], check=True)


def _tasks(*groups):
  rows = {(group, kind): [] for group in groups for kind in ('vqa', 'qa')}
  return reading.make_tasks(rows)


def test_pictures_of_people_to_forget_are_the_only_tasks_to_go_down():
  made = _tasks('forget', 'holdout', 'retain', 'real')
  down = [name for name, task in made.items() if task.role == 'forget']
  assert down == ['forget_vqa', 'forget_vqa_holdout']
  assert {t.split for t in made.values()} == {'forget', 'retain', 'real'}
  assert all(task.reported for task in made.values())


def test_new_pictures_stand_for_the_trained_ones_where_there_are_some():
  headlines = lambda made: [n for n, task in made.items() if task.headline]
  kept = ['forget_qa', 'retain_vqa', 'retain_qa', 'real_vqa']
  with_new = headlines(_tasks('forget', 'holdout', 'retain', 'real'))
  assert sorted(with_new) == sorted(['forget_vqa_holdout', *kept])
  without = headlines(_tasks('forget', 'retain', 'real'))
  assert sorted(without) == sorted(['forget_vqa', *kept])
  new = [n for n, t in _tasks('forget', 'holdout').items() if t.holdout]
  assert new == ['forget_vqa_holdout', 'forget_qa_holdout']


@pytest.mark.parametrize('number, kept', [(0, 6), (2, 4), (9, 6)])
def test_thinning_keeps_as_many_rows_of_each_kind_in_their_order(number, kept):
  rows = [
    Row(f'{kind}{i}', 'q', 'a', 'a', task=kind)
    for kind in ('cloze', 'generation')
    for i in range(3)
  ]
  found = [row.key for row in reading.thin(rows, number, seed=0)]
  assert len(found) == kept
  assert found == [row.key for row in rows if row.key in found]


@pytest.mark.parametrize('kind', ['PNG', 'JPEG', 'GIF', 'WEBP', 'TIFF'])
@pytest.mark.parametrize('prefix', ['data:image/x;base64,', ''])
def test_base64_is_named_and_not_repeated(kind, prefix, tmp_path):
  data = base64.b64encode(benchmark_folders.file(1, kind)).decode()
  with pytest.raises(UserError, match='image of row 3 is text in base64') as e:
    reading.image_source(prefix + data, tmp_path, 'row 3')
  assert len(str(e.value)) < 200


def test_an_address_is_no_path(tmp_path):
  with pytest.raises(UserError, match='row 3 is an address.*to a file'):
    reading.image_source('https://host/a.png', tmp_path, 'row 3')
  assert reading.image_source('data/a.png', tmp_path, '') is not None
