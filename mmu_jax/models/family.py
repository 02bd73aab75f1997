"""A family of models: everything the library asks about one architecture.

The functions are for families that share a decoder or a tower. Fields that a
``config.json`` leaves out get the default of transformers, not ours; a field
that asks for a computation we do not have is an error.

To add one, write its module with a ``FAMILY`` at the end (``llava.py`` is the
shortest example) and list it in ``model.MODELS``.
"""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp

from mmu_jax.errors import UserError
from mmu_jax.models.attention import attention_mask
from mmu_jax.models.clip_vit import ClipVisionConfig
from mmu_jax.models.llama import LlamaConfig
from mmu_jax.settings.rules import Table
from mmu_jax.sharding import Rules
from mmu_jax.typing import Batch


def _no_copies(config: Any) -> dict[str, str]:
  """No tensor is saved twice."""
  del config
  return {}


def causal_mask(config: Any, batch: Batch) -> jax.Array:
  """Returns the mask of tokens that see backwards alone, the default."""
  del config
  return attention_mask(batch['documents'], batch['branches'])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
  """One architecture. Functions take its config first.

  Rows of a batch have *room* for pictures: a number of pictures in families
  that bring them to one size, of patches in families that keep their sizes.

  Attributes:
    name: key in ``MODELS``; model names of configs and notes of checkpoints.
    config: dataclass of its sizes, with ``text_config`` and ``vision_config``;
      the defaults are its 7B model.
    module: the model; it has ``decoder``, ``image_features`` and ``logits``.
    components: component -> regex over leaf names.
    partition_rules: (regex over leaf names, PartitionSpec), for ``sharding``.
    fields: table of the fields of ``config.json`` that are read, each with
      its range; ``settings.sizes`` has parts of it.
    read_config: ``read_config(raw, options) -> config``, from the fields of
      ``config.json``, checked, and how to compute (dtype, attention, remat).
    renames: (regex, replacement) in order, from the tensor names of any
      writer to the names on the hub.
    convolutions: ``convolutions(config) -> {end of a leaf name: shape}``, the
      trailing shape in the files of kernels that are matrices here.
    image_processor: class in transformers, for folders that state none.
    image_cut: ``image_cut(config) -> {fact: value}``, equal to ``cut`` of the
      images of a fitting processor.
    image_tokens: ``image_tokens(config, room)``, most image tokens of a row.
    abstract_batch: ``abstract_batch(config, rows, length, room)``, shapes and
      dtypes of a batch.
    copies: ``copies(config) -> {hub name: hub name}``, tensors that some
      writers save although another one holds the same numbers.
    widths: ``widths(config)``, sizes by which a plan of memory knows an
      activation: ``layers``, depths of the stacks as far as they run;
      ``split``, last axes that the mesh axis 'tensor' splits; ``heads``, axes
      of attention heads; ``picture``, room of one ordinary picture.
    attention_mask: ``attention_mask(config, batch) -> [B, L, L]`` bool, which
      token sees which.
    hub_type: ``model_type`` of its ``config.json``; '' for the name. With a
      slash and the ``model_type`` of ``text_config`` ('llava/qwen2') where
      several families share the first.
    published: name -> config of models on the hub, which ``mmu plan`` knows
      without their files.
  """

  name: str
  config: type
  module: type[nnx.Module]
  components: Mapping[str, str]
  partition_rules: Rules
  fields: Table
  read_config: Callable[[Mapping[str, Any], dict[str, Any]], Any]
  renames: tuple[tuple[str, str], ...]
  convolutions: Callable[[Any], dict[str, tuple[int, ...]]]
  image_processor: str
  image_cut: Callable[[Any], dict[str, Any]]
  image_tokens: Callable[[Any, int], int]
  abstract_batch: Callable[[Any, int, int, int], Batch]
  widths: Callable[[Any], Mapping[str, Any]]
  copies: Callable[[Any], dict[str, str]] = _no_copies
  attention_mask: Callable[[Any, Batch], jax.Array] = causal_mask
  hub_type: str = ''
  published: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def widths(
  text: LlamaConfig, *, layers: int, split: int, heads: int, picture: int
) -> Mapping[str, Any]:
  """Returns ``Family.widths`` from sizes of the tower and of the decoder."""
  return {
    'layers': (layers, text.num_hidden_layers),
    'split': (split, text.intermediate_size, text.vocab_size),
    'heads': (heads, text.num_attention_heads, text.num_key_value_heads),
    'picture': picture,
  }


