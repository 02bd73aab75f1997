"""Where a patch stands, where a token stands, and how many there are."""

import numpy as np
import pytest
import transformers

from mmu_jax.data.encoding import patches
from mmu_jax.data.encoding.patches import Grid


def _images(**options):
  options = dict(patch_size=4, min_pixels=128, max_pixels=576) | options
  return patches.Qwen2VLImages(transformers.Qwen2VLImageProcessorPil(**options))


def _noise(rng, height, width):
  return rng.integers(0, 256, (height, width, 3)).astype(np.uint8)


def test_a_grid_is_known_before_the_image_is_encoded():
  rng = np.random.default_rng(0)
  images, counts = _images(), set()
  for _ in range(200):
    height, width = rng.integers(3, 90, 2)
    grid = images.grid(height, width)
    encoded = images.encode(_noise(rng, height, width))
    assert encoded.grid == grid
    assert encoded.num_tokens == images.num_tokens(grid) == np.prod(grid) / 4
    assert encoded.pixel_values.shape == (np.prod(grid), 96)
    counts.add(encoded.num_tokens)
  assert len(counts) > 4


def test_patch_positions_follow_the_order_of_the_image_processor():
  """An image whose pixels say in which patch they are."""
  images = _images(max_pixels=10**4, do_rescale=False, do_normalize=False)
  rows, columns = np.indices((24, 40)) // 4
  colours = np.stack([rows, columns, 0 * rows], -1).astype(np.uint8)
  encoded = images.encode(colours)
  assert encoded.grid == Grid(1, 6, 10)
  channels = encoded.pixel_values.reshape(60, 3, -1)
  assert (channels == channels[..., :1]).all()  # a patch is of one colour
  np.testing.assert_array_equal(channels[:, :2, 0], encoded.patch_positions)
  assert encoded.patch_positions[:5].tolist() == [
    [0, 0],
    [0, 1],
    [1, 0],
    [1, 1],
    [0, 2],
  ]


@pytest.mark.parametrize('merge_size', [1, 2, 3])
def test_patch_positions_are_every_place_once(merge_size):
  grid = Grid(2, 6, 12)
  found = patches.patch_positions(grid, merge_size)
  assert found.shape == (144, 2) and found.dtype == np.int32
  np.testing.assert_array_equal(found[:72], found[72:])  # each time alike
  assert len({tuple(place) for place in found[:72]}) == 72
  blocks = found.reshape(-1, merge_size**2, 2) // merge_size
  assert (blocks == blocks[:, :1]).all()  # a block's patches stay together


def test_mrope_positions_of_a_case_worked_by_hand():
  """Two words, 2 x 3 image tokens, a word, a single token, two words."""
  is_image = np.array([0, 0, 1, 1, 1, 1, 1, 1, 0, 1, 0, 0], bool)
  found = patches.mrope_positions(is_image, [Grid(1, 2, 3), Grid(1, 1, 1)])
  assert found.T.tolist() == [
    [0, 1, 2, 2, 2, 2, 2, 2, 5, 6, 7, 8],  # time
    [0, 1, 2, 2, 2, 3, 3, 3, 5, 6, 7, 8],  # row
    [0, 1, 2, 3, 4, 2, 3, 4, 5, 6, 7, 8],  # column
  ]


def test_mrope_positions_of_text_are_those_of_plain_rotary():
  found = patches.mrope_positions(np.zeros(5, bool), [])
  np.testing.assert_array_equal(found, np.arange(5)[:, None].repeat(3, 1))


def test_images_without_their_tokens_are_a_clear_error():
  with pytest.raises(ValueError, match='marks 1 image tokens .* have 4'):
    patches.mrope_positions(np.array([False, True]), [Grid(1, 2, 2)])


def test_a_strip_of_an_image_is_a_clear_error():
  with pytest.raises(ValueError, match='at most 200 times .* got 3 x 900'):
    _images().grid(3, 900)


def test_llava_tokens_are_those_of_crop_and_patch():
  clip = transformers.CLIPImageProcessorPil(
    size={'shortest_edge': 336}, crop_size={'height': 336, 'width': 336}
  )
  images = patches.LlavaImages(clip, 14)
  assert images.tokens_per_image == 576
  full = patches.LlavaImages(clip, 14, class_token=True)
  assert full.tokens_per_image == 577
  encoded = images.encode(_noise(np.random.default_rng(0), 3, 7))
  assert encoded.pixel_values.shape == (3, 336, 336)
  assert encoded.num_tokens == 576 and encoded.grid == Grid(1, 24, 24)
