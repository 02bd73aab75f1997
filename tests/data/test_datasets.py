"""Datasets are found by name, with the options that they take."""

import pytest

from mmu_jax.data import datasets


@pytest.mark.parametrize(
  'name, options, message',
  [
    ('nobody', {}, "unknown dataset 'nobody'; known: people, "),
    ('people', {'ratio': 5}, "'people' does not take these options.*ratio"),
    ('own', {}, "'own' does not take these options.*path"),
  ],
)
def test_an_unknown_name_or_option_is_a_clear_error(name, options, message):
  with pytest.raises(ValueError, match=message):
    datasets.load(name, 0, **options)