def abstract_text(rows: int, length: int) -> Batch:
  """Returns the shapes and dtypes that batches of all families share.

  Args:
    rows: B, rows of the whole batch.
    length: L, tokens of a row.

  Example:
    >>> abstract_text(2, 5)['tokens']
    ShapeDtypeStruct(shape=(2, 5), dtype=int32)
  """
  names = ('tokens', 'positions', 'documents', 'branches', 'image_slots')
  ints = jax.ShapeDtypeStruct((rows, length), jnp.int32)
  floats = jax.ShapeDtypeStruct((rows, length), jnp.float32)
  return dict.fromkeys((*names, 'targets'), ints) | {'weights': floats}


def clip(vision: Mapping[str, Any]) -> ClipVisionConfig:
  """Returns the sizes of a CLIP tower.

  Args:
    vision: fields of ``vision_config``.

  Raises:
    ValueError: if the tower is of another kind.
  """
  kind = 'clip_vision_model'
  check_field(vision, 'model_type', kind, default=kind)
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
  mrope_section: tuple[int, ...] = (),
  **options: Any,
) -> LlamaConfig:
  """Returns the sizes of a Llama-like decoder.

  Args:
    text: fields of the decoder in ``config.json``.
    defaults: values of transformers for the fields that are absent.
    mrope_section: sections of the rotary embedding, if the file names none.
    **options: choices of ``LlamaConfig`` that the family makes, such as
      ``qkv_bias``.

  Raises:
    ValueError: if a field asks for a computation that is not supported.
  """
  act = options.get('hidden_act', 'silu')
  check_field(text, 'hidden_act', act, default=act)
  check_field(text, 'attention_bias', False, default=False)
  check_field(text, 'mlp_bias', False, default=False)
  values = {k: text.get(k, default) for k, default in defaults.items()}
  heads = values['num_attention_heads']
  values['num_key_value_heads'] = (
    text.get('num_key_value_heads', defaults.get('num_key_value_heads'))
    or heads
  )
  values['head_dim'] = text.get('head_dim', defaults.get('head_dim')) or 0
  return LlamaConfig(
    **values | _rotary(text, values['rope_theta'], mrope_section) | options,
    # transformers takes a default, but computes the same without it.
    max_position_embeddings=text.get('max_position_embeddings') or 0,
  )


def _rotary(
  text: Mapping[str, Any], theta: float, mrope_section: tuple[int, ...]
) -> dict[str, Any]:
  """The rotary embedding, as older and newer files state it."""
  rope = text.get('rope_scaling') or text.get('rope_parameters') or {}
  kind = rope.get('rope_type', rope.get('type', 'default'))
  if kind not in ('default', 'mrope', 'linear'):
    raise UserError(
      f'rotary embedding of type {kind!r} is not supported; supported are '
      'default, linear and mrope. Take a checkpoint without rope scaling.'
    )
  return {
    'rope_theta': rope.get('rope_theta', theta),
    'rope_factor': rope.get('factor', 1.0) if kind == 'linear' else 1.0,
    'mrope_section': tuple(rope.get('mrope_section', mrope_section)),
    'mrope_interleaved': bool(rope.get('mrope_interleaved', False)),
  }


def check_field(
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


def sizes_of(raw: Mapping[str, Any], field: str) -> Mapping[str, Any]:
  """Returns the fields of a part of the model, such as ``vision_config``.

  Raises:
    ValueError: if the part is missing.
  """
  if not isinstance(raw.get(field), Mapping):
    raise UserError(
      f'{field} must hold the sizes of a part, got {raw.get(field)!r}.'
    )
  return raw[field]
