"""The harmonic mean, worked by hand."""

import pytest

from mmu_jax.metrics import harmonic_mean


def test_a_harmonic_mean_worked_by_hand():
  assert harmonic_mean([0.5, 0.25]) == pytest.approx(2 / (2 + 4))
  assert harmonic_mean([0.7] * 3) == pytest.approx(0.7)
  assert harmonic_mean([0.9, 0.9, 0]) == 0  # one lost ability is all


@pytest.mark.parametrize('values', [[], [0.5, -1], [float('nan')]])
def test_a_harmonic_mean_needs_scores(values):
  with pytest.raises(ValueError, match='at least one score'):
    harmonic_mean(values)
