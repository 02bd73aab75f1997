"""The vision transformer of Qwen3-VL.

It has learnt positions, resampled to the grid of each image, and hands out
states on the way, which the decoder adds after its first layers (DeepStack).
"""

import dataclasses

from flax import nnx
import jax
import jax.numpy as jnp

from mmu_jax.errors import UserError
from mmu_jax.models import layers as layers_lib
from mmu_jax.models import qwen2_vit


@dataclasses.dataclass(frozen=True)
class Qwen3VLVisionConfig(qwen2_vit.LaterVisionConfig):
  """Sizes of the vision tower, with the names of ``config.json``.

  The defaults are Qwen3-VL 8B.
  """

  depth: int = 27
  hidden_size: int = 1152
  out_hidden_size: int = 4096
  intermediate_size: int = 4304
  hidden_act: str = 'gelu_pytorch_tanh'
  num_heads: int = 16
  in_channels: int = 3
  patch_size: int = 16
  spatial_merge_size: int = 2
  temporal_patch_size: int = 2
  num_position_embeddings: int = 2304  # of a square table
  deepstack_visual_indexes: tuple[int, ...] = (8, 16, 24)  # in rising order

  def __post_init__(self):
    """Raises ValueError where a choice is unknown or sizes do not fit."""
    self._check()
    if self.side**2 != self.num_position_embeddings:
      raise UserError(
        'num_position_embeddings is the square of a whole number, got '
        f'{self.num_position_embeddings}.'
      )
    deep = self.deepstack_visual_indexes
    if sorted({*deep}) != [*deep] or max(deep, default=0) >= self.depth:
      raise UserError(
        'deepstack_visual_indexes are blocks of the tower in rising order, '
        f'below {self.depth}; got {deep}.'
      )

  @property
  def side(self) -> int:
    """Height and width of the table of positions."""
    return int(self.num_position_embeddings**0.5 + 0.5)


class Qwen3VLMlp(nnx.Module):
  """Two linear layers with the names of this tower."""

  def __init__(self, config: Qwen3VLVisionConfig, dtype, rngs: nnx.Rngs):
    linear = lambda i, o: layers_lib.Linear(i, o, dtype=dtype, rngs=rngs)
    self.linear_fc1 = linear(config.width, config.inner)
    self.linear_fc2 = linear(config.inner, config.width)
    self.act = layers_lib.ACTIVATIONS[config.hidden_act]

  def __call__(self, x: jax.Array) -> jax.Array:
    return self.linear_fc2(self.act(self.linear_fc1(x)))


class Qwen3VLBlock(nnx.Module):
  """A pre-norm transformer layer."""

  def __init__(self, config: Qwen3VLVisionConfig, dtype, rngs: nnx.Rngs):
    self.norm1 = _norm(config.width, dtype, rngs)
    self.norm2 = _norm(config.width, dtype, rngs)
    self.attn = qwen2_vit.VisionAttention(config, dtype, rngs)
    self.mlp = Qwen3VLMlp(config, dtype, rngs)

  def __call__(self, x, **attention):
    x = x + self.attn(self.norm1(x), **attention)
    return x + self.mlp(self.norm2(x))


class Merger(nnx.Module):
  """Makes one token of each square of patches; its norm is before or behind."""

  def __init__(
    self, config: Qwen3VLVisionConfig, behind: bool, dtype, rngs: nnx.Rngs
  ):
    self.behind = behind
    self.hidden = config.width * config.spatial_merge_size**2
    linear = lambda o: layers_lib.Linear(self.hidden, o, dtype=dtype, rngs=rngs)
    self.norm = _norm(self.hidden if behind else config.width, dtype, rngs)
    self.linear_fc1 = linear(self.hidden)
    self.linear_fc2 = linear(config.out_width)

  def __call__(self, x: jax.Array) -> jax.Array:
    squares = (x.shape[0], -1, self.hidden)
    if self.behind:
      x = self.norm(x.reshape(squares))
    else:
      x = self.norm(x).reshape(squares)
    return self.linear_fc2(layers_lib.ACTIVATIONS['gelu'](self.linear_fc1(x)))


