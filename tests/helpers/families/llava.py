"""LLaVA-1.5 in the tests."""

from typing import Any

import numpy as np
import transformers

from families import pictures
from families import tensors
from families.case import Case

_WIDTH = dict(
  hidden_size=32,
  intermediate_size=32,
  num_hidden_layers=2,
  num_attention_heads=2,
)


def shapes(tied: bool = False) -> tensors.Shapes:
  """Five positions: a class token and four patches."""
  head = {'language_model.lm_head.weight': (tensors.VOCAB, tensors.WIDTH)}
  return {
    **({} if tied else head),
    **tensors.decoder('language_model.model'),
    **tower_shapes(),
  }


def tower_shapes() -> tensors.Shapes:
  """CLIP's tower and the projector."""
  layer = {
    **tensors.norm('layer_norm1', 32),
    **tensors.norm('layer_norm2', 32),
    **tensors.linear('mlp.fc1', 40, 32),
    **tensors.linear('mlp.fc2', 32, 40),
  }
  for name in ('q_proj', 'k_proj', 'v_proj', 'out_proj'):
    layer |= tensors.linear(f'self_attn.{name}', 32, 32)
  tower, layers = 'vision_tower.vision_model', tensors.VISION_LAYERS
  return {
    **tensors.linear('multi_modal_projector.linear_1', tensors.WIDTH, 32),
    **tensors.linear(
      'multi_modal_projector.linear_2', tensors.WIDTH, tensors.WIDTH
    ),
    f'{tower}.embeddings.class_embedding': (32,),
    f'{tower}.embeddings.patch_embedding.weight': (32, 3, 12, 12),
    f'{tower}.embeddings.position_embedding.weight': (5, 32),
    **tensors.numbered(f'{tower}.encoder.layers', layers, layer),
    **tensors.norm(f'{tower}.post_layernorm', 32),
    **tensors.norm(f'{tower}.pre_layrnorm', 32),
  }


def renamed(name: str, writer: str) -> str:
  """The name of transformers 4.52 or 5."""
  if name.startswith('language_model.lm_head'):
    return name.removeprefix('language_model.')
  if name.startswith('language_model.model.'):
    return 'model.language_model.' + name.split('.', 2)[2]
  name = 'model.' + name
  return name.replace('.vision_model', '') if writer == '5' else name


def torch_config(seed: int, **changes: Any) -> transformers.LlavaConfig:
  """Draws the sizes of a LLaVA; every second one has tied embeddings."""
  rng = np.random.default_rng(seed)
  draw = lambda low, high: int(rng.integers(low, high + 1))
  kv_heads, vision_heads, patch = draw(1, 2), draw(1, 3), draw(3, 6)
  heads = kv_heads * (1 + seed % 3)
  vocab = draw(90, 130)
  side, tied = draw(2, 3), seed % 2 == 0
  options = dict(
    vision_config=transformers.CLIPVisionConfig(
      hidden_size=vision_heads * draw(5, 9),
      intermediate_size=draw(20, 40),
      num_hidden_layers=draw(2, 3),
      num_attention_heads=vision_heads,
      image_size=patch * side,
      patch_size=patch,
      hidden_act=('quick_gelu', 'gelu')[seed % 2],
    ),
    text_config=transformers.LlamaConfig(
      vocab_size=vocab,
      hidden_size=heads * 2 * draw(3, 6),
      intermediate_size=draw(20, 40),
      num_hidden_layers=draw(1, 3),
      num_attention_heads=heads,
      num_key_value_heads=kv_heads,
      rms_norm_eps=float(rng.choice([1e-5, 1e-3])),
      rope_parameters={
        'rope_type': 'default',
        'rope_theta': float(rng.choice([1e3, 1e4])),
      },
      pad_token_id=0,
      tie_word_embeddings=tied,
    ),
    image_token_index=vocab - 1,
    image_seq_length=side**2,
    tie_word_embeddings=tied,
  )
  return transformers.LlavaConfig(**{**options, **changes})


CASE = Case(
  name='llava',
  options=dict(
    vision_config=_WIDTH | dict(image_size=48, patch_size=12),
    text_config=_WIDTH | dict(num_key_value_heads=2),
    vision_feature_layer=-1,
  ),
  room=1,
  hub_config=dict(
    model_type='llava',
    torch_dtype='float16',
    text_config=dict(tensors.TEXT, model_type='llama', torch_dtype='float16'),
    vision_config=dict(
      model_type='clip_vision_model',
      hidden_size=32,
      intermediate_size=40,
      num_hidden_layers=tensors.VISION_LAYERS,
      num_attention_heads=2,
      image_size=24,
      patch_size=12,
    ),
  ),
  decoder_at='text_config',
  shapes=shapes,
  renamed=renamed,
  transposed=37,
  decoder='language_model.model',
  patches='vision_tower.vision_model.embeddings.patch_embedding.weight',
  torch_class='LlavaForConditionalGeneration',
  torch_config=torch_config,
  torch_seeds={'llava': 1, 'tied llava': 2},
  torch_names={
    'model.language_model.': 'language_model.model.',
    'lm_head.': 'language_model.lm_head.',
    'model.vision_tower.': 'vision_tower.vision_model.',
    'model.multi_modal_projector.': 'multi_modal_projector.',
  },
  varies=(
    lambda c: c.vision_config.image_size,
    lambda c: c.vision_config.num_patches,
    lambda c: c.tie_word_embeddings,
  ),
  pictures=pictures.SAME_SIZE,
)
