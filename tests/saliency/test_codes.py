"""One byte a weight: the mask at its threshold is that of the scores."""

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest
import toy

from mmu_jax import saliency as saliency_lib
from mmu_jax import sharding
from mmu_jax.saliency import codes as log_ratio

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
    codes = log_ratio.quantize(scores, ties_or_none, threshold)
    assert codes['w'].dtype == jnp.uint8
    want = saliency_lib.mask_from_saliency(
      scores, threshold=threshold, ties=ties_or_none
    )
    got = log_ratio.to_mask(codes, threshold, threshold)
    np.testing.assert_array_equal(got['w'], want['w'])
    assert 0.2 < np.mean(want['w']) < 0.7


@pytest.mark.parametrize('stored', [1.0, 0.3])
@pytest.mark.parametrize('step', [-100, -8, -3, 1, 8, 13, 127])
def test_the_mask_at_another_edge_is_that_of_the_scores_too(stored, step):
  threshold = stored * 2 ** (step / 8)
  scores = jnp.asarray(_scores(2, threshold))
  codes = log_ratio.quantize(scores, None, stored)
  want = saliency_lib.mask_from_saliency(scores, threshold=threshold)
  got = log_ratio.to_mask(codes, threshold, stored)
  np.testing.assert_array_equal(got, want)


def test_scores_come_back_within_half_a_step():
  rng = np.random.default_rng(3)
  scores = np.float32(0.7 * np.exp2(rng.uniform(-15.8, 15.8, 10_000)))
  codes = log_ratio.quantize(jnp.asarray(scores), threshold=0.7)
  back = np.asarray(log_ratio.dequantize(codes, stored=0.7))
  assert np.max(np.abs(np.log2(back / scores))) < 1 / 16 + 1e-5
  assert len(np.unique(codes)) > 240
  assert log_ratio.dequantize(jnp.uint8([log_ratio.TIE])).tolist() == [0]


def test_codes_live_where_the_scores_live():
  there = NamedSharding(sharding.make_mesh('fsdp=8'), P('fsdp'))
  scores = _scores(4, 1.0)[:1024]
  codes = log_ratio.quantize(jax.device_put(scores, there))
  assert codes.sharding.is_equivalent_to(there, 1)
  mask = log_ratio.to_mask(codes)
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
    log_ratio.to_mask(jnp.uint8([1]), threshold)


def test_ties_of_another_tree_are_an_error():
  scores = toy.tree_like(toy.params(0), 5, sign=False)
  with pytest.raises(ValueError, match='ties must have the leaves of the sco'):
    log_ratio.quantize(scores, {'w': scores})
