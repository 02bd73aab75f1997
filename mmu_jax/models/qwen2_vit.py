"""The vision transformer of Qwen2-VL: patches of images of any size."""

import dataclasses

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from mmu_jax.errors import UserError
from mmu_jax.models import layers as layers_lib
from mmu_jax.models import llama


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


class VisionBlock(nnx.Module):
  """A pre-norm transformer layer."""

  def __init__(self, config: Qwen2VLVisionConfig, dtype, rngs: nnx.Rngs):
    self.norm1 = _norm(config.embed_dim, dtype, rngs)
    self.norm2 = _norm(config.embed_dim, dtype, rngs)
    self.attn = VisionAttention(config, dtype, rngs)
    hidden = int(config.embed_dim * config.mlp_ratio)
    self.mlp = layers_lib.Mlp(
      config.embed_dim, hidden, config.hidden_act, dtype, rngs
    )

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
    # The checkpoint's convolution has a stride of its own size: a matrix over
    # patches, flattened by the image processor as channel, frame, row, column.
    proj = nnx.Linear(
      config.patch_dim, config.embed_dim, use_bias=False, dtype=dtype, rngs=rngs
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
    x, _ = layers_lib.scan_layers(
      self.blocks,
      lambda block, x, _: (
        block(x, cos=cos, sin=sin, mask=mask, implementation=attention),
        None,
      ),
      self.patch_embed.proj(patches),
      remat=remat,
    )
    return self.merger(x)


def _rotary(positions: jax.Array, head_dim: int) -> tuple[jax.Array, jax.Array]:
  """Rotary embedding whose frequencies follow the row, then the column."""
  frequencies = layers_lib.rotary_frequencies(head_dim // 2, 10000.0)
  axes = np.repeat([0, 1], head_dim // 4)
  angles = positions[..., axes].astype(jnp.float32) * np.tile(frequencies, 2)
  angles = jnp.concatenate([angles, angles], axis=-1)[..., None, :]
  return jnp.cos(angles), jnp.sin(angles)


def _norm(width: int, dtype, rngs: nnx.Rngs) -> nnx.LayerNorm:
  """LayerNorm with the tower's epsilon, which no config states."""
  return nnx.LayerNorm(width, epsilon=1e-6, dtype=dtype, rngs=rngs)
