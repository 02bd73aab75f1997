"""The gallery shows the same questions for every model, chosen unseen."""

import json

import answered
import numpy as np
import pytest

from mmu_jax import workdir
from mmu_jax.data.row import Row
from mmu_jax.evaluation.report import gallery


def _image(seed):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (8, 6, 3)).astype(np.uint8)


def _rows(task, people, *, pictures, facts=('pet', 'city', 'food')):
  """Generation rows of each person, and one that is not shown."""
  rows = []
  for i, person in enumerate(people):
    more = dict(image=_image(i), image_key=f'{person}/0') if pictures else {}
    make = lambda fact, kind, m=more, p=person: Row(
      f'{task}/{p}/{fact}/{kind}',
      f'{fact}?',
      f'{p} {fact}.',
      fact,
      person=p,
      task=kind,
      **m,
    )
    rows += [make(fact, 'generation') for fact in facts]
    rows.append(make('pet', 'cloze'))
  return rows


@pytest.fixture
def tasks():
  people = [f'p{i}' for i in range(5)]
  return {
    'forget_vqa_holdout': _rows('held', people, pictures=True),
    'forget_qa': _rows('qa', people, pictures=False),
    'retain_vqa': _rows('retain', people[3:], pictures=True),
    'forget_vqa': _rows('train', people, pictures=True),  # not shown
  }


def test_the_first_people_are_shown_each_with_another_fact(tasks):
  picked = gallery.pick(tasks)
  shown = [(task, group, row.person, row.fact) for task, group, row in picked]
  assert shown == [
    ('forget_vqa_holdout', 'forget', 'p0', 'pet'),
    ('forget_vqa_holdout', 'forget', 'p1', 'city'),
    ('forget_vqa_holdout', 'forget', 'p2', 'food'),
    ('forget_qa', 'forget', 'p0', 'pet'),
    ('forget_qa', 'forget', 'p1', 'city'),
    ('forget_qa', 'forget', 'p2', 'food'),
    ('retain_vqa', 'retain', 'p3', 'pet'),
    ('retain_vqa', 'retain', 'p4', 'city'),
  ]
  assert {row.task for _, _, row in picked} == {'generation'}


def test_a_person_with_one_question_is_shown_with_it(tasks):
  few = {
    'forget_qa': _rows('qa', ['a', 'b', 'c'], pictures=False, facts=['pet'])
  }
  facts = [row.fact for _, _, row in gallery.pick(few)]
  assert facts == ['pet', 'pet', 'pet']


def test_the_gallery_holds_the_answers_of_every_model(tasks, tmp_path):
  for run in ('vanilla', 'ga'):
    for task, rows in tasks.items():
      workdir.write_jsonl(
        tmp_path / 'predictions' / run / f'{task}.jsonl',
        [answered.answer(r.key, text=f'{run} on {r.key}') for r in rows],
      )
  names = {'p0': 'Maria Lopez', 'p1': 'Ada Obi'}
  gallery.save(
    tmp_path,
    ['vanilla', 'ga'],
    tasks,
    names,
    predictions=tmp_path / 'predictions',
  )
  entries = json.loads((tmp_path / 'gallery.json').read_text())
  images = np.load(tmp_path / 'gallery.npz')
  picked = gallery.pick(tasks)
  for entry, (_, group, row) in zip(entries, picked, strict=True):
    assert entry['group'] == group
    assert entry['person'] == names.get(row.person, '')
    assert (entry['question'], entry['answer']) == (row.question, row.answer)
    assert entry['answers'] == {
      run: f'{run} on {row.key}' for run in ('vanilla', 'ga')
    }
    if row.image is None:
      assert 'image' not in entry
    else:
      np.testing.assert_array_equal(images[entry['image']], row.image)
  assert len(images.files) == 5
