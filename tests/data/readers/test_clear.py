"""CLEAR is read as it is, and asked with the published words."""

import collections
import json

import benchmark_folders
import numpy as np
import paths
import pytest

from mmu_jax.data import datasets
from mmu_jax.data.checks import check
from mmu_jax.data.readers import clear
from mmu_jax.data.readers import clear_rows
from mmu_jax.data.readers import reading
from mmu_jax.data.row import CLASSIFICATION
from mmu_jax.data.row import GENERATION

COMMON = paths.REFERENCE / 'official' / 'common'
needs_published = pytest.mark.skipif(
  not COMMON.is_dir(), reason=f'the published examples are not at {COMMON}'
)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return benchmark_folders.clear(tmp_path_factory.mktemp('clear'), ratio=10)


def _load(folder, seed=0, **options):
  return datasets.load('clear', seed, path=folder, ratio=10, **options)


def test_every_row_is_in_its_split(folder):
  """20 authors with two pictures and three questions in text; 2 forgotten."""
  data = _load(folder, retain_rows=0)
  sizes = {name: len(rows) for name, rows in data.train.items()}
  assert sizes == {
    'vqa/forget': 4,
    'vqa/retain': 36,
    'qa/forget': 6,
    'qa/retain': 54,
  }
  sizes = {name: len(task.rows) for name, task in data.tasks.items()}
  assert sizes == {
    'forget_vqa': 8,
    'retain_vqa': 72,
    'forget_qa': 6,
    'retain_qa': 54,
    'real_faces': 4,
    'real_world': 4,
  }
  assert data.notes == () and len(data.names) == 20
  every = [*data.train.values(), *(t.rows for t in data.tasks.values())]
  keys = [row.key for rows in every for row in rows]
  assert len(keys) == len(set(keys))


def test_text_is_learnt_once_and_names_its_author(folder):
  """The published vanilla training reads every question in text twice."""
  rows = _load(folder).train['qa/retain']
  assert len({r.question for r in rows}) == len(rows)
  for row in rows:
    assert row.picture is None and row.person in row.question


def test_of_two_names_of_one_length_the_same_counts_in_every_process(tmp_path):
  """The order of a set of texts differs from process to process."""
  asked = dict(image=None, caption=None, question='Who?', answer='Zoe and Ana')
  benchmark_folders.write(tmp_path, 'forget05+tofu', [asked])
  for people in (['Zoe', 'Ana'], ['Ana', 'Zoe']):
    dropped = reading.Dropped()
    (row,) = clear_rows.texts_of(tmp_path, 'forget05+tofu', people, dropped)
    assert row.person == 'Ana'


def test_names_are_chosen_among_wrong_ones(folder):
  rows = _load(folder).tasks['forget_vqa'].rows
  chosen = [r for r in rows if r.task == CLASSIFICATION]
  assert len(chosen) == 4
  for row in chosen:
    assert row.question == clear.NAME_QUESTION
    assert row.answer == row.person and row.options.count(row.answer) == 1
    assert len(row.options) == 6 and row.answer not in row.perturbed
  places = {
    r.options.index(r.answer)
    for seed in range(6)
    for r in _load(folder, seed).tasks['forget_vqa'].rows
    if r.task == CLASSIFICATION
  }
  assert len(places) >= 4


def test_captions_bring_what_truth_ratios_need(folder):
  data = _load(folder)
  for task in ('forget_vqa', 'retain_vqa'):
    for row in (r for r in data.tasks[task].rows if r.task == GENERATION):
      assert row.question in clear.CAPTION_QUESTIONS
      assert row.person in row.answer and row.person in row.paraphrase
      assert len(row.perturbed) == 5 and row.answer not in row.perturbed
      assert not any(row.person in wrong for wrong in row.perturbed)
  assert data.train['vqa/forget'][0].paraphrase == ''


def test_a_caption_is_asked_for_alike_in_training_and_score(folder):
  data = _load(folder, retain_rows=0)
  for group in ('forget', 'retain'):
    asked = {r.picture.key: r.question for r in data.train[f'vqa/{group}']}
    rows = data.tasks[f'{group}_vqa'].rows
    scored = {r.picture.key: r.question for r in rows if r.task == GENERATION}
    assert scored == asked
  drawn = collections.Counter(r.question for r in data.train['vqa/retain'])
  assert 6 <= len(drawn) <= 9
  others = _load(folder, seed=1).train['vqa/retain']
  assert [r.question for r in others] != [
    r.question for r in data.train['vqa/retain']
  ]


