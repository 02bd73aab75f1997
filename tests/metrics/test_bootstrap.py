"""Intervals cover, widen with dependence, and never claim certainty."""

import numpy as np
import pytest

from mmu_jax.metrics import bootstrap
from mmu_jax.metrics import bootstrap_interval


def _coverage(draw, truth, trials=400):
  hits = 0
  for trial in range(trials):
    values, groups = draw(np.random.default_rng(trial))
    low, high = bootstrap_interval(
      values, groups=groups, num_resamples=300, seed=trial
    )
    hits += low <= truth <= high
  return hits / trials


def test_the_interval_covers_the_true_mean_nineteen_times_in_twenty():
  draw = lambda rng: (rng.random(100) < 0.7, None)
  # Binomial standard error of 400 trials at .95 is .011: three of them, and
  # one point for the percentile method's own bias at n = 100.
  assert abs(_coverage(draw, 0.7) - 0.95) < 0.043


def _people(rng, people=40, items=8):
  """Every person is known or not: the items of one person are all equal."""
  return np.repeat(rng.random(people) < 0.6, items)


def test_resampling_people_covers_where_resampling_items_does_not():
  labels = np.repeat(np.arange(40), 8).tolist()
  by_person = _coverage(lambda rng: (_people(rng), labels), 0.6)
  by_item = _coverage(lambda rng: (_people(rng), None), 0.6)
  assert abs(by_person - 0.95) < 0.05
  assert by_item < 0.65  # the items are 8 times fewer than they look


def test_two_values_give_the_quantiles_worked_by_hand():
  # Means of two draws from {0, 1}: 0, .5, 1 with weights 1/4, 1/2, 1/4.
  assert bootstrap_interval([0, 1]) == (0, 1)
  assert bootstrap_interval([0, 1], confidence=0.4) == (0.5, 0.5)


def test_the_width_is_that_of_the_normal_interval_for_many_items():
  values = np.random.default_rng(0).normal(size=2000)
  low, high = bootstrap_interval(values)
  expected = 2 * 1.96 * values.std() / np.sqrt(2000)
  assert high - low == pytest.approx(expected, rel=0.1)


def test_all_right_or_all_wrong_gives_the_wilson_interval():
  # At p = 1 the formula reduces to n / (n + z^2), z = 1.959964.
  assert bootstrap_interval([1] * 36) == pytest.approx((36 / 39.841459, 1))
  none = bootstrap_interval([0] * 36)
  assert none == pytest.approx((0, 3.841459 / 39.841459))


def test_equal_real_values_have_no_spread():
  assert bootstrap_interval([0.3] * 5) == (0.3, 0.3)


def test_one_person_is_resampled_by_item():
  values = [0, 1, 1, 0, 1]
  alone = bootstrap_interval(values, groups=['maria'] * 5)
  assert alone == bootstrap_interval(values)
  assert alone[0] < alone[1]


def test_items_without_a_person_are_their_own_groups():
  values = [0, 1, 1, 0, 1]
  assert bootstrap_interval(values, groups=[None] * 5) == bootstrap_interval(
    values, groups=list('abcde')
  )


def test_the_order_of_group_labels_does_not_matter():
  values, labels = [0, 1, 1, 0, 1, 1], list('aabbcc')
  renamed = [{'a': 7, 'b': 1, 'c': 3}[label] for label in labels]
  assert bootstrap_interval(values, groups=labels) == bootstrap_interval(
    values, groups=renamed
  )


def test_equal_seeds_give_equal_intervals():
  values = np.random.default_rng(1).random(30)
  first, again = (bootstrap_interval(values, seed=3) for _ in range(2))
  assert first == again


@pytest.mark.parametrize(
  'values, kwargs, words',
  [
    ([], {}, 'at least one finite score'),
    ([1.0, float('nan')], {}, 'at least one finite score'),
    ([1, 0], {'groups': ['a']}, '1 groups for 2 values'),
    ([1, 0], {'confidence': 95}, 'confidence must lie in'),
  ],
)
def test_bad_input_is_named(values, kwargs, words):
  with pytest.raises(ValueError, match=words):
    bootstrap_interval(values, **kwargs)


def test_resampled_means_are_those_of_the_interval():
  values, labels = [0, 1, 1, 0, 1, 1], list('aabbcc')
  means = bootstrap.resampled_means(values, groups=labels)
  assert means.shape == (1000,)
  want = bootstrap_interval(values, groups=labels)
  assert bootstrap.quantiles(means) == want


def test_equal_groups_and_seeds_draw_the_same_people():
  """So scores of several metrics can be resampled together."""
  labels = list('aabbcc')
  draw = lambda x: bootstrap.resampled_means(x, groups=labels, seed=3)
  first, second = draw([0, 1, 2, 3, 4, 5]), draw([1, 3, 5, 7, 9, 11])
  np.testing.assert_allclose(2 * first + 1, second)


def test_rows_of_a_group_are_drawn_together():
  groups = ['a', None, 'a', None]
  for rows in bootstrap.resampled_rows(groups, num_resamples=20, seed=0):
    counts = np.bincount(rows, minlength=4)
    assert counts[0] == counts[2]
    assert counts[0] + counts[1] + counts[3] == 3  # of three groups
