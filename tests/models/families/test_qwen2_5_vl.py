"""Qwen2.5-VL: only the tower differs, and its parts must fit."""

import dataclasses

import pytest

from mmu_jax import models
from mmu_jax.models.families import qwen2_5_vl


def test_a_merger_of_another_width_is_refused():
  vision = qwen2_5_vl.Qwen25VLVisionConfig(out_hidden_size=24)
  with pytest.raises(ValueError, match='out_hidden_size, is the decoder'):
    qwen2_5_vl.Qwen25VLConfig(vision_config=vision)


def test_the_decoder_is_qwen2_vl_with_a_longer_context():
  theirs, ours = (models.MODELS[n].config() for n in ('qwen2_vl', 'qwen2_5_vl'))
  text = dataclasses.replace(ours.text_config, max_position_embeddings=32768)
  assert text == theirs.text_config and ours != theirs
  assert models.build(ours).family == 'qwen2_5_vl'
