"""Qwen2-VL in the tests."""

from typing import Any

import numpy as np
import transformers

from families import pictures
from families import tensors
from families.case import Case

MROPE = {'type': 'mrope', 'mrope_section': [1, 1, 2]}


def shapes(tied: bool = False) -> tensors.Shapes:
  """A tower with two frames of 4 x 4 pixels a patch."""
  block = {
    **tensors.norm('norm1', 32),
    **tensors.norm('norm2', 32),
    **tensors.linear('attn.qkv', 96, 32),
    **tensors.linear('attn.proj', 32, 32),
    **tensors.linear('mlp.fc1', 64, 32),
    **tensors.linear('mlp.fc2', 32, 64),
  }
  head = {'lm_head.weight': (tensors.VOCAB, tensors.WIDTH)}
  return {
    **({} if tied else head),
    **tensors.decoder('model', bias=True),
    'visual.patch_embed.proj.weight': (32, 3, 2, 4, 4),
    **tensors.numbered('visual.blocks', tensors.VISION_LAYERS, block),
    **tensors.norm('visual.merger.ln_q', 32),
    **tensors.linear('visual.merger.mlp.0', 128, 128),
    **tensors.linear('visual.merger.mlp.2', tensors.WIDTH, 128),
  }


def renamed(name: str, writer: str) -> str:
  """The name of transformers since 4.52."""
  del writer
  if name.startswith('model.'):
    return 'model.language_model.' + name.removeprefix('model.')
  return name if name.startswith('lm_head') else 'model.' + name


def torch_config(seed: int, **changes: Any) -> transformers.Qwen2VLConfig:
  """Draws the sizes of a Qwen2-VL; every second one has tied embeddings."""
  rng = np.random.default_rng(seed)
  draw = lambda low, high: int(rng.integers(low, high + 1))
  kv_heads, vision_heads = draw(1, 2), draw(1, 3)
  heads, section = kv_heads * (1 + seed % 3), [draw(1, 3) for _ in range(3)]
  hidden, vocab, tied = heads * 2 * sum(section), draw(90, 130), seed % 2 == 0
  options = dict(
    text_config=dict(
      vocab_size=vocab,
      hidden_size=hidden,
      intermediate_size=draw(20, 40),
      num_hidden_layers=draw(1, 3),
      num_attention_heads=heads,
      num_key_value_heads=kv_heads,
      rms_norm_eps=float(rng.choice([1e-6, 1e-3])),
      rope_parameters={
        'rope_type': 'default',
        'rope_theta': float(rng.choice([1e4, 1e6])),
        'mrope_section': section,
      },
      tie_word_embeddings=tied,
      pad_token_id=0,
      bos_token_id=1,
      eos_token_id=2,
    ),
    vision_config=dict(
      depth=draw(1, 3),
      embed_dim=vision_heads * 4 * draw(2, 3),
      hidden_size=hidden,
      num_heads=vision_heads,
      mlp_ratio=draw(2, 3),
      patch_size=draw(2, 4),
      spatial_merge_size=2 * draw(1, 2),
    ),
    image_token_id=vocab - 1,
    video_token_id=vocab - 2,
    vision_start_token_id=vocab - 3,
    vision_end_token_id=vocab - 4,
    tie_word_embeddings=tied,
  )
  return transformers.Qwen2VLConfig(**{**options, **changes})


def _flatten_config(raw: dict[str, Any]) -> dict[str, Any]:
  """The config on the hub: the decoder's fields stand outside."""
  raw = dict(raw, vision_config=dict(raw['vision_config']))
  text = dict(raw.pop('text_config'))
  rope = text.pop('rope_parameters')
  text |= dict(
    rope_theta=rope['rope_theta'],
    rope_scaling={'type': 'mrope', 'mrope_section': rope['mrope_section']},
  )
  del text['model_type'], text['layer_types']
  del raw['vision_config']['rope_parameters']
  return text | raw


CASE = Case(
  name='qwen2_vl',
  options=dict(
    vision_config=dict(
      depth=2, embed_dim=32, hidden_size=32, num_heads=2, patch_size=4
    ),
    text_config=dict(
      hidden_size=32,
      intermediate_size=32,
      num_hidden_layers=2,
      num_attention_heads=2,
      num_key_value_heads=2,
      mrope_section=(2, 3, 3),
    ),
  ),
  room=16,
  hub_config=dict(
    tensors.TEXT,
    model_type='qwen2_vl',
    torch_dtype='bfloat16',
    rope_scaling=MROPE,
    vision_config=dict(
      depth=tensors.VISION_LAYERS,
      embed_dim=32,
      hidden_size=tensors.WIDTH,
      mlp_ratio=2,
      num_heads=2,
      patch_size=4,
    ),
  ),
  decoder_at='',
  shapes=shapes,
  renamed=renamed,
  transposed=33,
  decoder='model',
  patches='visual.patch_embed.proj.weight',
  torch_class='Qwen2VLForConditionalGeneration',
  torch_config=torch_config,
  torch_seeds={'own output layer': 1, 'tied': 2},
  torch_names={
    'model.language_model.': 'model.',
    'lm_head.': 'lm_head.',
    'model.visual.': 'visual.',
  },
  flatten_config=_flatten_config,
  varies=(
    lambda c: c.tie_word_embeddings,
    lambda c: c.vision_config.spatial_merge_size,
  ),
  pictures=pictures.ANY_SIZE,
)
