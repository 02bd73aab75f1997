"""Qwen2.5-VL in the tests: what differs from Qwen2-VL."""

import dataclasses
from typing import Any

import numpy as np
import transformers

from families import qwen2_vl
from families import tensors


def shapes(tied: bool = False) -> tensors.Shapes:
  """RMSNorm and a gated MLP in the tower."""
  block = {
    'norm1.weight': (32,),
    'norm2.weight': (32,),
    **tensors.linear('attn.qkv', 96, 32),
    **tensors.linear('attn.proj', 32, 32),
    **tensors.linear('mlp.gate_proj', 40, 32),
    **tensors.linear('mlp.up_proj', 40, 32),
    **tensors.linear('mlp.down_proj', 32, 40),
  }
  kept = ('model.', 'lm_head.', 'visual.merger.mlp', 'visual.patch_embed')
  others = qwen2_vl.shapes(tied)
  return {
    **{k: x for k, x in others.items() if k.startswith(kept)},
    **tensors.numbered('visual.blocks', tensors.VISION_LAYERS, block),
    'visual.merger.ln_q.weight': (32,),
  }


def torch_config(seed: int, **changes: Any) -> transformers.Qwen2_5_VLConfig:
  """Draws the sizes: windows cut most pictures, one block sees them whole."""
  other = qwen2_vl.torch_config(seed)
  rng = np.random.default_rng(seed)
  vision, text = other.vision_config.to_dict(), other.text_config.to_dict()
  merged = vision['patch_size'] * vision['spatial_merge_size']
  depth = int(rng.integers(2, 4))
  options = {
    **{k: x for k, x in other.to_dict().items() if k.endswith('_id')},
    'tie_word_embeddings': other.tie_word_embeddings,
    'text_config': text | {'model_type': 'qwen2_5_vl_text'},
    'vision_config': dict(
      depth=depth,
      hidden_size=vision['embed_dim'],
      out_hidden_size=vision['hidden_size'],
      intermediate_size=int(rng.integers(20, 40)),
      num_heads=vision['num_heads'],
      patch_size=vision['patch_size'],
      spatial_merge_size=vision['spatial_merge_size'],
      # Not whole windows; one or two merged patches fit.
      window_size=merged * int(rng.integers(1, 3)) + 1,
      fullatt_block_indexes=[int(rng.integers(depth))],
    ),
  }
  return transformers.Qwen2_5_VLConfig(**{**options, **changes})


CASE = dataclasses.replace(
  qwen2_vl.CASE,
  name='qwen2_5_vl',
  options=dict(
    qwen2_vl.CASE.options,
    vision_config=dict(
      depth=2,
      hidden_size=32,
      out_hidden_size=32,
      intermediate_size=32,
      num_heads=2,
      patch_size=4,
      window_size=8,
      fullatt_block_indexes=(1,),
    ),
  ),
  hub_config=dict(
    qwen2_vl.CASE.hub_config,
    model_type='qwen2_5_vl',
    vision_config=dict(
      depth=tensors.VISION_LAYERS,
      hidden_size=32,
      out_hidden_size=tensors.WIDTH,
      intermediate_size=40,
      num_heads=2,
      in_chans=3,
      patch_size=4,
      window_size=8,
      fullatt_block_indexes=[0],
    ),
  ),
  shapes=shapes,
  transposed=35,
  torch_class='Qwen2_5_VLForConditionalGeneration',
  torch_config=torch_config,
  varies=(
    *qwen2_vl.CASE.varies,
    lambda c: c.vision_config.window,
    lambda c: c.vision_config.fullatt_block_indexes,
  ),
)