class Qwen3VLVision(nnx.Module):
  """The vision tower and its mergers."""

  def __init__(self, config: Qwen3VLVisionConfig, dtype, rngs: nnx.Rngs):
    self.config, self.dtype = config, dtype
    self.patch_embed = nnx.Dict(
      proj=layers_lib.Linear(
        config.patch_dim, config.width, dtype=dtype, rngs=rngs
      )
    )
    self.pos_embed = nnx.Embed(
      config.num_position_embeddings, config.width, dtype=dtype, rngs=rngs
    )
    self.blocks = layers_lib.stack_layers(
      lambda rngs: Qwen3VLBlock(config, dtype, rngs), config.depth, rngs
    )
    self.merger = Merger(config, False, dtype, rngs)
    self.deepstack_merger_list = nnx.Dict(
      {
        str(k): Merger(config, True, dtype, rngs)
        for k in range(len(config.deepstack_visual_indexes))
      }
    )

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
      ``[1 + K, B, N / merge^2, D]``: image tokens, and states that are added
      to them after each of the first K layers of the decoder.
    """
    config = self.config
    cos, sin = qwen2_vit.rotary_2d(positions, config.width // config.num_heads)
    mask = images[:, :, None] == images[:, None, :]  # [B, N, N]
    taps, weights = table_taps(positions, mask, config.side)
    table = self.pos_embed.embedding[...][taps]  # [B, N, 4, D]
    place = jnp.sum(table * weights[..., None], axis=2).astype(self.dtype)
    x = self.patch_embed.proj(patches) + place
    deep = config.deepstack_visual_indexes

    def apply(block, carry, number):
      x, kept = carry
      x = block(
        x, cos=cos, sin=sin, mask=mask[:, None], implementation=attention
      )
      kept = [jnp.where(number == k, x, old) for k, old in zip(deep, kept)]
      return (x, kept), None

    (x, kept), _ = layers_lib.scan_layers(
      self.blocks,
      apply,
      (x, [jnp.zeros_like(x) for _ in deep]),
      jnp.arange(config.depth),
      remat=remat,
    )
    added = [self.deepstack_merger_list[str(k)](x) for k, x in enumerate(kept)]
    return jnp.stack([self.merger(x), *added])


def table_taps(
  positions: jax.Array, same: jax.Array, side: int
) -> tuple[jax.Array, jax.Array]:
  """Returns where a square table is read for each patch, and with what weight.

  The table is stretched over an image so that their corners meet, and read
  with bilinear interpolation.

  Args:
    positions: row and column of patches, ``[B, N, 2]`` int.
    same: ``[B, N, N]`` bool, which patches are of one image.
    side: height and width of the table.

  Returns:
    ``[B, N, 4]`` int places in the flat table, and their float32 weights.

  Example:
    >>> import jax.numpy as jnp
    >>> at = jnp.array([[[0, 0], [0, 1], [0, 2]]])
    >>> taps, weights = table_taps(at, jnp.ones((1, 3, 3), bool), 4)
    >>> taps[0, 1].tolist(), weights[0, 1].tolist()
    ([1, 2, 5, 6], [0.5, 0.5, 0.0, 0.0])
  """
  last = jnp.max(jnp.where(same[..., None], positions[:, None], 0), axis=2)
  source = positions * jnp.float32(side - 1) / jnp.maximum(last, 1)
  low = jnp.minimum(jnp.floor(source).astype(jnp.int32), side - 1)
  high = jnp.minimum(low + 1, side - 1)
  part = source - low
  (top, left), (bottom, right) = (jnp.moveaxis(x, -1, 0) for x in (low, high))
  down, across = jnp.moveaxis(part, -1, 0)
  taps = [
    row * side + column for row in (top, bottom) for column in (left, right)
  ]
  weights = [y * x for y in (1 - down, down) for x in (1 - across, across)]
  return jnp.stack(taps, axis=-1), jnp.stack(weights, axis=-1)


def _norm(width: int, dtype, rngs: nnx.Rngs) -> nnx.LayerNorm:
  """LayerNorm with the tower's epsilon, which no config states."""
  return nnx.LayerNorm(width, epsilon=1e-6, dtype=dtype, rngs=rngs)
