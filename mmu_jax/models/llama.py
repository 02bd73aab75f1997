"""The Llama decoder: grouped-query attention, RoPE, RMSNorm, SwiGLU.

Qwen2's decoder is the same with biases on queries, keys and values; Qwen2-VL's
rotates each frequency by one of three positions (time, row, column).
"""

from collections.abc import Sequence
import dataclasses
from typing import NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np

from mmu_jax import sharding
from mmu_jax.errors import UserError
from mmu_jax.models import layers as layers_lib


@dataclasses.dataclass(frozen=True)
class LlamaConfig:
  """Sizes of the decoder, with the names of ``config.json``.

  The defaults are Llama-2 7B with LLaVA-1.5's vocabulary.
  """

  vocab_size: int = 32064
  hidden_size: int = 4096
  intermediate_size: int = 11008
  num_hidden_layers: int = 32
  num_attention_heads: int = 32
  num_key_value_heads: int = 32
  rms_norm_eps: float = 1e-5
  rope_theta: float = 10000.0
  qkv_bias: bool = False
  # How many frequencies follow time, row and column; () for plain rotary.
  mrope_section: tuple[int, ...] = ()
  embedding_std: float = 0.02  # of a random token embedding
  max_position_embeddings: int = 0  # positions it was trained on; 0: not known

  def __post_init__(self):
    """Raises ValueError where sizes do not go together."""
    heads = self.num_attention_heads
    if self.hidden_size % heads or heads % self.num_key_value_heads:
      raise UserError(
        'hidden_size is a multiple of num_attention_heads, and this number '
        f'of num_key_value_heads; got {self.hidden_size}, {heads} and '
        f'{self.num_key_value_heads}.'
      )
    if self.head_dim % 2:
      raise UserError(
        'hidden_size / num_attention_heads is even, so that a head holds '
        f'pairs to rotate; got {self.head_dim}.'
      )
    if self.mrope_section and sum(self.mrope_section) * 2 != self.head_dim:
      raise UserError(
        'mrope_section has a frequency for each pair of a head, '
        f'{self.head_dim // 2} in all; got {self.mrope_section}.'
      )

  @property
  def head_dim(self) -> int:
    """Width of one attention head."""
    return self.hidden_size // self.num_attention_heads


class Cache(NamedTuple):
  """Keys and values of every layer, ``[layers, B, S, H_kv, head_dim]``."""

  keys: jax.Array
  values: jax.Array


# Rows over devices, heads over those that share a layer.
CACHE_RULES = (('', P(None, sharding.ROWS, None, 'tensor', None)),)


def make_cache(config: LlamaConfig, batch: int, size: int, dtype) -> Cache:
  """Returns an empty cache of ``size`` slots for each row."""
  shape = (
    config.num_hidden_layers,
    batch,
    size,
    config.num_key_value_heads,
    config.head_dim,
  )
  empty = lambda: sharding.constrain(jnp.zeros(shape, dtype), CACHE_RULES)
  return Cache(empty(), empty())


def rotary(
  positions: jax.Array,
  head_dim: int,
  theta: float,
  mrope_section: Sequence[int] = (),
) -> tuple[jax.Array, jax.Array]:
  """Returns the cosines and sines of rotary embedding.

  Args:
    positions: int; ``[B, L]``, or ``[B, L, 3]`` with ``mrope_section``.
    head_dim: width of an attention head, even.
    theta: base of the wavelengths.
    mrope_section: numbers of the ``head_dim / 2`` frequencies that follow
      time, row and column; not read for positions ``[B, L]``, which stand for
      three equal ones.

  Returns:
    Two float32 arrays ``[B, L, 1, head_dim]``.

  References:
    Su et al., RoFormer, 2021 (https://arxiv.org/abs/2104.09864);
    Wang et al., Qwen2-VL, 2024 (https://arxiv.org/abs/2409.12191).
  """
  frequencies = layers_lib.rotary_frequencies(head_dim, theta)
  if positions.ndim == 3:
    axes = np.repeat(np.arange(len(mrope_section)), mrope_section)
    positions = positions[..., axes]  # [B, L, head_dim / 2]
  else:
    positions = positions[..., None]
  angles = positions.astype(jnp.float32) * frequencies
  angles = jnp.concatenate([angles, angles], axis=-1)[..., None, :]
  return jnp.cos(angles), jnp.sin(angles)


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
  """Rotates ``[B, L, H, head_dim]`` by its positions, in float32."""
  first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  turned = jnp.concatenate([-second, first], axis=-1)
  return (x * cos + turned * sin).astype(x.dtype)


