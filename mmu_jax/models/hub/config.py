"""Reads the ``config.json`` of a Hugging Face checkpoint.

A field that is absent has the default of transformers, not ours; a field that
would change the computation in a way that the models here do not have is an
error, since ignoring it would give another model.
"""

from collections.abc import Mapping
import pathlib
from typing import Any

from mmu_jax.errors import MissingError
from mmu_jax.errors import UserError
from mmu_jax.models.clip_vit import ClipVisionConfig
from mmu_jax.models.hub import safetensors_files
from mmu_jax.models.llama import LlamaConfig
from mmu_jax.models.llava import LlavaConfig
from mmu_jax.models.qwen2_vl import Qwen2VLConfig
from mmu_jax.models.qwen2_vl import Qwen2VLVisionConfig

FILE = 'config.json'


def read(
  path: str | pathlib.Path, options: Mapping[str, Any] | None = None
) -> LlavaConfig | Qwen2VLConfig:
  """Returns the model config of a checkpoint folder.

  Args:
    path: the folder; its ``config.json`` is read.
    options: how to compute: ``dtype``, ``attention``, ``remat``.

  Raises:
    FileNotFoundError: if there is no ``config.json``.
    ValueError: if the architecture or one of its choices is not supported;
      names the file, the field and what is.
  """
  file = pathlib.Path(path) / FILE
  if not file.exists():
    raise MissingError(
      f'a checkpoint folder holds {FILE}; {file} is missing. Give the folder '
      'of a model in the Hugging Face format.'
    )
  raw = safetensors_files.read_json(file)
  try:
    kind = raw.get('model_type')
    if kind is None:
      raise UserError(
        'it has no model_type, so this is no Hugging Face checkpoint. The '
        'parameters of a run are in its folder params/.'
      )
    if kind not in READERS:
      raise UserError(
        f'model_type {kind!r} is not supported; supported are '
        f'{", ".join(READERS)}.'
      )
    return READERS[kind](raw, dict(options or {}))
  except (ValueError, TypeError) as error:
    raise UserError(f'{file}: {error}') from error


def _llava(raw: Mapping[str, Any], options: dict[str, Any]) -> LlavaConfig:
  """LLaVA-1.5: CLIP, a projector of two layers, Llama."""
  _require(raw, 'multimodal_projector_bias', True, default=True)
  _require(raw, 'tie_word_embeddings', False, default=False)
  vision, text = _part(raw, 'vision_config'), _part(raw, 'text_config')
  clip = 'clip_vision_model'
  _require(vision, 'model_type', clip, default=clip)
  _require(text, 'model_type', 'llama', default='llama')
  _require(text, 'tie_word_embeddings', False, default=False)
  if not isinstance(raw.get('vision_feature_layer', -2), int):
    raise UserError(
      'vision_feature_layer is one layer here, got '
      f'{raw["vision_feature_layer"]}.'
    )
  return LlavaConfig(
    vision_config=ClipVisionConfig(
      hidden_size=vision.get('hidden_size', 768),
      intermediate_size=vision.get('intermediate_size', 3072),
      num_hidden_layers=vision.get('num_hidden_layers', 12),
      num_attention_heads=vision.get('num_attention_heads', 12),
      image_size=vision.get('image_size', 224),
      patch_size=vision.get('patch_size', 32),
      layer_norm_eps=vision.get('layer_norm_eps', 1e-5),
      hidden_act=vision.get('hidden_act', 'quick_gelu'),
    ),
    text_config=_decoder(text, LLAMA_DEFAULTS),
    vision_feature_layer=raw.get('vision_feature_layer', -2),
    vision_feature_select_strategy=raw.get(
      'vision_feature_select_strategy', 'default'
    ),
    projector_hidden_act=raw.get('projector_hidden_act', 'gelu'),
    **options,
  )


def _qwen2_vl(raw: Mapping[str, Any], options: dict[str, Any]) -> Qwen2VLConfig:
  """Qwen2-VL; the decoder's fields stand in ``text_config`` or beside it."""
  text = raw.get('text_config') or raw
  _require(text, 'use_sliding_window', False, default=False)
  vision = _part(raw, 'vision_config')
  rope = vision.get('rope_parameters') or {}
  _require(rope, 'rope_theta', 10000.0, default=10000.0)
  return Qwen2VLConfig(
    vision_config=Qwen2VLVisionConfig(
      depth=vision.get('depth', 32),
      embed_dim=vision.get('embed_dim', 1280),
      hidden_size=vision.get('hidden_size', 3584),
      hidden_act=vision.get('hidden_act', 'quick_gelu'),
      mlp_ratio=vision.get('mlp_ratio', 4),
      num_heads=vision.get('num_heads', 16),
      in_channels=vision.get('in_channels', 3),
      patch_size=vision.get('patch_size', 14),
      spatial_merge_size=vision.get('spatial_merge_size', 2),
      temporal_patch_size=vision.get('temporal_patch_size', 2),
    ),
    text_config=_decoder(
      text, QWEN2_DEFAULTS, qkv_bias=True, mrope_section=(16, 24, 24)
    ),
    # Writers before transformers 5 say it in text_config alone.
    tie_word_embeddings=bool(
      raw.get('tie_word_embeddings') or text.get('tie_word_embeddings')
    ),
    **options,
  )


READERS = {'llava': _llava, 'qwen2_vl': _qwen2_vl}
# What transformers takes for a field that config.json does not have.
LLAMA_DEFAULTS = dict(
  vocab_size=32000,
  hidden_size=4096,
  intermediate_size=11008,
  num_hidden_layers=32,
  num_attention_heads=32,
  rms_norm_eps=1e-6,
  rope_theta=10000.0,
)
QWEN2_DEFAULTS = dict(
  vocab_size=152064,
  hidden_size=8192,
  intermediate_size=29568,
  num_hidden_layers=80,
  num_attention_heads=64,
  num_key_value_heads=8,
  rms_norm_eps=1e-5,
  rope_theta=1000000.0,
)


def _decoder(
  text: Mapping[str, Any],
  defaults: Mapping[str, Any],
  *,
  qkv_bias: bool = False,
  mrope_section: tuple[int, ...] = (),
) -> LlamaConfig:
  """The decoder's sizes; ``mrope_section`` is that of a config without one."""
  _require(text, 'hidden_act', 'silu', default='silu')
  _require(text, 'attention_bias', False, default=False)
  _require(text, 'mlp_bias', False, default=False)
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
  _require(
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


def _require(
  raw: Mapping[str, Any], field: str, value: Any, *, default: Any
) -> None:
  """Raises unless a field has the one value that is supported."""
  got = raw.get(field, default)
  got = default if got is None else got
  if got != value:
    raise UserError(f'{field} must be {value!r}, got {got!r}.')


def _part(raw: Mapping[str, Any], field: str) -> Mapping[str, Any]:
  """The config of a part of the model."""
  if not isinstance(raw.get(field), Mapping):
    raise UserError(
      f'{field} must hold the sizes of a part, got {raw.get(field)!r}.'
    )
  return raw[field]
