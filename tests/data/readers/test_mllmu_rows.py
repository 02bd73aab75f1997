"""Rows of MLLMU-Bench are read in all the spellings that occur."""

import pytest

from mmu_jax.data.readers import mllmu_rows


@pytest.mark.parametrize('right', ['B', 'b.', ' B) ', 'a dog'])
def test_the_right_option_is_a_letter_or_its_text(right):
  item = {'Options': {'B': 'a dog', 'A': 'a cat ', 'C': ' '}}
  found = mllmu_rows.options_of(item | {'Correct_Answer': right})
  assert found == ({'A': 'a cat', 'B': 'a dog'}, 'B')
  assert mllmu_rows.options_of(item | {'Correct_Answer': 'C'})[1] == ''


def test_people_that_a_config_lacks_are_sorted_by_problem():
  found = mllmu_rows.unmatched({'2', '1'}, {'3'}, {'3', '9'}, {'1'})
  assert list(found.values()) == [['1', '2'], ['9'], ['2']]
  assert list(found)[0].endswith('forget set without training questions')


def test_a_person_is_known_by_the_row_or_by_its_questions():
  person = mllmu_rows.person_of
  assert person(None, [{'ID': 7}, {'ID': '007'}], 'row 0') == '007'
  assert person(8, [{'ID': 7}], 'row 0') == '008'
  with pytest.raises(ValueError, match='row 0 does not tell.*has 2 IDs'):
    person(None, [{'ID': 7}, {'ID': 8}], 'row 0')
