"""Qwen3-VL in the tests."""

import dataclasses
from typing import Any

import numpy as np
import transformers

from families import qwen2_vl
from families import tensors

HEAD, ROPE = 8, {'rope_type': 'default', 'mrope_interleaved': True}


def shapes(tied: bool = False) -> tensors.Shapes:
  """Heads of width 8, norms of queries and keys, one merger on the way."""
  block = {
    **tensors.norm('norm1', 32),
    **tensors.norm('norm2', 32),
    **tensors.linear('attn.qkv', 96, 32),
    **tensors.linear('attn.proj', 32, 32),
    **tensors.linear('mlp.linear_fc1', 40, 32),
    **tensors.linear('mlp.linear_fc2', 32, 40),
  }
  merger = {
    **tensors.linear('linear_fc1', 128, 128),
    **tensors.linear('linear_fc2', tensors.WIDTH, 128),
  }
  norms = {f'self_attn.{x}_norm.weight': (HEAD,) for x in 'qk'}
  text, visual = 'model.language_model', 'model.visual'
  head = {'lm_head.weight': (tensors.VOCAB, tensors.WIDTH)}
  below = lambda name, found: {f'{name}.{k}': x for k, x in found.items()}
  return {
    **({} if tied else head),
    **tensors.decoder(text),
    **tensors.numbered(f'{text}.layers', tensors.TEXT_LAYERS, norms),
    **tensors.linear(f'{visual}.patch_embed.proj', 32, 0),
    f'{visual}.patch_embed.proj.weight': (32, 3, 2, 4, 4),
    f'{visual}.pos_embed.weight': (9, 32),
    **tensors.numbered(f'{visual}.blocks', tensors.VISION_LAYERS, block),
    **below(f'{visual}.merger', merger | tensors.norm('norm', 32)),
    **below(
      f'{visual}.deepstack_merger_list.0', merger | tensors.norm('norm', 128)
    ),
  }


def torch_config(seed: int, **changes: Any) -> transformers.Qwen3VLConfig:
  """Draws the sizes; heads are wider than the decoder divided by them."""
  other = qwen2_vl.torch_config(seed)
  rng = np.random.default_rng(seed)
  vision, text = other.vision_config.to_dict(), other.text_config.to_dict()
  rows, columns = (int(n) for n in rng.integers(1, 3, 2))
  section = [max(rows, columns) + int(rng.integers(1, 4)), rows, columns]
  layers, depth = int(rng.integers(2, 4)), int(rng.integers(2, 4))
  heads, keys = text['num_attention_heads'], text['num_key_value_heads']
  options = {
    **{k: x for k, x in other.to_dict().items() if k.endswith('_id')},
    'tie_word_embeddings': other.tie_word_embeddings,
    'text_config': dict(
      vocab_size=text['vocab_size'],
      hidden_size=text['hidden_size'],
      intermediate_size=text['intermediate_size'],
      num_hidden_layers=layers,
      num_attention_heads=heads,
      num_key_value_heads=keys,
      head_dim=2 * sum(section),
      rms_norm_eps=text['rms_norm_eps'],
      rope_parameters=ROPE
      | dict(
        rope_theta=text['rope_parameters']['rope_theta'], mrope_section=section
      ),
      tie_word_embeddings=other.tie_word_embeddings,
      pad_token_id=0,
    ),
    'vision_config': dict(
      depth=depth,
      hidden_size=vision['embed_dim'],
      out_hidden_size=vision['hidden_size'],
      intermediate_size=int(rng.integers(20, 40)),
      num_heads=vision['num_heads'],
      patch_size=vision['patch_size'],
      spatial_merge_size=vision['spatial_merge_size'],
      num_position_embeddings=int(rng.integers(3, 6)) ** 2,
      deepstack_visual_indexes=sorted(
        rng.permutation(depth)[: 1 + seed % 2].tolist()
      ),
    ),
  }
  return transformers.Qwen3VLConfig(**{**options, **changes})


CASE = dataclasses.replace(
  qwen2_vl.CASE,
  name='qwen3_vl',
  options=dict(
    vision_config=dict(
      depth=2,
      hidden_size=32,
      out_hidden_size=32,
      intermediate_size=32,
      num_heads=2,
      patch_size=4,
      num_position_embeddings=16,
      deepstack_visual_indexes=(0, 1),
    ),
    text_config=dict(
      hidden_size=32,
      intermediate_size=32,
      num_hidden_layers=2,
      num_attention_heads=4,
      num_key_value_heads=2,
      head_dim=16,
      qk_norm=True,
      mrope_section=(4, 2, 2),
      mrope_interleaved=True,
    ),
  ),
  hub_config=dict(
    model_type='qwen3_vl',
    torch_dtype='bfloat16',
    text_config=dict(
      tensors.TEXT,
      model_type='qwen3_vl_text',
      head_dim=HEAD,
      rope_scaling=ROPE | {'mrope_section': [2, 1, 1]},
    ),
    vision_config=dict(
      depth=tensors.VISION_LAYERS,
      hidden_size=32,
      out_hidden_size=tensors.WIDTH,
      intermediate_size=40,
      num_heads=2,
      patch_size=4,
      num_position_embeddings=9,
      deepstack_visual_indexes=[1],
    ),
  ),
  decoder_at='text_config',
  shapes=shapes,
  renamed=lambda name, writer: name,
  transposed=35,
  decoder='model.language_model',
  patches='model.visual.patch_embed.proj.weight',
  torch_class='Qwen3VLForConditionalGeneration',
  torch_config=torch_config,
  torch_names={'': ''},
  flatten_config=dict,
  varies=(
    *qwen2_vl.CASE.varies,
    lambda c: c.vision_config.side,
    lambda c: c.vision_config.deepstack_visual_indexes,
    lambda c: c.text_config.mrope_section,
  ),
)
