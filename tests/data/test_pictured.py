"""Pictures of the training and new ones are told apart by their keys."""

import numpy as np
import pytest
import small_worlds

from mmu_jax.data import datasets
from mmu_jax.data import pictured
from mmu_jax.data.dataset import by_name
from mmu_jax.data.dataset import Dataset
from mmu_jax.data.dataset import Task
from mmu_jax.data.row import CLOZE
from mmu_jax.data.row import Picture
from mmu_jax.data.row import Row

GROUPS = {'forget': ('forget',), 'retain': ('retain', 'validation_retain')}


@pytest.fixture(scope='module')
def people():
  return datasets.load('people', 0, **small_worlds.SMALL)


def test_learned_and_unseen_pictures_of_people_are_disjoint(people):
  """Two people of three portraits, seven questions; one new portrait, six."""
  learned = pictured.learned(people, GROUPS, 'forget')
  unseen = pictured.unseen(people, 'forget')
  assert len(learned) == 2 * 3 * 7 and len(unseen) == 2 * 6
  pictures = lambda rows: {row.picture_key for row in rows}
  assert not pictures(learned) & pictures(unseen)
  assert {r.person for r in learned} == {r.person for r in unseen}
  kept = pictured.learned(people, GROUPS, 'retain')
  assert not {r.person for r in kept} & {r.person for r in learned}


def test_strangers_are_faces_in_no_split_of_the_training(people):
  found = pictured.stranger_pictures(people)
  seen = {row.picture_key for rows in people.train.values() for row in rows}
  assert found and not {p.key for p in found} & seen
  assert all(p.key.startswith('face/') for p in found)


def test_only_reported_questions_in_words_are_unseen():
  row = lambda key, **more: Row(
    key, 'Who?', 'A.', 'A', image=np.zeros((1, 1, 3)), **more
  )
  rows = [row('x'), row('y', task=CLOZE), row('k', image_key='k')]
  task = Task('t', [*rows, rows[0]], 'forget', 'vqa', 'forget')
  data = Dataset({'vqa/forget': [row('k')]}, by_name(task), {})
  assert [r.key for r in pictured.unseen(data, 'forget')] == ['x']
  assert pictured.stranger_pictures(data) == []
  hidden = data._replace(tasks=by_name(task._replace(reported=False)))
  assert pictured.unseen(hidden, 'forget') == []


def test_questions_about_other_pictures_keep_all_else(people):
  """Rows of one picture share the other; of few pictures each comes again."""
  rows = pictured.learned(people, GROUPS, 'forget')
  strangers = [Picture('a', 1), Picture('b', 2)]
  made = pictured.with_pictures(rows, strangers)
  other = {}
  for old, new in zip(rows, made, strict=True):
    assert new._replace(key='', picture=None) == (
      old._replace(key='', picture=None)
    )
    other.setdefault(old.picture_key, set()).add(new.picture_key)
  assert [*other.values()] == [{'a'}, {'b'}] * 3
  assert len({row.key for row in made}) == len(rows)
  assert pictured.with_pictures(rows, []) == []
