"""Rows of every kind of folder in one form."""

import pytest

from mmu_jax.data.checks import check_rows


@pytest.mark.parametrize(
  'names, kind',
  [
    ({'forget_5': {'ID'}, 'Test_Set': {'ID'}}, check_rows.MLLMU),
    ({'forget_5': {'metadata'}, 'retain_95': {'metadata'}}, check_rows.TRAIN),
    ({'forget05+tofu': set(), 'Real_Faces': set()}, check_rows.CLEAR),
    ({'pictures': {'image'}}, ''),
  ],
)
def test_a_folder_is_known_by_its_configs(names, kind):
  assert check_rows.kind_of(names) == kind


def test_own_rows_belong_to_one_set_of_a_ratio_of_zero():
  row = {'question': 'Who?', 'answer': 'Ana.', 'split': 'forget'}
  entry = check_rows.entry(check_rows.OWN, 'a.jsonl', 'line 3', row)
  assert (entry.role, entry.where) == ('forget 0', 'line 3')
  assert entry.texts[0].alone and not entry.images
