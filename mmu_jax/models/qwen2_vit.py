"""The vision transformer of Qwen2-VL: patches of images of any size.

Qwen2.5-VL's has RMSNorm, gated MLPs and blocks that look into windows.
"""

import dataclasses

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from mmu_jax.errors import UserError
from mmu_jax.models import layers as layers_lib
from mmu_jax.models import rotary
from mmu_jax.models.attention import attend


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
  def width(self) -> int:
    """Width of the tower."""
    return self.embed_dim

  @property
  def out_width(self) -> int:
    """Width after the merger."""
    return self.hidden_size

  @property
  def inner(self) -> int:
    """Width inside the MLPs."""
    return int(self.embed_dim * self.mlp_ratio)

  @property
  def patch_dim(self) -> int:
    """Numbers in a flattened patch: channels, frames, rows, columns."""
    return self.in_channels * self.temporal_patch_size * self.patch_size**2


class LaterVisionConfig:
  """Names and rules that the towers since Qwen2.5-VL share.

  ``hidden_size`` is the width of the tower, and ``out_hidden_size`` the width
  of the decoder.
  """

  hidden_size: int
  out_hidden_size: int
  intermediate_size: int
  hidden_act: str
  num_heads: int
  in_channels: int
  patch_size: int
  temporal_patch_size: int

  def _check(self) -> None:
    """Raises ValueError where a choice is unknown or a size odd."""
    layers_lib.check_choice(
      'hidden_act', self.hidden_act, layers_lib.ACTIVATIONS
    )
    if self.hidden_size % (4 * self.num_heads):
      raise UserError(
        'hidden_size of the tower is a multiple of 4 num_heads, so that a head '
        f'holds pairs for row and column; got {self.hidden_size} and '
        f'{self.num_heads}.'
      )

  @property
  def width(self) -> int:
    """Width of the tower."""
    return self.hidden_size

  @property
  def out_width(self) -> int:
    """Width after the merger."""
    return self.out_hidden_size

  @property
  def inner(self) -> int:
    """Width inside the MLPs."""
    return self.intermediate_size

  @property
  def patch_dim(self) -> int:
    """Numbers in a flattened patch: channels, frames, rows, columns."""
    return self.in_channels * self.temporal_patch_size * self.patch_size**2


@dataclasses.dataclass(frozen=True)
class Qwen25VLVisionConfig(LaterVisionConfig):
  """Sizes of Qwen2.5-VL's tower, with the names of ``config.json``.

  The defaults are Qwen2.5-VL 7B.
  """

  depth: int = 32
  hidden_size: int = 1280
  out_hidden_size: int = 3584
  intermediate_size: int = 3420
  hidden_act: str = 'silu'
  num_heads: int = 16
  in_channels: int = 3
  patch_size: int = 14
  spatial_merge_size: int = 2
  temporal_patch_size: int = 2
  window_size: int = 112  # height and width of a window, pixels
  # Blocks that see whole images; the others see windows.
  fullatt_block_indexes: tuple[int, ...] = (7, 15, 23, 31)

  def __post_init__(self):
    """Raises ValueError where a choice is unknown or a size odd."""
    self._check()
    if not self.window:
      raise UserError(
        'window_size holds a square of merged patches, so it is at least '
        f'{self.patch_size * self.spatial_merge_size}; got {self.window_size}.'
      )

  @property
  def window(self) -> int:
    """Height and width of a window, patches."""
    merge = self.spatial_merge_size
    return self.window_size // merge // self.patch_size * merge


Sizes = Qwen2VLVisionConfig | Qwen25VLVisionConfig


class VisionAttention(nnx.Module):
  """Self-attention within each image, or within its windows."""

  def __init__(self, config: Sizes, dtype, rngs: nnx.Rngs):
    d = config.width
    self.num_heads = config.num_heads
    self.qkv = layers_lib.Linear(d, 3 * d, dtype=dtype, rngs=rngs)
    self.proj = layers_lib.Linear(d, d, dtype=dtype, rngs=rngs)

  def __call__(self, x, cos, sin, mask, implementation):
    shape = (*x.shape[:2], 3, self.num_heads, -1)
    q, k, v = jnp.moveaxis(self.qkv(x).reshape(shape), 2, 0)  # [B, N, H, D/H]
    q, k = rotary.rotate(q, cos, sin), rotary.rotate(k, cos, sin)
    out = attend(q, k, v, mask, implementation=implementation)
    return self.proj(out.reshape(x.shape))


class GatedMlp(nnx.Module):
  """SwiGLU with biases."""

  def __init__(self, config: Sizes, dtype, rngs: nnx.Rngs):
    linear = lambda i, o: layers_lib.Linear(i, o, dtype=dtype, rngs=rngs)
    self.gate_proj = linear(config.width, config.inner)
    self.up_proj = linear(config.width, config.inner)
    self.down_proj = linear(config.inner, config.width)
    self.act = layers_lib.ACTIVATIONS[config.hidden_act]

  def __call__(self, x: jax.Array) -> jax.Array:
    return self.down_proj(self.act(self.gate_proj(x)) * self.up_proj(x))


