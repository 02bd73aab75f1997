"""The tower of Qwen2-VL: images of a row do not see each other."""

import families
import jax
import numpy as np
import pytest

from mmu_jax import models
from mmu_jax.models import qwen2_vit

pytestmark = pytest.mark.usefixtures('quick_compile')


def test_an_image_does_not_feel_the_pixels_of_another():
  case = families.CASES['qwen2_vl']
  model = models.from_options('qwen2_vl', 48, **case.options)
  params = model.init(jax.random.key(0))
  rng = np.random.default_rng(1)
  pixels = rng.normal(size=(1, 16, model.config.vision_config.patch_dim))
  batch = dict(
    pixel_values=pixels.astype(np.float32),
    patch_images=np.repeat([[1, 2]], 8, axis=1).reshape(1, 16),
    patch_positions=np.zeros((1, 16, 2), np.int32),
  )
  features = jax.jit(model.image_features)
  before = features(params, batch)[0]
  batch['pixel_values'][:, 9] += 1  # a patch of the second image
  changed = np.any(features(params, batch)[0] != before, axis=-1)
  assert changed.tolist() == [False, False, True, True]


def test_heads_of_the_tower_must_hold_pairs_for_row_and_column():
  with pytest.raises(ValueError, match='multiple of 4 num_heads'):
    qwen2_vit.Qwen2VLVisionConfig(embed_dim=30)


def test_the_published_tower_reads_two_frames_of_14_x_14_pixels():
  config = qwen2_vit.Qwen2VLVisionConfig()
  assert (config.patch_dim, config.inner) == (3 * 2 * 14 * 14, 5120)
  assert (config.width, config.out_width) == (1280, 3584)


def test_windows_are_counted_from_the_upper_left_corner():
  """Of 5 x 9 patches in windows of 4: pieces of 4 and 1 by 4, 4 and 1."""
  place = np.stack(np.mgrid[:5, :9], axis=-1).reshape(1, 45, 2)
  order = np.random.default_rng(2).permutation(45)
  seen = np.asarray(qwen2_vit.same_window(place[:, order], 4)[0])
  sizes = {16: 32, 4: 12, 1: 1}  # patches of a window: patches of such windows
  for size, count in sizes.items():
    assert (seen.sum(axis=1) == size).sum() == count
  rows, columns = place[0, order].T // 4
  want = (rows[:, None] == rows) & (columns[:, None] == columns)
  np.testing.assert_array_equal(seen, want)


def test_windows_hold_merged_patches_whole():
  config = qwen2_vit.Qwen25VLVisionConfig()
  assert (config.window, config.patch_dim) == (8, 1176)
  cut = qwen2_vit.Qwen25VLVisionConfig(window_size=140)  # 5 merged patches
  assert cut.window == 10
  with pytest.raises(ValueError, match='at least 28; got 27'):
    qwen2_vit.Qwen25VLVisionConfig(window_size=27)
