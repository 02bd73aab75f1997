"""The tower of Qwen3-VL: an image does not feel another, whatever its size."""

import families
import jax
import numpy as np
import pytest

from mmu_jax import models
from mmu_jax.models import qwen3_vit

pytestmark = pytest.mark.usefixtures('quick_compile')


def test_an_image_does_not_feel_the_pixels_or_the_size_of_another():
  case = families.CASES['qwen3_vl']
  model = models.from_options('qwen3_vl', 48, **case.options)
  params = model.init(jax.random.key(0))
  rng = np.random.default_rng(1)
  pixels = rng.normal(size=(1, 16, model.config.vision_config.patch_dim))
  places = np.tile(np.argwhere(np.ones((2, 4))), (2, 1))[None]
  batch = dict(
    pixel_values=pixels.astype(np.float32),
    patch_images=np.repeat([[1, 2]], 8, axis=1).reshape(1, 16),
    patch_positions=places,
  )
  features = jax.jit(model.image_features)
  before = features(params, batch)[0]
  batch['pixel_values'][:, 9] += 1  # a patch of the second image
  batch['patch_positions'][:, 8:, 1] *= 3  # which is wider, too
  changed = np.any(features(params, batch)[0] != before, axis=-1)
  assert changed.tolist() == [False, False, True, True]


def test_an_image_of_one_row_has_the_first_row_of_the_table():
  places = np.stack([np.zeros(3, int), np.arange(3)], axis=-1)[None]
  same = np.ones((1, 3, 3), bool)
  taps, weights = qwen3_vit.table_taps(places, same, 3)
  read = (np.arange(9.0)[taps] * weights).sum(-1)[0]
  assert read.tolist() == [0, 1, 2]


def test_the_published_tower_reads_two_frames_of_16_x_16_pixels():
  config = qwen3_vit.Qwen3VLVisionConfig()
  assert (config.patch_dim, config.side) == (3 * 2 * 16 * 16, 48)
