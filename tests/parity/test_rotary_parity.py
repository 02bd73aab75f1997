"""Rotary frequencies are those of transformers, at the last position too."""

import numpy as np
import parity_reference as reference  # skips where torch is not installed
import pytest
from transformers.models.llama import modeling_llama
from transformers.models.qwen2_vl import modeling_qwen2_vl

from mmu_jax.models import layers

torch = reference.torch
FAR = 32768


def _llama(width, theta):
  config = modeling_llama.LlamaConfig(
    hidden_size=2 * width,
    num_attention_heads=2,
    rope_parameters={'rope_type': 'default', 'rope_theta': theta},
  )
  return modeling_llama.LlamaRotaryEmbedding(config).inv_freq


def _vision(width, theta):
  del theta  # what the tower has
  config = modeling_qwen2_vl.Qwen2VLVisionConfig(
    embed_dim=2 * width * 4, num_heads=4
  )
  return modeling_qwen2_vl.Qwen2VLVisionRotaryEmbedding(config).inv_freq


@pytest.mark.parametrize(
  'make, width, theta',
  [
    (_llama, 128, 1e4),
    (_llama, 128, 5e5),
    (_llama, 128, 1e6),  # as Qwen2-VL has them
    (_vision, 40, 1e4),
  ],
)
def test_frequencies_are_those_of_torch(make, width, theta, record_property):
  want = make(width, theta).numpy()
  got = layers.rotary_frequencies(width, theta)
  assert got.dtype == want.dtype == np.float32
  apart = np.abs(got.view(np.int32) - want.view(np.int32)).max()
  turns = lambda x: np.cos(np.float64(np.float32(FAR) * x))
  difference = np.abs(turns(got) - turns(want)).max()
  record_property('units in the last place', int(apart))
  record_property('largest difference of a cosine', float(difference))
  assert apart <= 1 and difference < 2e-6
