"""A layout is found by name, and speaks of its own columns."""

import pytest
from results import result
from shown import clear
from shown import mllmu

from mmu_jax.evaluation.report import layouts


def test_the_layout_is_the_one_that_the_scores_name():
  people = [result('ga', 'forget_qa', m, 1) for m in ('exact_match', 'cloze')]
  assert layouts.find_layout(people) is layouts.PEOPLE
  assert layouts.find_layout(mllmu()) is layouts.MLLMU_BENCH
  assert layouts.find_layout(clear()) is layouts.CLEAR
  for wrong in ([], [{'task': 'forget_qa'}], people + clear()):
    with pytest.raises(ValueError, match='run `mmu evaluate` again'):
      layouts.find_layout(wrong)


@pytest.mark.parametrize(
  'layout', layouts.LAYOUTS.values(), ids=list(layouts.LAYOUTS)
)
def test_a_layout_speaks_of_its_own_columns(layout):
  columns = [c for block in layout.blocks for c in block.columns]
  keys = [c.key for c in columns]
  assert len(set(keys)) == len(keys)
  told = [*layout.forget, *(t for group in layout.text for t in group)]
  assert {*(t.key for t in told), *dict(layout.kept)} <= set(keys)
  assert all(len(w) <= 6 for c in columns for w in c.short.split())
