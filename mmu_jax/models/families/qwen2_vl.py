"""Qwen2-VL: a vision transformer over patches of any image, and Qwen2."""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from mmu_jax.errors import UserError
from mmu_jax.models import layers as layers_lib
from mmu_jax.models import llama
from mmu_jax.models.family import abstract_text
from mmu_jax.models.family import check_field
from mmu_jax.models.family import decoder
from mmu_jax.models.family import Family
from mmu_jax.models.family import sizes_of
from mmu_jax.models.family import widths
from mmu_jax.models.qwen2_vit import Qwen2VLVision
from mmu_jax.models.qwen2_vit import Qwen2VLVisionConfig
from mmu_jax.settings import sizes
from mmu_jax.settings.rules import below
from mmu_jax.typing import Batch

# component -> regex over leaf names
COMPONENTS = {
  'vision': r'visual/(?!merger/)',
  'projector': r'visual/merger/',
  'language': r'(model|lm_head)/',
}
# (regex over leaf names, how the last axes are split); see `sharding`.
PARTITION_RULES = (
  (r'.*embed_tokens/embedding', P('tensor', 'fsdp')),
  (r'.*(o_proj|down_proj|attn/proj|fc2|mlp/2)/kernel', P('tensor', 'fsdp')),
  (r'.*/kernel', P('fsdp', 'tensor')),
  (r'.*', P()),
)


QWEN2_7B = llama.LlamaConfig(
  vocab_size=152064,
  hidden_size=3584,
  intermediate_size=18944,
  num_hidden_layers=28,
  num_attention_heads=28,
  num_key_value_heads=4,
  rms_norm_eps=1e-6,
  rope_theta=1e6,
  qkv_bias=True,
  mrope_section=(16, 24, 24),
  max_position_embeddings=32768,
)


