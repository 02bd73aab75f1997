"""Qwen2-VL: its parts must fit, and a tied embedding has no copy."""

import families
import pytest

from mmu_jax import models
from mmu_jax.models.families import qwen2_vl


def test_the_merger_must_give_the_width_of_the_decoder():
  vision = qwen2_vl.Qwen2VLVisionConfig(hidden_size=24)
  with pytest.raises(ValueError, match='got 24 and 3584'):
    qwen2_vl.Qwen2VLConfig(vision_config=vision)


def test_a_tied_model_has_no_output_layer():
  options = families.CASES['qwen2_vl'].options
  tied = [
    'lm_head'
    not in models.from_options(
      'qwen2_vl', 48, tie_word_embeddings=tie, **options
    ).abstract_params
    for tie in (True, False)
  ]
  assert tied == [True, False]
