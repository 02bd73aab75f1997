"""Qwen2-VL: a vision transformer over patches of any image, and Qwen2."""

from collections.abc import Mapping
import dataclasses
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np

from mmu_jax.errors import UserError
from mmu_jax.models import layers as layers_lib
from mmu_jax.models import llama
from mmu_jax.models.family import abstract_text
from mmu_jax.models.family import Family
from mmu_jax.models.hub.config_fields import decoder
from mmu_jax.models.hub.config_fields import part
from mmu_jax.models.hub.config_fields import require
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


@dataclasses.dataclass(frozen=True)
class Qwen2VLVisionConfig:
  """Sizes of the vision tower, with the names of ``config.json``.

  The defaults are Qwen2-VL 7B; ``hidden_size`` is the output width of the
  merger, which equals the width of the decoder.
  """

  depth: int = 32
  embed_dim: int = 1280
  hidden_size: int = 3584
  hidden_act: str = 'quick_gelu'
  mlp_ratio: float = 4
  num_heads: int = 16
  in_channels: int = 3
  patch_size: int = 14
  spatial_merge_size: int = 2
  temporal_patch_size: int = 2

  def __post_init__(self):
    """Raises ValueError where a choice is unknown or a size odd."""
    layers_lib.check_choice(
      'hidden_act', self.hidden_act, layers_lib.ACTIVATIONS
    )
    if self.embed_dim % (4 * self.num_heads):
      raise UserError(
        'embed_dim is a multiple of 4 num_heads, so that a head holds pairs '
        f'for row and column; got {self.embed_dim} and {self.num_heads}.'
      )

  @property
  def head_dim(self) -> int:
    """Width of one attention head."""
    return self.embed_dim // self.num_heads

  @property
  def patch_dim(self) -> int:
    """Numbers in a flattened patch: channels, frames, rows, columns."""
    return self.in_channels * self.temporal_patch_size * self.patch_size**2


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


@dataclasses.dataclass(frozen=True)
class Qwen2VLConfig:
  """Sizes of a Qwen2-VL, and how it is computed.

  Attributes:
    vision_config: the tower.
    text_config: the decoder.
    tie_word_embeddings: whether the token embedding is the output layer too,
      as in the 2B model.
    dtype: dtype of the computation; parameters are float32 by default.
    attention: implementation, ``'xla'`` or ``'cudnn'``.
    remat: a key of ``layers.REMAT``.
  """

  vision_config: Qwen2VLVisionConfig = Qwen2VLVisionConfig()
  text_config: llama.LlamaConfig = QWEN2_7B
  tie_word_embeddings: bool = False
  dtype: str = 'float32'
  attention: str = 'xla'
  remat: str = 'none'

  def __post_init__(self):
    """Raises ValueError where a choice is unknown or sizes differ."""
    layers_lib.check_computation(self.attention, self.remat)
    if self.vision_config.hidden_size != self.text_config.hidden_size:
      raise UserError(
        "the merger's width, vision_config.hidden_size, is the decoder's; "
        f'got {self.vision_config.hidden_size} and '
        f'{self.text_config.hidden_size}.'
      )


class PatchEmbed(nnx.Module):
  """A matrix over flattened patches.

  The convolution of the checkpoint has a stride of its own size, and the image
  processor gives patches in its order: channel, frame, row, column.
  """

  def __init__(self, config: Qwen2VLVisionConfig, dtype, rngs: nnx.Rngs):
    self.proj = nnx.Linear(
      config.patch_dim, config.embed_dim, use_bias=False, dtype=dtype, rngs=rngs
    )

  def __call__(self, x: jax.Array) -> jax.Array:
    return self.proj(x)


