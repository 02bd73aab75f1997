"""The gallery shows the same questions for every model, chosen unseen."""

import json

import answered
import numpy as np
import pytest
from shown import write_jsonl

from mmu_jax.data.dataset import by_name
from mmu_jax.data.dataset import Dataset
from mmu_jax.data.dataset import Task
from mmu_jax.data.row import Picture
from mmu_jax.data.row import Row
from mmu_jax.evaluation.report import gallery


def _image(seed):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (8, 6, 3)).astype(np.uint8)


def _rows(task, people, *, pictures, facts=('pet', 'city', 'food')):
  """Generation rows of each person, and one that is not shown."""
  rows = []
  for i, person in enumerate(people):
    picture = Picture(f'{person}/0', _image(i)) if pictures else None
    make = lambda fact, kind, shown=picture, p=person: Row(
      f'{task}/{p}/{fact}/{kind}',
      f'{fact}?',
      f'{p} {fact}.',
      fact,
      person=p,
      task=kind,
      picture=shown,
    )
    rows += [make(fact, 'generation') for fact in facts]
    rows.append(make('pet', 'cloze'))
  return rows


def _task(name, rows, split, modality, role, **more):
  return Task(name, rows, split, modality, role, headline=True, **more)


@pytest.fixture
def tasks():
  people = [f'p{i}' for i in range(5)]
  held = _rows('held', people, pictures=True)
  text = _rows('qa', people, pictures=False)
  kept = _rows('retain', people[3:], pictures=True)
  return by_name(
    _task('new', held, 'forget', 'vqa', 'forget', holdout=True),
    _task('text', text, 'forget', 'qa', 'keep'),
    _task('kept', kept, 'retain', 'vqa', 'keep'),
    Task('trained', held, 'forget', 'vqa', 'forget'),  # no headline
    _task('chosen', held, 'forget', 'vqa', 'forget', reported=False),
  )


def test_the_first_people_of_headlines_are_shown_each_with_another_fact(tasks):
  picked = gallery.pick(tasks)
  shown = [(task.name, row.person, row.fact) for task, row in picked]
  assert shown == [
    ('new', 'p0', 'pet'),
    ('new', 'p1', 'city'),
    ('new', 'p2', 'food'),
    ('text', 'p0', 'pet'),
    ('text', 'p1', 'city'),
    ('text', 'p2', 'food'),
    ('kept', 'p3', 'pet'),
    ('kept', 'p4', 'city'),
  ]
  assert {row.task for _, row in picked} == {'generation'}


def test_a_person_with_one_question_is_shown_with_it():
  rows = _rows('qa', ['a', 'b', 'c'], pictures=False, facts=['pet'])
  few = by_name(_task('text', rows, 'forget', 'qa', 'keep'))
  assert [row.fact for _, row in gallery.pick(few)] == ['pet', 'pet', 'pet']


def test_the_gallery_holds_the_answers_of_every_model(tasks, tmp_path):
  for run in ('vanilla', 'ga'):
    for task in tasks.values():
      write_jsonl(
        tmp_path / 'predictions' / run / f'{task.name}.jsonl',
        [answered.answer(r.key, text=f'{run} on {r.key}') for r in task.rows],
      )
  names = {'p0': 'Maria Lopez', 'p1': 'Ada Obi'}
  gallery.save_gallery(
    tmp_path,
    ['vanilla', 'ga'],
    Dataset({}, tasks, names),
    predictions=tmp_path / 'predictions',
  )
  entries = json.loads((tmp_path / 'gallery.json').read_text())
  images = np.load(tmp_path / 'gallery.npz')
  picked = gallery.pick(tasks)
  for entry, (task, row) in zip(entries, picked, strict=True):
    assert (entry['group'], entry['role']) == (task.split, task.role)
    assert entry['person'] == names.get(row.person, '')
    assert (entry['question'], entry['answer']) == (row.question, row.answer)
    assert entry['answers'] == {
      run: f'{run} on {row.key}' for run in ('vanilla', 'ga')
    }
    if row.picture is None:
      assert 'image' not in entry
    else:
      np.testing.assert_array_equal(images[entry['image']], row.picture.image)
  assert len(images.files) == 5
