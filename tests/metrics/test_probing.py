"""The probe against least squares, and on planted features."""

import numpy as np
import pytest

from mmu_jax.metrics import probing

NAMES = [f'p{i}' for i in range(5)]


@pytest.mark.parametrize('n, width', [(9, 30), (40, 6)])
def test_ridge_weights_are_those_of_least_squares(n, width):
  """With rows of sqrt(n lambda) I below the features, and zeros as targets."""
  rng = np.random.default_rng(n)
  x, y = rng.normal(size=(n, width)), rng.normal(size=(n, 3))
  below = np.sqrt(n * 0.3) * np.eye(width)
  targets = np.concatenate([y, np.zeros((width, 3))])
  want = np.linalg.lstsq(np.concatenate([x, below]), targets, rcond=None)[0]
  np.testing.assert_allclose(probing.ridge_weights(x, y, 0.3), want, atol=1e-10)


def _features(planted, views, seed):
  """Features of 5 people, with their identity planted in one direction each."""
  rng = np.random.default_rng(seed)
  x = rng.normal(size=(5 * views, 40))
  x[:, :5] += planted * np.repeat(np.eye(5), views, axis=0)
  return x.astype(np.float32), np.repeat(NAMES, views)


@pytest.mark.parametrize('number', [0, 1, 3])
def test_planted_features_are_found_and_random_ones_are_chance(number):
  given = dict(ridge=0.01, number=number)
  find = lambda planted: probing.mean_hits(
    *_features(planted, 12, 0), *_features(planted, 200, 1), **given
  ).mean()
  assert find(100.0) == 1
  assert abs(find(0.0) - 0.2) < 0.05  # a thousand pictures
  assert 0.3 < find(3.0) < 1


def test_few_pictures_are_drawn_without_one_twice(monkeypatch):
  """Of 4 and 5 pictures, two each: two probes; and at most all there are."""
  seen = []

  def look(train, labels, test, test_labels, *, ridge):
    seen.append(train[:, 0].tolist())
    return np.array([True, len(seen) == 1])

  monkeypatch.setattr(probing, 'hits', look)
  x, names = np.arange(9.0)[:, None], list('aaaabbbbb')
  find = lambda n: probing.mean_hits(x, names, x, names, ridge=0.1, number=n)
  assert find(2).tolist() == [1, 0.5]
  assert seen == [[0, 1, 4, 5], [2, 3, 6, 7]]
  seen.clear()
  find(99)
  find(0)
  assert seen == [[0, 1, 2, 3, 4, 5, 6, 7], list(range(9))]
