"""Distances to the retrained model, against scipy and by hand."""

import math

import numpy as np
import pytest
from scipy import stats
from scipy.spatial import distance

from mmu_jax.metrics import forget_quality
from mmu_jax.metrics import js_divergence


def test_the_p_value_of_two_disjoint_triples_is_one_in_ten():
  # D = 1 for 2 of the choose(6, 3) = 20 ways to label six values.
  assert forget_quality([1, 2, 3], [4, 5, 6]) == pytest.approx(0.1)


def test_models_alike_are_not_told_apart_and_others_are():
  rng = np.random.default_rng(0)
  gold = rng.normal(size=200)
  assert forget_quality(rng.normal(size=200), gold) > 0.05
  assert forget_quality(rng.normal(1, size=200), gold) < 1e-6


def test_the_p_value_is_that_of_scipy():
  rng = np.random.default_rng(1)
  a, b = rng.gamma(2, size=35), rng.gamma(2.5, size=40)
  assert forget_quality(a, b) == stats.ks_2samp(a, b).pvalue


@pytest.mark.parametrize('values', [[], [1.0, float('nan')]])
def test_a_test_needs_numbers(values):
  with pytest.raises(ValueError, match='needs truth ratios of both'):
    forget_quality(values, [1.0, 2.0])


def test_a_divergence_worked_by_hand():
  # m = (3/4, 1/4); H(m) = 2 - 3/4 log2 3, and half of H(1/2, 1/2) = 1/2.
  want = 2 - 0.75 * math.log2(3) - 0.5
  assert js_divergence([1, 0], [0.5, 0.5]) == pytest.approx(want)


def test_the_divergence_is_symmetric_and_that_of_scipy():
  rng = np.random.default_rng(2)
  for _ in range(5):
    p, q = rng.dirichlet(np.ones(4)), rng.dirichlet(np.ones(4))
    want = distance.jensenshannon(p, q, base=2) ** 2
    assert js_divergence(p, q) == pytest.approx(want)
    assert js_divergence(q, p) == pytest.approx(want)


@pytest.mark.parametrize(
  'p, q',
  [([0.5, 0.5], [1.0]), ([0.5, 0.6], [0.5, 0.5]), ([1.5, -0.5], [0.5, 0.5])],
)
def test_a_divergence_needs_distributions(p, q):
  with pytest.raises(ValueError, match='two distributions over the same'):
    js_divergence(p, q)
