"""Fields of ``config.json`` that families read alike.

An absent field gets the default of transformers, not ours. A field that asks
for a computation we do not have is an error: ignoring it would give another
model.
"""

from collections.abc import Mapping
from typing import Any

from mmu_jax.errors import UserError
from mmu_jax.models.clip_vit import ClipVisionConfig
from mmu_jax.models.llama import LlamaConfig


def clip(vision: Mapping[str, Any]) -> ClipVisionConfig:
  """Returns the sizes of a CLIP tower.

  Args:
    vision: fields of ``vision_config``.

  Raises:
    ValueError: if the tower is of another kind.
  """
  kind = 'clip_vision_model'
  require(vision, 'model_type', kind, default=kind)
  return ClipVisionConfig(
    hidden_size=vision.get('hidden_size', 768),
    intermediate_size=vision.get('intermediate_size', 3072),
    num_hidden_layers=vision.get('num_hidden_layers', 12),
    num_attention_heads=vision.get('num_attention_heads', 12),
    image_size=vision.get('image_size', 224),
    patch_size=vision.get('patch_size', 32),
    layer_norm_eps=vision.get('layer_norm_eps', 1e-5),
    hidden_act=vision.get('hidden_act', 'quick_gelu'),
  )


def decoder(
  text: Mapping[str, Any],
  defaults: Mapping[str, Any],
  *,
  qkv_bias: bool = False,
  mrope_section: tuple[int, ...] = (),
) -> LlamaConfig:
  """Returns the sizes of a Llama-like decoder.

  Args:
    text: fields of the decoder in ``config.json``.
    defaults: values of transformers for the fields that are absent.
    qkv_bias: whether queries, keys and values have biases.
    mrope_section: sections of the rotary embedding, if the file names none.

  Raises:
    ValueError: if a field asks for a computation that is not supported.
  """
  require(text, 'hidden_act', 'silu', default='silu')
  require(text, 'attention_bias', False, default=False)
  require(text, 'mlp_bias', False, default=False)
  values = {k: text.get(k, default) for k, default in defaults.items()}
  heads = values['num_attention_heads']
  values['num_key_value_heads'] = (
    text.get('num_key_value_heads', defaults.get('num_key_value_heads'))
    or heads
  )
  rope = text.get('rope_scaling') or text.get('rope_parameters') or {}
  kind = rope.get('rope_type', rope.get('type', 'default'))
  if kind not in ('default', 'mrope'):
    raise UserError(f'rotary embedding of type {kind!r} is not supported.')
  values['rope_theta'] = rope.get('rope_theta', values['rope_theta'])
  section = tuple(rope.get('mrope_section', mrope_section))
  require(
    text,
    'head_dim',
    values['hidden_size'] // heads,
    default=values['hidden_size'] // heads,
  )
  return LlamaConfig(
    **values,
    qkv_bias=qkv_bias,
    mrope_section=section,
    # transformers takes a default, but computes the same without it.
    max_position_embeddings=text.get('max_position_embeddings') or 0,
  )


def require(
  raw: Mapping[str, Any], field: str, value: Any, *, default: Any
) -> None:
  """Raises ValueError unless a field has the one supported value.

  Args:
    raw: fields of ``config.json``, or of a part of it.
    field: name of the field.
    value: the supported value.
    default: value of a field that is absent or null.
  """
  got = raw.get(field, default)
  got = default if got is None else got
  if got != value:
    raise UserError(f'{field} must be {value!r}, got {got!r}.')


def part(raw: Mapping[str, Any], field: str) -> Mapping[str, Any]:
  """Returns the fields of a part of the model, such as ``vision_config``.

  Raises:
    ValueError: if the part is missing.
  """
  if not isinstance(raw.get(field), Mapping):
    raise UserError(
      f'{field} must hold the sizes of a part, got {raw.get(field)!r}.'
    )
  return raw[field]