class LlamaAttention(nnx.Module):
  """Causal self-attention whose heads may share keys and values."""

  def __init__(self, config: LlamaConfig, dtype, rngs: nnx.Rngs):
    d, size = config.hidden_size, config.head_dim
    self.head_dim = size
    linear = lambda i, o, bias=config.qkv_bias: nnx.Linear(
      i, o, use_bias=bias, dtype=dtype, rngs=rngs
    )
    self.q_proj = linear(d, config.num_attention_heads * size)
    self.k_proj = linear(d, config.num_key_value_heads * size)
    self.v_proj = linear(d, config.num_key_value_heads * size)
    self.o_proj = linear(config.num_attention_heads * size, d, False)

  def __call__(self, x, cos, sin, mask, cache, slot, implementation):
    heads = (*x.shape[:2], -1, self.head_dim)
    q = rotate(self.q_proj(x).reshape(heads), cos, sin)
    k = rotate(self.k_proj(x).reshape(heads), cos, sin)
    v = self.v_proj(x).reshape(heads)
    if cache is not None:
      write = lambda old, new: jax.lax.dynamic_update_slice_in_dim(
        old, new.astype(old.dtype), slot, axis=1
      )
      cache = Cache(write(cache.keys, k), write(cache.values, v))
      k, v = cache
    out = jax.nn.dot_product_attention(
      q, k, v, mask=mask[:, None], implementation=implementation
    )
    return self.o_proj(out.reshape(*x.shape[:2], -1)), cache


class LlamaMlp(nnx.Module):
  """SwiGLU."""

  def __init__(self, config: LlamaConfig, dtype, rngs: nnx.Rngs):
    d, hidden = config.hidden_size, config.intermediate_size
    linear = lambda i, o: nnx.Linear(
      i, o, use_bias=False, dtype=dtype, rngs=rngs
    )
    self.gate_proj, self.up_proj = linear(d, hidden), linear(d, hidden)
    self.down_proj = linear(hidden, d)

  def __call__(self, x: jax.Array) -> jax.Array:
    return self.down_proj(jax.nn.silu(self.gate_proj(x)) * self.up_proj(x))


class LlamaLayer(nnx.Module):
  """A pre-norm decoder layer."""

  def __init__(self, config: LlamaConfig, dtype, rngs: nnx.Rngs):
    norm = lambda: _norm(config, dtype, rngs)
    self.input_layernorm, self.post_attention_layernorm = norm(), norm()
    self.self_attn = LlamaAttention(config, dtype, rngs)
    self.mlp = LlamaMlp(config, dtype, rngs)

  def __call__(self, x, cache, **attention):
    attended, cache = self.self_attn(
      self.input_layernorm(x), cache=cache, **attention
    )
    x = x + attended
    return x + self.mlp(self.post_attention_layernorm(x)), cache