class VisionAttention(nnx.Module):
  """Full self-attention within each image."""

  def __init__(self, config: Qwen2VLVisionConfig, dtype, rngs: nnx.Rngs):
    d = config.embed_dim
    self.num_heads = config.num_heads
    self.qkv = nnx.Linear(d, 3 * d, dtype=dtype, rngs=rngs)
    self.proj = nnx.Linear(d, d, dtype=dtype, rngs=rngs)

  def __call__(self, x, cos, sin, mask, implementation):
    shape = (*x.shape[:2], 3, self.num_heads, -1)
    q, k, v = jnp.moveaxis(self.qkv(x).reshape(shape), 2, 0)  # [B, N, H, D/H]
    q, k = llama.rotate(q, cos, sin), llama.rotate(k, cos, sin)
    out = jax.nn.dot_product_attention(
      q, k, v, mask=mask, implementation=implementation
    )
    return self.proj(out.reshape(x.shape))


class VisionMlp(nnx.Module):
  """Two linear layers with an activation between."""

  def __init__(self, config: Qwen2VLVisionConfig, dtype, rngs: nnx.Rngs):
    d, hidden = config.embed_dim, int(config.embed_dim * config.mlp_ratio)
    self.fc1 = nnx.Linear(d, hidden, dtype=dtype, rngs=rngs)
    self.fc2 = nnx.Linear(hidden, d, dtype=dtype, rngs=rngs)
    self.act = layers_lib.ACTIVATIONS[config.hidden_act]

  def __call__(self, x: jax.Array) -> jax.Array:
    return self.fc2(self.act(self.fc1(x)))


class VisionBlock(nnx.Module):
  """A pre-norm transformer layer."""

  def __init__(self, config: Qwen2VLVisionConfig, dtype, rngs: nnx.Rngs):
    self.norm1 = _norm(config.embed_dim, dtype, rngs)
    self.norm2 = _norm(config.embed_dim, dtype, rngs)
    self.attn = VisionAttention(config, dtype, rngs)
    self.mlp = VisionMlp(config, dtype, rngs)

  def __call__(self, x, **attention):
    x = x + self.attn(self.norm1(x), **attention)
    return x + self.mlp(self.norm2(x))


class PatchMerger(nnx.Module):
  """Makes one token of each square of patches, which come one after another."""

  def __init__(self, config: Qwen2VLVisionConfig, dtype, rngs: nnx.Rngs):
    hidden = config.embed_dim * config.spatial_merge_size**2
    self.hidden = hidden
    self.ln_q = _norm(config.embed_dim, dtype, rngs)
    linear = lambda o: nnx.Linear(hidden, o, dtype=dtype, rngs=rngs)
    # Named as in the checkpoint, where the activation is number 1.
    self.mlp = nnx.Dict({'0': linear(hidden), '2': linear(config.hidden_size)})

  def __call__(self, x: jax.Array) -> jax.Array:
    x = self.ln_q(x).reshape(x.shape[0], -1, self.hidden)
    x = layers_lib.ACTIVATIONS['gelu'](self.mlp['0'](x))
    return self.mlp['2'](x)


