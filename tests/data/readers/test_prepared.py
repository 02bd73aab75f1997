"""The form of prepared rows."""

import pytest

from mmu_jax.data.dataset import Dataset
from mmu_jax.data.readers import prepared


def test_names_that_tfds_cannot_tell_apart_are_a_clear_error():
  rows = {'qa/forget': [], 'qa_forget': []}
  with pytest.raises(ValueError, match="'qa_forget' occurs twice"):
    prepared.split_names(Dataset(rows, {}, {}))