class LlamaModel(nnx.Module):
  """Token embedding, layers, last norm."""

  def __init__(self, config: LlamaConfig, dtype, rngs: nnx.Rngs):
    self.config = config
    self.embed_tokens = nnx.Embed(
      config.vocab_size,
      config.hidden_size,
      embedding_init=nnx.initializers.normal(config.embedding_std),
      dtype=dtype,
      rngs=rngs,
    )
    self.layers = layers_lib.stack_layers(
      lambda rngs: LlamaLayer(config, dtype, rngs),
      config.num_hidden_layers,
      rngs,
    )
    self.norm = _norm(config, dtype, rngs)

  def __call__(
    self,
    x: jax.Array,
    positions: jax.Array,
    mask: jax.Array,
    cache: Cache | None = None,
    slot: jax.Array | int = 0,
    *,
    num_layers: int | None = None,
    attention: str = 'xla',
    remat: str = 'none',
  ) -> tuple[jax.Array, Cache | None]:
    """Runs the decoder over embeddings.

    Args:
      x: ``[B, L, D]`` embeddings.
      positions: ``[B, L]`` int, or ``[B, L, 3]`` for multimodal rotary.
      mask: ``[B, L, S]`` bool, which of S keys a token sees; S is L, or the
        size of the cache.
      cache: keys and values so far, or None.
      slot: place in the cache where the L new tokens go.
      num_layers: number of first layers to run, without the norm behind the
        last one; None for all of them and the norm.
      attention: implementation of ``jax.nn.dot_product_attention``.
      remat: a key of ``layers.REMAT``.

    Returns:
      Hidden states ``[B, L, D]``, and the new cache.

    Raises:
      ValueError: if there are not so many layers.
    """
    config = self.config
    if not 0 <= (num_layers or 0) <= config.num_hidden_layers:
      raise UserError(
        f'the decoder has {config.num_hidden_layers} layers, so a layer is 0 '
        f'to {config.num_hidden_layers}; got {num_layers}.'
      )
    cos, sin = rotary(
      positions, config.head_dim, config.rope_theta, config.mrope_section
    )
    apply = lambda layer, x, cache: layer(
      x, cache, cos=cos, sin=sin, mask=mask, slot=slot, implementation=attention
    )
    x, cache = layers_lib.scan_layers(
      self.layers, apply, x, cache, num_layers=num_layers, remat=remat
    )
    return (self.norm(x) if num_layers is None else x), cache


class Llama(nnx.Module):
  """The decoder with its output layer."""

  def __init__(self, config: LlamaConfig, dtype, rngs: nnx.Rngs):
    self.model = LlamaModel(config, dtype, rngs)
    self.lm_head = nnx.Linear(
      config.hidden_size,
      config.vocab_size,
      use_bias=False,
      dtype=dtype,
      rngs=rngs,
    )


def _norm(config: LlamaConfig, dtype, rngs: nnx.Rngs) -> nnx.RMSNorm:
  """RMSNorm with the config's epsilon."""
  return nnx.RMSNorm(
    config.hidden_size, epsilon=config.rms_norm_eps, dtype=dtype, rngs=rngs
  )


def attention_mask(documents: jax.Array, branches: jax.Array) -> jax.Array:
  """Which token sees which: earlier ones of its document and its branch.

  Padding sees all real tokens before it and nobody sees padding, as in right-
  padded batches of transformers. Its outputs matter to no result except the
  published KL, which counts them.

  Args:
    documents: ``[B, L]`` int, 0 for padding.
    branches: ``[B, L]`` int, 0 for what all branches of a document share.

  Returns:
    ``[B, L, L]`` bool.

  Example:
    >>> import jax.numpy as jnp
    >>> one = jnp.ones((1, 4), int)
    >>> attention_mask(one, jnp.array([[0, 1, 2, 2]]))[0].astype(int)
    Array([[1, 0, 0, 0],
           [1, 1, 0, 0],
           [1, 0, 1, 0],
           [1, 0, 1, 1]], dtype=int32)
  """
  query, key = documents[:, :, None], documents[:, None, :]
  same_document = ((query == key) | (query == 0)) & (key > 0)
  query, key = branches[:, :, None], branches[:, None, :]
  same_branch = (query == key) | (key == 0)
  length = documents.shape[1]
  causal = jnp.tril(jnp.ones((length, length), bool))
  return same_document & same_branch & causal
