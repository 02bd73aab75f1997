"""The tower: its sizes must fit."""

import pytest

from mmu_jax.models import clip_vit


def test_patches_must_cover_the_image():
  with pytest.raises(ValueError, match='multiple of patch_size'):
    clip_vit.ClipVisionConfig(image_size=25, patch_size=12)


def test_the_published_tower_has_576_patches():
  assert clip_vit.ClipVisionConfig().num_patches == 24**2