class VisionBlock(nnx.Module):
  """A pre-norm transformer layer."""

  def __init__(self, config: Sizes, dtype, rngs: nnx.Rngs):
    self.norm1 = _norm(config, dtype, rngs)
    self.norm2 = _norm(config, dtype, rngs)
    self.attn = VisionAttention(config, dtype, rngs)
    if isinstance(config, Qwen25VLVisionConfig):
      self.mlp = GatedMlp(config, dtype, rngs)
    else:
      self.mlp = layers_lib.Mlp(
        config.width, config.inner, config.hidden_act, dtype, rngs
      )

  def __call__(self, x, **attention):
    x = x + self.attn(self.norm1(x), **attention)
    return x + self.mlp(self.norm2(x))


class PatchMerger(nnx.Module):
  """Makes one token of each square of patches, which come one after another."""

  def __init__(self, config: Sizes, dtype, rngs: nnx.Rngs):
    hidden = config.width * config.spatial_merge_size**2
    self.hidden = hidden
    self.ln_q = _norm(config, dtype, rngs)
    linear = lambda o: layers_lib.Linear(hidden, o, dtype=dtype, rngs=rngs)
    # Named as in the checkpoint, where the activation is number 1.
    self.mlp = nnx.Dict({'0': linear(hidden), '2': linear(config.out_width)})

  def __call__(self, x: jax.Array) -> jax.Array:
    x = self.ln_q(x).reshape(x.shape[0], -1, self.hidden)
    x = layers_lib.ACTIVATIONS['gelu'](self.mlp['0'](x))
    return self.mlp['2'](x)


class Qwen2VLVision(nnx.Module):
  """The vision tower and its merger."""

  def __init__(self, config: Sizes, dtype, rngs: nnx.Rngs):
    self.config = config
    # The checkpoint's convolution has a stride of its own size: a matrix over
    # patches, flattened by the image processor as channel, frame, row, column.
    proj = layers_lib.Linear(
      config.patch_dim, config.width, use_bias=False, dtype=dtype, rngs=rngs
    )
    self.patch_embed = nnx.Dict(proj=proj)
    self.blocks = layers_lib.stack_layers(
      lambda rngs: VisionBlock(config, dtype, rngs), config.depth, rngs
    )
    self.merger = PatchMerger(config, dtype, rngs)

  def __call__(
    self,
    patches: jax.Array,
    images: jax.Array,
    positions: jax.Array,
    *,
    attention: str = 'auto',
    remat: str = 'products',
  ) -> jax.Array:
    """Encodes the images of each row.

    Args:
      patches: ``[B, N, patch]``; the squares that become one token are
        neighbours.
      images: ``[B, N]`` int, which image a patch belongs to, 0 for padding.
      positions: ``[B, N, 2]`` int, its row and column in the image.
      attention: implementation, see ``attention.attend``.
      remat: a key of ``layers.REMAT``.

    Returns:
      ``[B, N / merge^2, D]`` image tokens.
    """
    config = self.config
    cos, sin = rotary_2d(positions, config.width // config.num_heads)
    mask = (images[:, :, None] == images[:, None, :])[:, None]  # [B, 1, N, N]
    whole = None  # whether a block sees whole images
    if isinstance(config, Qwen25VLVisionConfig):
      near = same_window(positions, config.window)[:, None]
      blocks = np.arange(config.depth)
      whole = jnp.asarray(np.isin(blocks, config.fullatt_block_indexes))

    def apply(block, x, whole):
      seen = mask if whole is None else mask & (near | whole)
      return block(
        x, cos=cos, sin=sin, mask=seen, implementation=attention
      ), None

    x, _ = layers_lib.scan_layers(
      self.blocks, apply, self.patch_embed.proj(patches), whole, remat=remat
    )
    return self.merger(x)


def rotary_2d(
  positions: jax.Array, head_dim: int
) -> tuple[jax.Array, jax.Array]:
  """Rotary embedding whose frequencies follow the row, then the column."""
  frequencies = layers_lib.rotary_frequencies(head_dim // 2, 10000.0)
  axes = np.repeat([0, 1], head_dim // 4)
  angles = positions[..., axes].astype(jnp.float32) * np.tile(frequencies, 2)
  angles = jnp.concatenate([angles, angles], axis=-1)[..., None, :]
  return jnp.cos(angles), jnp.sin(angles)


def same_window(positions: jax.Array, window: int) -> jax.Array:
  """Which patches lie in one window, counted from the upper left corner.

  Args:
    positions: row and column of patches, ``[B, N, 2]``.
    window: height and width of a window, patches.

  Returns:
    ``[B, N, N]`` bool; not read between patches of different images.

  Example:
    >>> import jax.numpy as jnp
    >>> same_window(jnp.array([[[0, 0], [3, 3], [0, 4]]]), 4)[0, 0].tolist()
    [True, True, False]
  """
  windows = positions // window
  return jnp.all(windows[:, :, None] == windows[:, None], axis=-1)


def _norm(config: Sizes, dtype, rngs: nnx.Rngs):
  """A norm with the tower's epsilon, which no config states."""
  rms = isinstance(config, Qwen25VLVisionConfig)
  make = nnx.RMSNorm if rms else nnx.LayerNorm
  return make(config.width, epsilon=1e-6, dtype=dtype, rngs=rngs)
