"""A small tokenizer of a dataset's own texts writes any text."""

import pytest

from mmu_jax.data.encoding import small
from mmu_jax.data.row import Row


def test_a_small_tokenizer_loses_nothing_and_is_kept_small():
  rows = [Row('k', 'Where was Ana born?', 'In Oslo.', 'Oslo')]
  tokenizer = small.choose('small', [rows]).tokenizer
  assert len(tokenizer) <= 2000
  for text in ('Where was Ana born?', 'Zoë, 漢 7!'):
    ids = tokenizer(text)['input_ids']
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_no_name_leaves_the_processor_to_the_checkpoint():
  assert small.choose('', []) is None
  with pytest.raises(ValueError, match="or 'small', got 'large'"):
    small.choose('large', [])