def sized(
  *numbers: int, text: llama.LlamaConfig = QWEN2_7B
) -> llama.LlamaConfig:
  """Returns the decoder with other sizes: the first fields, in their order."""
  names = [f.name for f in dataclasses.fields(text)]
  heads = {'head_dim': numbers[1] // numbers[4]}
  return dataclasses.replace(text, **dict(zip(names, numbers)) | heads)


@dataclasses.dataclass(frozen=True)
class Qwen2VLConfig:
  """Sizes of a Qwen2-VL, and how it is computed.

  Attributes:
    vision_config: the tower.
    text_config: the decoder.
    tie_word_embeddings: whether the token embedding is the output layer too,
      as in the 2B model.
    dtype: dtype of the computation; parameters are float32 by default.
    attention: implementation, see ``attention.attend``.
    remat: a key of ``layers.REMAT``.
  """

  vision_config: Qwen2VLVisionConfig = Qwen2VLVisionConfig()
  text_config: llama.LlamaConfig = QWEN2_7B
  tie_word_embeddings: bool = False
  dtype: str = 'float32'
  attention: str = 'auto'
  remat: str = 'products'

  def __post_init__(self):
    """Raises ValueError where a choice is unknown or sizes differ."""
    layers_lib.check_computation(self.attention, self.remat)
    check_merger(self)


def check_merger(config: Any) -> None:
  """Raises ValueError unless the merger has the width of the decoder."""
  vision, width = config.vision_config, config.text_config.hidden_size
  if vision.out_width != width:
    field = 'out_hidden_size'
    field = field if hasattr(vision, field) else 'hidden_size'
    raise UserError(
      f"the merger's width, vision_config.{field}, is the decoder's; got "
      f'{vision.out_width} and {width}.'
    )


class Qwen2VL(nnx.Module):
  """The whole model; its parts are named as in the checkpoints on the hub.

  References:
    Wang et al., Qwen2-VL: Enhancing Vision-Language Model's Perception of the
    World at Any Resolution, 2024 (https://arxiv.org/abs/2409.12191).
  """

  def __init__(self, config: Qwen2VLConfig, rngs: nnx.Rngs):
    text, dtype = config.text_config, config.dtype
    self.config = config
    self.visual = Qwen2VLVision(config.vision_config, dtype, rngs)
    self.model = llama.LlamaModel(text, dtype, rngs)
    self._add_head(rngs)

  def _add_head(self, rngs: nnx.Rngs) -> None:
    """The output layer, unless it is the token embedding."""
    text = self.config.text_config
    if not self.config.tie_word_embeddings:
      self.lm_head = layers_lib.Linear(
        text.hidden_size,
        text.vocab_size,
        use_bias=False,
        dtype=self.config.dtype,
        rngs=rngs,
      )

  @property
  def tower(self) -> nnx.Module:
    """The vision tower with its merger."""
    return self.visual

  @property
  def decoder(self) -> llama.LlamaModel:
    """The layers between embeddings and logits."""
    return self.model

  def image_features(self, batch: Batch) -> jax.Array:
    """Returns the image tokens ``[B, N / merge^2, D]`` of every row."""
    return self.tower(
      batch['pixel_values'].astype(self.config.dtype),
      batch['patch_images'],
      batch['patch_positions'],
      attention=self.config.attention,
      remat=self.config.remat,
    )

  def logits(self, hidden: jax.Array) -> jax.Array:
    """Maps hidden states ``[..., D]`` to logits ``[..., V]``."""
    if self.config.tie_word_embeddings:
      return self.decoder.embed_tokens.attend(hidden)
    return self.lm_head(hidden)


# Values of transformers for fields that config.json leaves out.
_DEFAULTS = dict(
  vocab_size=152064,
  hidden_size=8192,
  intermediate_size=29568,
  num_hidden_layers=80,
  num_attention_heads=64,
  num_key_value_heads=8,
  rms_norm_eps=1e-5,
  rope_theta=1000000.0,
)


def reader(
  kind: type,
  defaults: Mapping[str, Any] = _DEFAULTS,
  *,
  tower: Mapping[str, Any] | None = None,
  **options: Any,
) -> Callable[[Mapping[str, Any], dict[str, Any]], Any]:
  """Returns ``Family.read_config`` of a Qwen.

  Args:
    kind: config of the family, a dataclass.
    defaults: values of transformers for absent fields of the decoder.
    tower: its values for absent fields of the tower, where they are not our
      defaults.
    **options: choices for ``family.decoder``; Qwen2's by default.
  """
  options = options or dict(qkv_bias=True, mrope_section=(16, 24, 24))

  def read(raw: Mapping[str, Any], ways: dict[str, Any]) -> Any:
    # The decoder's fields stand in text_config or beside it.
    text = raw.get('text_config') or raw
    check_field(text, 'use_sliding_window', False, default=False)
    vision = sizes_of(raw, 'vision_config')
    check_field(vision, 'in_chans', 3, default=3)
    rope = vision.get('rope_parameters') or {}
    check_field(rope, 'rope_theta', 10000.0, default=10000.0)
    return kind(
      vision_config=_read_tower(
        type(kind().vision_config), vision, tower or {}
      ),
      text_config=decoder(text, defaults, **options),
      # Writers before transformers 5 say it in text_config alone.
      tie_word_embeddings=bool(
        raw.get('tie_word_embeddings') or text.get('tie_word_embeddings')
      ),
      **ways,
    )

  return read


def _read_tower(kind: type, vision: Mapping[str, Any], defaults) -> Any:
  """The sizes of a tower; lists are tuples."""
  given = {**defaults, **vision}
  values = {
    f.name: given[f.name] for f in dataclasses.fields(kind) if f.name in given
  }
  return kind(
    **{k: tuple(x) if isinstance(x, list) else x for k, x in values.items()}
  )


def _convolutions(config: Qwen2VLConfig) -> dict[str, tuple[int, ...]]:
  """Trailing shapes of the kernels that are convolutions in the files."""
  vision = config.vision_config
  p = vision.patch_size
  shape = (vision.in_channels, vision.temporal_patch_size, p, p)
  return {'patch_embed/proj/kernel': shape}


def _copies(config: Qwen2VLConfig) -> dict[str, str]:
  """The output layer, which some writers save although it is tied."""
  tied = config.tie_word_embeddings
  return {'lm_head.weight': 'model.embed_tokens.weight'} if tied else {}


def _image_cut(config: Qwen2VLConfig) -> dict[str, int]:
  """How the model cuts an image; the processor must agree."""
  vision = config.vision_config
  return {
    'patch_size': vision.patch_size,
    'temporal_patch_size': vision.temporal_patch_size,
    'merge_size': vision.spatial_merge_size,
  }


def _image_tokens(config: Qwen2VLConfig, room: int) -> int:
  """Image tokens of a row with ``room`` patches."""
  return room // config.vision_config.spatial_merge_size**2


def _abstract_batch(
  config: Qwen2VLConfig, rows: int, length: int, room: int
) -> Batch:
  """Shapes of a batch whose rows have room for ``room`` patches."""
  ints = lambda *shape: jax.ShapeDtypeStruct((rows, *shape), jnp.int32)
  patch = (rows, room, config.vision_config.patch_dim)
  return abstract_text(rows, length) | {
    'positions': ints(length, 3),
    'pixel_values': jax.ShapeDtypeStruct(patch, jnp.float32),
    'patch_images': ints(room),
    'patch_positions': ints(room, 2),
  }


def _widths(config: Qwen2VLConfig) -> Mapping[str, Any]:
  """Sizes by which a plan of memory knows an activation."""
  vision = config.vision_config
  return widths(
    config.text_config,
    layers=vision.depth,
    split=vision.inner,
    heads=vision.num_heads,
    picture=1024,  # patches of 448 x 448 pixels
  )


# The fields of the decoder stand in text_config or beside it.
TEXT_FIELDS = (
  sizes.CHECKPOINT
  | sizes.DECODER
  | sizes.ROPES
  | below('text_config', sizes.DECODER | sizes.ROPES)
)
FAMILY = Family(
  name='qwen2_vl',
  config=Qwen2VLConfig,
  module=Qwen2VL,
  components=COMPONENTS,
  partition_rules=PARTITION_RULES,
  fields=TEXT_FIELDS
  | below('vision_config', sizes.QWEN2_VL_VISION | sizes.ROPES),
  read_config=reader(Qwen2VLConfig),
  # Writers since transformers 4.52 put `model.` first.
  renames=(
    (r'^model\.visual\.', 'visual.'),
    (r'^model\.language_model\.', 'model.'),
  ),
  convolutions=_convolutions,
  image_processor='Qwen2VLImageProcessor',
  image_cut=_image_cut,
  image_tokens=_image_tokens,
  abstract_batch=_abstract_batch,
  widths=_widths,
  copies=_copies,
  published={
    'qwen2-vl-2b': Qwen2VLConfig(
      Qwen2VLVisionConfig(hidden_size=1536),
      sized(151936, 1536, 8960, 28, 12, 2),
      tie_word_embeddings=True,
    ),
    'qwen2-vl-7b': Qwen2VLConfig(),
  },
)
