"""Every use has random numbers of its own, the same in every process."""

import zlib

import numpy as np
import pytest

from mmu_jax.data.rng import named_rng


def test_equal_names_give_equal_numbers_and_others_give_others():
  draw = lambda *names: named_rng(*names).integers(2**32, size=4).tolist()
  assert draw(3, 'look', 'p001') == draw(3, 'look', 'p001')
  others = [(4, 'look', 'p001'), (3, 'p001', 'look'), (3, 'look'), (3,)]
  assert all(draw(*names) != draw(3, 'look', 'p001') for names in others)


def test_names_are_hashed_by_crc32_and_numbers_are_taken_as_they_are():
  # Published digits depend on these bits.
  wanted = np.random.default_rng([7, zlib.crc32(b'train/0'), 1, 250])
  found = named_rng(7, 'train/0', 1, 250)
  assert found.integers(2**32) == wanted.integers(2**32)


def test_a_negative_seed_is_refused():
  with pytest.raises(ValueError):
    named_rng(-1, 'look')
