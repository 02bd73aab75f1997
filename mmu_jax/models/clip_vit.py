"""The CLIP vision transformer that LLaVA looks through, and SigLIP."""

import dataclasses

from flax import nnx
import jax
import jax.numpy as jnp

from mmu_jax.errors import UserError
from mmu_jax.models import layers as layers_lib
from mmu_jax.models.attention import attend


@dataclasses.dataclass(frozen=True)
class ClipVisionConfig:
  """Sizes of the vision tower, with the names of ``config.json``.

  The defaults are CLIP ViT-L/14 at 336 pixels.
  """

  hidden_size: int = 1024
  intermediate_size: int = 4096
  num_hidden_layers: int = 24
  num_attention_heads: int = 16
  image_size: int = 336
  patch_size: int = 14
  layer_norm_eps: float = 1e-5
  hidden_act: str = 'quick_gelu'
  embedding_std: float = 0.02  # of a random position embedding

  def __post_init__(self):
    """Raises ValueError where a choice is unknown."""
    layers_lib.check_choice(
      'hidden_act', self.hidden_act, layers_lib.ACTIVATIONS
    )
    if self.image_size % self.patch_size:
      raise UserError(
        'image_size is a multiple of patch_size, so that patches cover the '
        f'image; got {self.image_size} and {self.patch_size}.'
      )
    if self.hidden_size % self.num_attention_heads:
      raise UserError(
        'hidden_size of the tower is a multiple of num_attention_heads; got '
        f'{self.hidden_size} and {self.num_attention_heads}.'
      )

  @property
  def num_patches(self) -> int:
    """N, the patches of one image."""
    return (self.image_size // self.patch_size) ** 2


@dataclasses.dataclass(frozen=True)
class SiglipVisionConfig(ClipVisionConfig):
  """Sizes of a SigLIP tower: CLIP without a class token.

  It has no norm before the layers, and one behind them. The defaults are
  Gemma 3's.
  """

  hidden_size: int = 1152
  intermediate_size: int = 4304
  num_hidden_layers: int = 27
  image_size: int = 896
  layer_norm_eps: float = 1e-6
  hidden_act: str = 'gelu_pytorch_tanh'


class ClipAttention(nnx.Module):
  """Multi-head self-attention over patches, with biases."""

  def __init__(self, config: ClipVisionConfig, dtype, rngs: nnx.Rngs):
    d = config.hidden_size
    self.num_heads = config.num_attention_heads
    linear = lambda: layers_lib.Linear(d, d, dtype=dtype, rngs=rngs)
    self.q_proj, self.k_proj = linear(), linear()
    self.v_proj, self.out_proj = linear(), linear()

  def __call__(self, x: jax.Array, implementation: str) -> jax.Array:
    heads = (*x.shape[:-1], self.num_heads, -1)
    q, k, v = (
      f(x).reshape(heads) for f in (self.q_proj, self.k_proj, self.v_proj)
    )  # [B, N + 1, H, D / H]
    out = attend(q, k, v, implementation=implementation)
    return self.out_proj(out.reshape(x.shape))


class ClipLayer(nnx.Module):
  """A pre-norm transformer layer."""

  def __init__(self, config: ClipVisionConfig, dtype, rngs: nnx.Rngs):
    norm = lambda: _norm(config, dtype, rngs)
    self.layer_norm1, self.layer_norm2 = norm(), norm()
    self.self_attn = ClipAttention(config, dtype, rngs)
    self.mlp = layers_lib.Mlp(
      config.hidden_size,
      config.intermediate_size,
      config.hidden_act,
      dtype,
      rngs,
    )

  def __call__(self, x: jax.Array, implementation: str) -> jax.Array:
    x = x + self.self_attn(self.layer_norm1(x), implementation)
    return x + self.mlp(self.layer_norm2(x))


class ClipEmbeddings(nnx.Module):
  """Patches, a class token (not in SigLIP), and where each of them is."""

  def __init__(self, config: ClipVisionConfig, dtype, rngs: nnx.Rngs):
    d, patch = config.hidden_size, config.patch_size
    self.patch_size = patch
    self.with_class = not isinstance(config, SiglipVisionConfig)
    # The convolution of the checkpoint has a stride of its own size, so it is
    # a matrix over flattened (channel, row, column) patches.
    self.patch_embedding = layers_lib.Linear(
      3 * patch * patch, d, use_bias=not self.with_class, dtype=dtype, rngs=rngs
    )
    normal = nnx.initializers.normal(config.embedding_std)
    if self.with_class:
      self.class_embedding = nnx.Param(normal(rngs.params(), (d,)))
    self.position_embedding = nnx.Embed(
      config.num_patches + self.with_class,
      d,
      embedding_init=normal,
      dtype=dtype,
      rngs=rngs,
    )

  def __call__(self, pixel_values: jax.Array) -> jax.Array:
    b, c, height, width = pixel_values.shape
    p = self.patch_size
    x = pixel_values.reshape(b, c, height // p, p, width // p, p)
    x = x.transpose(0, 2, 4, 1, 3, 5).reshape(b, -1, c * p * p)
    x = self.patch_embedding(x)  # [B, N, D]
    if self.with_class:
      first = jnp.broadcast_to(
        self.class_embedding[...].astype(x.dtype), (b, 1, x.shape[-1])
      )
      x = jnp.concatenate([first, x], axis=1)  # [B, N + 1, D]
    return x + self.position_embedding(jnp.arange(x.shape[1]))


class ClipVisionModel(nnx.Module):
  """CLIP's image encoder without its pooled output."""

  def __init__(self, config: ClipVisionConfig, dtype, rngs: nnx.Rngs):
    norm = lambda: _norm(config, dtype, rngs)
    self.embeddings = ClipEmbeddings(config, dtype, rngs)
    self.with_class = self.embeddings.with_class
    if self.with_class:
      self.pre_layrnorm = norm()  # spelled as in every CLIP checkpoint
    layers = layers_lib.stack_layers(
      lambda rngs: ClipLayer(config, dtype, rngs),
      config.num_hidden_layers,
      rngs,
    )
    self.encoder = nnx.Dict(layers=layers)
    self.post_layernorm = norm()  # in the checkpoint; LLaVA does not use it

  def __call__(
    self,
    pixel_values: jax.Array,
    *,
    num_layers: int,
    attention: str = 'auto',
    remat: str = 'products',
  ) -> jax.Array:
    """Returns hidden states after some layers.

    Args:
      pixel_values: ``[B, 3, height, width]``.
      num_layers: number of layers to run, from the first.
      attention: implementation, see ``attention.attend``.
      remat: a key of ``layers.REMAT``.

    Returns:
      ``[B, N + 1, D]``; the class token comes first. Of SigLIP ``[B, N, D]``,
      behind its last norm.
    """
    x = self.embeddings(pixel_values)
    x = self.pre_layrnorm(x) if self.with_class else x
    x, _ = layers_lib.scan_layers(
      self.encoder.layers,
      lambda layer, x, _: (layer(x, attention), None),
      x,
      num_layers=num_layers,
      remat=remat,
    )
    return x if self.with_class else self.post_layernorm(x)


def _norm(config: ClipVisionConfig, dtype, rngs: nnx.Rngs) -> nnx.LayerNorm:
  """LayerNorm with the config's epsilon."""
  return nnx.LayerNorm(
    config.hidden_size, epsilon=config.layer_norm_eps, dtype=dtype, rngs=rngs
  )
