"""One fact becomes rows of every kind."""

import numpy as np

from mmu_jax.data.people import items
from mmu_jax.data.people import vocabulary

ASK = vocabulary.Ask('Which colour?', 'It is {fact}.', ('red', 'blue'))


def test_a_drawing_is_drawn_once_and_when_it_is_used():
  drawn = []
  picture = items.Drawing(lambda: drawn.append(1) or np.ones((4, 4, 3)), 4)
  assert picture.shape == (4, 4, 3) and not drawn
  assert np.asarray(picture).sum() == np.asarray(picture).sum() == 48
  assert len(drawn) == 1


def test_facts_with_too_few_others_are_not_chosen_among():
  two = items.Item('a', ASK, 'red')
  four = items.Item(
    'b', ASK._replace(facts=('red', 'blue', 'grey', 'pink')), 'red'
  )
  rows = items.scored_rows(0, [two, four], 'real_qa')
  assert [row.key for row in rows] == [
    'a/generation@real_qa',
    'b/generation@real_qa',
    'b/classification@real_qa',
  ]
  assert sorted(rows[-1].options) == [
    'It is blue.',
    'It is grey.',
    'It is pink.',
    'It is red.',
  ]
