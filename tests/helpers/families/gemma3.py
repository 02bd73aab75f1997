"""Gemma 3 in the tests."""

from typing import Any

import numpy as np
import transformers

from families import llava
from families import pictures
from families import tensors
from families.case import Case

HEAD, WINDOW = 8, 4


def shapes(tied: bool = True) -> tensors.Shapes:
  """Four patches and no class token; four norms in a layer of the decoder."""
  del tied  # always
  decoder = 'language_model.model'
  more = {
    'pre_feedforward_layernorm.weight': (tensors.WIDTH,),
    'post_feedforward_layernorm.weight': (tensors.WIDTH,),
    **{f'self_attn.{x}_norm.weight': (HEAD,) for x in 'qk'},
  }
  embeddings = 'vision_tower.vision_model.embeddings'
  tower = {
    name: shape
    for name, shape in llava.tower_shapes().items()
    if name.startswith('vision_tower.') and 'class_' not in name
    if 'pre_layrnorm' not in name
  }
  return {
    **tensors.decoder(decoder),
    **tensors.numbered(f'{decoder}.layers', tensors.TEXT_LAYERS, more),
    **tower,
    f'{embeddings}.patch_embedding.bias': (32,),
    f'{embeddings}.position_embedding.weight': (4, 32),
    'multi_modal_projector.mm_input_projection_weight': (32, tensors.WIDTH),
    'multi_modal_projector.mm_soft_emb_norm.weight': (32,),
  }


def torch_config(seed: int, **changes: Any) -> transformers.Gemma3Config:
  """Draws the sizes; windows are shorter than rows and than most images."""
  drawn, rng = llava.torch_config(seed), np.random.default_rng(seed)
  draw = lambda low, high: int(rng.integers(low, high + 1))
  text, vision = drawn.text_config, drawn.vision_config
  side = draw(2, 3)
  theta = text.rope_parameters['rope_theta']
  options = dict(
    text_config=dict(
      vocab_size=text.vocab_size,
      hidden_size=text.hidden_size,
      intermediate_size=text.intermediate_size,
      num_hidden_layers=draw(3, 4),
      num_attention_heads=text.num_attention_heads,
      num_key_value_heads=text.num_key_value_heads,
      head_dim=2 * draw(3, 8),
      rms_norm_eps=text.rms_norm_eps,
      query_pre_attn_scalar=draw(5, 30),
      sliding_window=draw(3, 6),
      sliding_window_pattern=draw(2, 3),
      rope_parameters=dict(
        full_attention=dict(
          rope_type='linear', factor=float(draw(2, 8)), rope_theta=10 * theta
        ),
        sliding_attention=dict(rope_type='default', rope_theta=theta),
      ),
      pad_token_id=0,
    ),
    vision_config=dict(
      model_type='siglip_vision_model',
      hidden_size=vision.hidden_size,
      intermediate_size=vision.intermediate_size,
      num_hidden_layers=vision.num_hidden_layers,
      num_attention_heads=vision.num_attention_heads,
      image_size=vision.patch_size * side * draw(1, 2),
      patch_size=vision.patch_size,
      vision_use_head=False,
    ),
    mm_tokens_per_image=side**2,
    image_token_index=text.vocab_size - 1,
    boi_token_index=text.vocab_size - 2,
    eoi_token_index=text.vocab_size - 3,
    tie_word_embeddings=True,
  )
  return transformers.Gemma3Config(**{**options, **changes})


CASE = Case(
  name='gemma3',
  options=dict(
    vision_config=dict(
      hidden_size=32,
      intermediate_size=32,
      num_hidden_layers=2,
      num_attention_heads=2,
      image_size=48,
      patch_size=12,
    ),
    text_config=dict(
      hidden_size=32,
      intermediate_size=32,
      num_hidden_layers=2,
      num_attention_heads=2,
      num_key_value_heads=2,
      rope_factor=8.0,
      query_pre_attn_scalar=24.0,
      sliding_window=WINDOW,
      sliding_window_pattern=2,
      hidden_act='gelu_pytorch_tanh',
      qk_norm=True,
      norm_offset=1.0,
      post_norms=True,
      scale_embeddings=True,
    ),
    mm_tokens_per_image=4,
  ),
  room=1,
  hub_config=dict(
    model_type='gemma3',
    torch_dtype='bfloat16',
    mm_tokens_per_image=4,
    text_config=dict(
      tensors.TEXT,
      model_type='gemma3_text',
      head_dim=HEAD,
      sliding_window=WINDOW,
      sliding_window_pattern=2,
      rope_scaling={'rope_type': 'linear', 'factor': 8.0},
    ),
    vision_config=dict(
      model_type='siglip_vision_model',
      hidden_size=32,
      intermediate_size=40,
      num_hidden_layers=tensors.VISION_LAYERS,
      num_attention_heads=2,
      image_size=24,
      patch_size=12,
      vision_use_head=False,
    ),
  ),
  decoder_at='text_config',
  shapes=shapes,
  renamed=llava.renamed,
  transposed=34,
  decoder='language_model.model',
  patches='vision_tower.vision_model.embeddings.patch_embedding.weight',
  torch_class='Gemma3ForConditionalGeneration',
  torch_config=torch_config,
  torch_seeds={'gemma': 1},
  torch_names=llava.CASE.torch_names,
  varies=(
    lambda c: tuple(c.text_config.full_layers),
    lambda c: c.text_config.rope_factor,
    lambda c: c.mm_tokens_per_image,
    lambda c: c.vision_config.num_patches // c.mm_tokens_per_image,
  ),
  pictures=pictures.AVERAGED,
  one_more=r'.*(language_model\..*norm|mm_soft_emb_norm)\.weight',
)