def test_published_questions_do_not_depend_on_the_seed(folder):
  draw = lambda seed: [
    r.question for r in _load(folder, seed, published=True).train['vqa/forget']
  ]
  assert draw(0) == draw(5)


@needs_published
def test_caption_questions_are_those_of_the_published_code(tmp_path):
  """The published dataset class, over rows of every kind."""
  golden = json.loads((COMMON / 'datasets.json').read_text())
  rows = [
    r | {'image': benchmark_folders.column(benchmark_folders.file(i))}
    for i, r in enumerate(golden['clear_rows'])
    if r['image']
  ]
  benchmark_folders.clear(tmp_path, ratio=5)
  benchmark_folders.write(tmp_path, 'forget05', rows)
  data = datasets.load('clear', 3, path=tmp_path, published=True)
  expected = [
    (r['question'], r['answer'])
    for r in golden['result']['CLEAR_Dataset/CAP']
    if r['image']
  ]
  found = [(r.question, r.answer) for r in data.train['vqa/forget']]
  assert found == expected and len(found) == 3


def test_real_people_and_places_keep_their_options(folder):
  data = _load(folder)
  faces, world = data.tasks['real_faces'].rows, data.tasks['real_world'].rows
  assert {r.question for r in faces} == {clear.NAME_QUESTION}
  assert {r.question for r in world} == {'Which city is this?'}
  for row in (*faces, *world):
    assert row.options.index(row.answer) == 1 and len(row.perturbed) == 3


def test_an_answer_that_the_options_lack_is_put_among_them(tmp_path):
  root = benchmark_folders.clear(tmp_path)
  benchmark_folders.rewrite(
    root,
    'real_world',
    lambda rows: [
      r | {'options': [o for o in r['options'] if o != r['answer']]}
      for r in rows
    ],
  )
  for row in datasets.load('clear', 0, path=root).tasks['real_world'].rows:
    assert row.options.count(row.answer) == 1 and len(row.options) == 4


def test_fewer_retain_rows_can_be_scored(folder):
  data = _load(folder, retain_rows=7)
  kinds = collections.Counter(r.task for r in data.tasks['retain_vqa'].rows)
  assert kinds == {GENERATION: 7, CLASSIFICATION: 7}
  assert len(data.tasks['retain_qa'].rows) == 7
  assert len(data.tasks['forget_vqa'].rows) == 8


def test_a_caption_without_perturbed_ones_is_still_generated(tmp_path):
  """As 1 of the 379 of forget10."""
  root = benchmark_folders.clear(tmp_path)
  benchmark_folders.rewrite(root, 'forget05_perturbed', lambda rows: rows[1:])
  data = datasets.load('clear', 0, path=root)
  tasks = collections.Counter(r.task for r in data.tasks['forget_vqa'].rows)
  assert tasks == {GENERATION: 2, CLASSIFICATION: 1}
  assert data.notes == (
    'left out 1 names to choose: no perturbed row: forget05/0',
  )


def test_a_person_in_both_sets_is_an_error(tmp_path):
  root = benchmark_folders.clear(tmp_path)
  take = lambda rows: rows + [rows[0] | {'name': 'Ana Abel'}]
  benchmark_folders.rewrite(root, 'retain95', take)
  with pytest.raises(ValueError, match='both forgotten and retained.*Ana Abel'):
    datasets.load('clear', 0, path=root)
  with pytest.raises(ValueError, match='ratio is one of 1, 5, 10, got 15'):
    datasets.load('clear', 0, path=root, ratio=15)


@pytest.mark.parametrize(
  'written',
  [
    lambda options: json.dumps(options),
    lambda options: str(options),
    lambda options: str(tuple(options)),
    lambda options: str(np.array(options)),
    lambda options: ', '.join(options),
    lambda options: options[0],
  ],
)
def test_options_that_are_one_text_are_refused(written, tmp_path):
  root = benchmark_folders.clear(tmp_path)
  benchmark_folders.rewrite(
    root,
    'real_faces',
    lambda rows: [r | {'options': written(r['options'])} for r in rows],
  )
  with pytest.raises(ValueError, match='options of row real_faces/0 .* list'):
    datasets.load('clear', 0, path=root)
  assert check.check(root).failed
