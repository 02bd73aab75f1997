"""Portraits and shapes: every attribute shows, every rendering differs."""

import numpy as np
import pytest

from mmu_jax.data.people import portraits

BASE = portraits.Look(1, 0, 0, 1, 0, 0, 0, 4, 0)


def _mean(look, seeds=range(24)):
  """The average rendering, in which the variation between them fades."""
  pictures = [
    portraits.draw_portrait(look, np.random.default_rng(seed)) for seed in seeds
  ]
  return np.mean(pictures, axis=0)


def test_a_rendering_is_a_function_of_look_and_seed():
  first, same, other = (
    portraits.draw_portrait(BASE, np.random.default_rng(seed))
    for seed in (0, 0, 1)
  )
  assert first.shape == (48, 48, 3) and first.dtype == np.uint8
  np.testing.assert_array_equal(first, same)
  assert (first != other).mean() > 0.5


@pytest.mark.parametrize('size', [8, 48, 96])
def test_pictures_have_the_size_that_was_asked_for(size):
  rng = np.random.default_rng(0)
  assert portraits.draw_portrait(BASE, rng, size).shape == (size, size, 3)
  shapes = portraits.draw_shapes('star', 'red', 4, rng, size)
  assert shapes.shape == (size, size, 3)


@pytest.mark.parametrize(
  'look', [BASE, BASE._replace(hat=2, hair=1, glasses=2, beard=2)]
)
@pytest.mark.parametrize('name', portraits.Look._fields)
def test_every_value_of_every_attribute_is_visible(look, name):
  # The same random stream, so that only the attribute differs. A hat, dark
  # glasses and a full beard must hide none of the others.
  values = range(len(getattr(portraits.LOOK_WORDS, name)))
  pictures = [_mean(look._replace(**{name: value})) for value in values]
  for i in values:
    for j in range(i):
      # Seven pixels of 2,304 by more than a sixteenth of the range.
      change = np.abs(pictures[i] - pictures[j]).max(-1)
      assert (change > 16).sum() >= 7, (i, j)


@pytest.mark.parametrize('shape', portraits.SHAPES)
@pytest.mark.parametrize('count', [1, 2, 3, 4])
def test_shapes_do_not_touch(shape, count):
  rng = np.random.default_rng(count)
  for _ in range(5):
    picture = portraits.draw_shapes(shape, 'red', count, rng).astype(int)
    red = picture[..., 0] - picture[..., 1:].max(-1) > 60
    assert _num_regions(red) == count


@pytest.mark.parametrize(
  'arguments', [('moon', 'red', 1), ('star', 'pink', 1), ('star', 'red', 5)]
)
def test_an_impossible_picture_of_shapes_is_refused(arguments):
  with pytest.raises(ValueError, match='count from 1 to 4, got'):
    portraits.draw_shapes(*arguments, np.random.default_rng(0))


def _num_regions(mask, least=6):
  """Connected regions of at least so many pixels."""
  mask, regions = mask.copy(), 0
  while mask.any():
    stack, size = [tuple(np.argwhere(mask)[0])], 0
    while stack:
      y, x = stack.pop()
      if 0 <= y < mask.shape[0] and 0 <= x < mask.shape[1] and mask[y, x]:
        mask[y, x] = False
        size += 1
        stack += [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
    regions += size >= least
  return regions
