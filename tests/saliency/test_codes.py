"""One byte a weight: the mask at its threshold is that of the scores."""

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest
import toy

from mmu_jax import masks
from mmu_jax import saliency as saliency_lib
from mmu_jax import sharding
from mmu_jax.saliency import codes as codes_lib

pytestmark = pytest.mark.usefixtures('quick_compile')


def _scores(seed, threshold, size=100_000):
  """Random ratios of all sizes, and the floats around the threshold."""
  rng = np.random.default_rng(seed)
  random = np.float32(threshold) * np.exp2(rng.normal(0, 4, size))
  wild = np.exp2(rng.uniform(-120, 120, size))
  near = [np.float32(threshold)]
  for direction in (0, np.inf):
    x = np.float32(threshold)
    for _ in range(50):
      x = np.nextafter(x, np.float32(direction))
      near.append(x)
  edge = np.float32([0, 1e-38, 3.4e38, np.inf])
  parts = random, wild, near, edge
  return np.concatenate([np.asarray(x, np.float32) for x in parts])


@pytest.mark.parametrize('threshold', [1.0, 0.1, 3.7, 1e-6, 12345.678])
def test_the_mask_at_the_stored_threshold_is_that_of_the_scores(threshold):
  scores = {'w': jnp.asarray(_scores(0, threshold))}
  ties = {'w': jnp.asarray(np.random.default_rng(1).random(200_105) < 0.2)}
  for ties_or_none in (None, ties):
    codes = codes_lib.to_codes(scores, ties_or_none, threshold)
    assert codes['w'].dtype == jnp.uint8
    want = saliency_lib.mask_from_saliency(
      scores, threshold=threshold, ties=ties_or_none
    )
    got = codes_lib.to_mask(codes, threshold, threshold)
    np.testing.assert_array_equal(got['w'], want['w'])
    assert 0.2 < np.mean(want['w']) < 0.7


@pytest.mark.parametrize('stored', [1.0, 0.3])
@pytest.mark.parametrize('step', [-100, -8, -3, 1, 8, 13, 127])
def test_the_mask_at_another_edge_is_that_of_the_scores_too(stored, step):
  threshold = stored * 2 ** (step / 8)
  scores = jnp.asarray(_scores(2, threshold))
  codes = codes_lib.to_codes(scores, None, stored)
  want = saliency_lib.mask_from_saliency(scores, threshold=threshold)
  got = codes_lib.to_mask(codes, threshold, stored)
  np.testing.assert_array_equal(got, want)


def test_the_density_at_each_threshold_is_the_one_of_its_mask():
  scores = toy.tree_like(toy.params(0), 6, sign=False)
  ties = toy.random_mask(scores, 6, share=0.2)
  codes = codes_lib.to_codes(scores, ties, 0.5)
  thresholds = [0.25, 0.5, 1.0, 2.0]
  got = codes_lib.density_by_threshold(codes, thresholds, toy.COMPONENTS, 0.5)
  assert list(got) == thresholds
  for threshold, found in got.items():
    mask = saliency_lib.mask_from_saliency(
      scores, threshold=threshold, ties=ties
    )
    assert found == masks.density(mask, components=toy.COMPONENTS)
  falling = [found['all'] for found in got.values()]
  assert falling == sorted(falling, reverse=True)
  assert 0.4 < falling[0] < 0.6 and falling[-1] < 0.2


def test_codes_live_where_the_scores_live():
  there = NamedSharding(sharding.make_mesh('fsdp=8'), P('fsdp'))
  scores = _scores(4, 1.0)[:1024]
  codes = codes_lib.to_codes(jax.device_put(scores, there))
  assert codes.sharding.is_equivalent_to(there, 1)
  mask = codes_lib.to_mask(codes)
  assert mask.sharding.is_equivalent_to(there, 1)
  np.testing.assert_array_equal(mask, scores >= 1)


@pytest.mark.parametrize(
  'threshold, message',
  [
    (1.05, '1.05 is none, the nearest is 1.09051. Take that, or keep the'),
    (2.0**17, 'within 2.15 of the stored one, 1.0; .* nearest is 60096.8'),
    (0.0, 'a positive number, got 0.0'),
    (np.inf, 'a positive number, got inf'),
  ],
)
def test_a_threshold_that_codes_cannot_tell_is_an_error(threshold, message):
  with pytest.raises(ValueError, match=message):
    codes_lib.to_mask(jnp.uint8([1]), threshold)


def test_ties_of_another_tree_are_an_error():
  scores = toy.tree_like(toy.params(0), 5, sign=False)
  with pytest.raises(ValueError, match='ties must have the leaves of the sco'):
    codes_lib.to_codes(scores, {'w': scores})
