"""Parts of a stream draw the rows of their splits and roles, and no others."""

import pytest

from mmu_jax import recipes
from mmu_jax.data.row import Row
from mmu_jax.errors import UserError
from mmu_jax.stages.budgets import drawing

TRAIN = {
  name: [Row(f'{name}/{i}', 'Who?', 'Ada', 'Ada') for i in range(2 + n)]
  for n, name in enumerate(('vqa/a', 'vqa/b', 'qa/a', 'qa/b'))
}
GROUPS = {'forget': ('a',), 'everybody': ('a', 'b')}


def test_a_role_stands_for_its_groups_and_what_is_left_out_is_in_none():
  part = recipes.part('vqa:everybody', 'qa/b', size=3, questions=2, weight=0.5)
  (drawn,) = drawing.draw(TRAIN, GROUPS, [part], ['vqa:forget'])
  assert [row.key for row in drawn.rows] == [
    row.key for name in ('vqa/b', 'qa/b') for row in TRAIN[name]
  ]
  assert (drawn.size, drawn.questions, drawn.weight) == (3, 2, 0.5)


@pytest.mark.parametrize(
  'split, message',
  [('vqa:nobody', 'unknown role; known: forget'), ('vqa/c', 'unknown split')],
)
def test_an_unknown_name_is_an_error(split, message):
  with pytest.raises(UserError, match=message):
    drawing.draw(TRAIN, GROUPS, [recipes.part(split, size=1)])