class Qwen2VLVision(nnx.Module):
  """The vision tower and its merger."""

  def __init__(self, config: Qwen2VLVisionConfig, dtype, rngs: nnx.Rngs):
    self.config = config
    self.patch_embed = PatchEmbed(config, dtype, rngs)
    self.blocks = layers_lib.stack(
      lambda rngs: VisionBlock(config, dtype, rngs), config.depth, rngs
    )
    self.merger = PatchMerger(config, dtype, rngs)

  def __call__(
    self,
    patches: jax.Array,
    images: jax.Array,
    positions: jax.Array,
    *,
    attention: str = 'xla',
    remat: str = 'none',
  ) -> jax.Array:
    """Encodes the images of each row.

    Args:
      patches: ``[B, N, patch]``; the squares that become one token are
        neighbours.
      images: ``[B, N]`` int, which image a patch belongs to, 0 for padding.
      positions: ``[B, N, 2]`` int, its row and column in the image.
      attention: implementation of ``jax.nn.dot_product_attention``.
      remat: a key of ``layers.REMAT``.

    Returns:
      ``[B, N / merge^2, D]`` image tokens.
    """
    cos, sin = _rotary(positions, self.config.head_dim)
    mask = (images[:, :, None] == images[:, None, :])[:, None]  # [B, 1, N, N]
    x, _ = layers_lib.scan(
      self.blocks,
      lambda block, x, _: (
        block(x, cos=cos, sin=sin, mask=mask, implementation=attention),
        None,
      ),
      self.patch_embed(patches),
      remat=remat,
    )
    return self.merger(x)


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
    if not config.tie_word_embeddings:
      self.lm_head = nnx.Linear(
        text.hidden_size,
        text.vocab_size,
        use_bias=False,
        dtype=dtype,
        rngs=rngs,
      )

  @property
  def decoder(self) -> llama.LlamaModel:
    """The layers between embeddings and logits."""
    return self.model

  def image_features(self, batch: Batch) -> jax.Array:
    """Returns the image tokens ``[B, N / merge^2, D]`` of every row."""
    return self.visual(
      batch['pixel_values'].astype(self.config.dtype),
      batch['patch_images'],
      batch['patch_positions'],
      attention=self.config.attention,
      remat=self.config.remat,
    )

  def embed(self, batch: Batch) -> jax.Array:
    """Embeds tokens ``[B, L]`` and puts image features in their slots."""
    x = self.model.embed_tokens(batch['tokens'])
    if not batch['pixel_values'].shape[1]:
      return x
    return layers_lib.place(x, self.image_features(batch), batch['image_slots'])

  def logits(self, hidden: jax.Array) -> jax.Array:
    """Maps hidden states ``[..., D]`` to logits ``[..., V]``."""
    if self.config.tie_word_embeddings:
      return self.model.embed_tokens.attend(hidden)
    return self.lm_head(hidden)


def _rotary(positions: jax.Array, head_dim: int) -> tuple[jax.Array, jax.Array]:
  """Rotary embedding whose frequencies follow the row, then the column."""
  exponents = jnp.arange(0, head_dim // 2, 2, dtype=jnp.float32)
  frequencies = 1.0 / 10000.0 ** (exponents / (head_dim // 2))
  axes = np.repeat([0, 1], head_dim // 4)
  angles = positions[..., axes].astype(jnp.float32) * jnp.tile(frequencies, 2)
  angles = jnp.concatenate([angles, angles], axis=-1)[..., None, :]
  return jnp.cos(angles), jnp.sin(angles)


def _norm(width: int, dtype, rngs: nnx.Rngs) -> nnx.LayerNorm:
  """LayerNorm with the tower's epsilon, which no config states."""
  return nnx.LayerNorm(width, epsilon=1e-6, dtype=dtype, rngs=rngs)


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


def _read_config(
  raw: Mapping[str, Any], options: dict[str, Any]
) -> Qwen2VLConfig:
  """Qwen2-VL; the decoder's fields stand in ``text_config`` or beside it."""
  text = raw.get('text_config') or raw
  require(text, 'use_sliding_window', False, default=False)
  vision = part(raw, 'vision_config')
  rope = vision.get('rope_parameters') or {}
  require(rope, 'rope_theta', 10000.0, default=10000.0)
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
    text_config=decoder(
      text, _DEFAULTS, qkv_bias=True, mrope_section=(16, 24, 24)
    ),
    # Writers before transformers 5 say it in text_config alone.
    tie_word_embeddings=bool(
      raw.get('tie_word_embeddings') or text.get('tie_word_embeddings')
    ),
    **options,
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


def _widths(config: Qwen2VLConfig) -> dict[str, Any]:
  """Sizes by which a plan of memory knows an activation."""
  vision, text = config.vision_config, config.text_config
  return {
    'layers': (vision.depth, text.num_hidden_layers),
    'split': (
      int(vision.embed_dim * vision.mlp_ratio),
      text.intermediate_size,
      text.vocab_size,
    ),
    'heads': (
      vision.num_heads,
      text.num_attention_heads,
      text.num_key_value_heads,
    ),
    'picture': 1024,  # patches of 448 x 448 pixels
  }


FAMILY = Family(
  name='qwen2_vl',
  config=Qwen2VLConfig,
  module=Qwen2VL,
  components=COMPONENTS,
  partition_rules=PARTITION_RULES,
  read_config=_read_config,
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
)
