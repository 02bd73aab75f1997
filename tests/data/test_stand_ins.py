"""Entities to keep stand in for those to forget, and nobody else is touched."""

import numpy as np
import pytest

from mmu_jax.data import stand_ins
from mmu_jax.data.dataset import by_name
from mmu_jax.data.dataset import Dataset
from mmu_jax.data.dataset import Task
from mmu_jax.data.row import CLASSIFICATION
from mmu_jax.data.row import Picture
from mmu_jax.data.row import Row
from mmu_jax.errors import UserError

ROLES = {'forget': ('forget',), 'retain': ('retain',)}
PIXELS = np.zeros((1, 1, 3), np.uint8)


def _rows(split, who, named, pictured):
  """Two rows about each entity; one without a name is its picture."""
  return [
    Row(
      f'{split}/{x}/{i}',
      'Who?',
      'Ada',
      'Ada',
      Picture(f'{x}.png', PIXELS) if pictured else None,
      x if named else None,
      CLASSIFICATION,
      ('Ada', 'Bo'),
    )
    for x in who
    for i in range(2)
  ]


def _data(forget, keep, named=True, text=True):
  who = {
    'forget': [f'f{i}' for i in range(forget)],
    'retain': [f'r{i}' for i in range(keep)],
  }
  train = {
    f'{kind}/{g}': _rows(f'{kind}/{g}', names, named, kind == 'vqa')
    for kind in (('vqa', 'qa') if text else ('vqa',))
    for g, names in who.items()
  }
  old = Task('forget_vqa', train['vqa/forget'], 'forget', 'vqa', 'forget')
  return Dataset(train, by_name(old), {})


def _entities(rows):
  return {row.person or row.picture_key for row in rows}


@pytest.mark.parametrize('named', [True, False])
@pytest.mark.parametrize(
  'forget, keep, number', [(3, 40, 3), (9, 20, 5), (1, 4, 2), (5, 5, 2)]
)
def test_as_many_as_are_forgotten_and_a_quarter_at_most(
  named, forget, keep, number
):
  data = _data(forget, keep, named, text=named)
  made, groups = stand_ins.stand_in(data, ROLES, seed=7)
  chosen = _entities(made.train['vqa/tuning_forget'])
  others = _entities(made.train['vqa/tuning_retain'])
  assert (len(chosen), len(others)) == (number, keep - number)
  assert chosen | others == _entities(data.train['vqa/retain'])
  assert groups['everybody'] == ('tuning_forget', 'tuning_retain')
  # The splits that vanilla learnt are whole, and its rounds stay the same.
  assert all(made.train[k] is rows for k, rows in data.train.items())


def test_pictures_are_to_go_and_text_is_to_stay():
  made, _ = stand_ins.stand_in(_data(2, 8), ROLES, seed=0)
  roles = {name: (task.role, task.split) for name, task in made.tasks.items()}
  assert roles == {
    'tuning_forget_vqa': ('forget', 'forget'),
    'tuning_retain_vqa': ('keep', 'retain'),
    'tuning_forget_qa': ('keep', 'forget'),
    'tuning_retain_qa': ('keep', 'retain'),
  }
  for task in made.tasks.values():
    assert task.headline and not task.reported
    assert not any(row.person.startswith('f') for row in task.rows)
    # They are asked as they were learnt: in words.
    assert {(row.task, row.options) for row in task.rows} == {
      ('generation', ())
    }


def test_data_without_text_have_two_tasks():
  made, _ = stand_ins.stand_in(_data(2, 8, text=False), ROLES, seed=0)
  assert list(made.tasks) == ['tuning_forget_vqa', 'tuning_retain_vqa']


def test_the_seed_draws():
  chosen = [
    _entities(
      stand_ins.stand_in(_data(5, 60), ROLES, seed)[0].train[
        'vqa/tuning_forget'
      ]
    )
    for seed in (0, 0, 1)
  ]
  assert chosen[0] == chosen[1] != chosen[2]


def test_too_few_to_keep_is_an_error():
  with pytest.raises(UserError, match='at least 4 people or things to keep, a'):
    stand_ins.stand_in(_data(1, 3), ROLES, seed=0)
