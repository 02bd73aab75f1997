"""The Llama decoder: grouped-query attention, RoPE, RMSNorm, SwiGLU.

Qwen2's decoder is the same with biases on queries, keys and values; Qwen2-VL's
rotates each frequency by one of three positions (time, row, column). Qwen3's
has norms of queries and keys. Gemma 3's has those, norms on both sides of a
sublayer, another activation, and layers that look back a window alone.
"""

from collections.abc import Sequence
import dataclasses
import functools
from typing import NamedTuple

from flax import nnx
import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np

from mmu_jax import sharding
from mmu_jax.errors import UserError
from mmu_jax.models import attention as attention_lib
from mmu_jax.models import layers as layers_lib
from mmu_jax.models import rotary as rotary_lib


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
  mrope_interleaved: bool = False  # time, row, column, time, row, column, ...
  embedding_std: float = 0.02  # of a random token embedding
  max_position_embeddings: int = 0  # positions it was trained on; 0: not known
  head_dim: int = 0  # width of a head; 0: hidden_size / num_attention_heads
  hidden_act: str = 'silu'
  rope_factor: float = 1.0  # divides the frequencies (rope_type linear)
  qk_norm: bool = False  # norms of queries and keys before their rotation
  norm_offset: float = 0.0  # added to the weights of norms; 1 in Gemma
  post_norms: bool = False  # norms behind attention and MLP, too
  query_pre_attn_scalar: float = 0.0  # scores are divided by its root; 0: width
  scale_embeddings: bool = False  # embeddings times the root of hidden_size
  # Layers see so many tokens, themselves included; 0: all. Every one in
  # sliding_window_pattern sees all; the others rotate by rope_local_base_freq.
  sliding_window: int = 0
  sliding_window_pattern: int = 1
  rope_local_base_freq: float = 10000.0

  def __post_init__(self):
    """Raises ValueError where sizes do not go together."""
    heads = self.num_attention_heads
    divided = self.head_dim or not self.hidden_size % heads
    if not divided or heads % self.num_key_value_heads:
      raise UserError(
        'hidden_size is a multiple of num_attention_heads (or head_dim is '
        'given), and this number of num_key_value_heads; got '
        f'{self.hidden_size}, {heads} and {self.num_key_value_heads}.'
      )
    if not self.head_dim:  # so that equal sizes are equal configs
      object.__setattr__(self, 'head_dim', self.hidden_size // heads)
    if self.head_dim % 2:
      raise UserError(
        'head_dim (hidden_size / num_attention_heads) is even, so that a head '
        f'holds pairs to rotate; got {self.head_dim}.'
      )
    layers_lib.check_choice(
      'hidden_act', self.hidden_act, layers_lib.ACTIVATIONS
    )
    if self.mrope_section and sum(self.mrope_section) * 2 != self.head_dim:
      raise UserError(
        'mrope_section has a frequency for each pair of a head, '
        f'{self.head_dim // 2} in all; got {self.mrope_section}.'
      )

  @property
  def full_layers(self) -> np.ndarray:
    """Which layers see all tokens before, ``[num_hidden_layers]`` bool."""
    place = np.arange(1, self.num_hidden_layers + 1)
    return place % self.sliding_window_pattern == 0


class Cache(NamedTuple):
  """Keys and values of every layer, ``[layers, B, S, H_kv, head_dim]``."""

  keys: jax.Array
  values: jax.Array


# Rows over devices, heads over those that share a layer.
CACHE_RULES = (('.*', P(None, sharding.ROWS, None, 'tensor', None)),)


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


def write_tokens(
  cache: Cache,
  keys: jax.Array,
  values: jax.Array,
  layer: jax.Array,
  slot: jax.Array | int,
) -> Cache:
  """Puts keys and values ``[B, L, H_kv, head_dim]`` of a layer into a cache.

  The cache goes from layer to layer and from token to token, so that the
  compiler writes these alone, in place.
  """

  def put(old, new):
    at = (layer, 0, slot, 0, 0)
    new = new[None].astype(old.dtype)
    return jax.lax.dynamic_update_slice(old, new, at)

  made = Cache(put(cache.keys, keys), put(cache.values, values))
  return sharding.constrain(made, CACHE_RULES)


class LlamaAttention(nnx.Module):
  """Causal self-attention whose heads may share keys and values."""

  def __init__(self, config: LlamaConfig, dtype, rngs: nnx.Rngs):
    d, size = config.hidden_size, config.head_dim
    self.head_dim = size
    scalar = config.query_pre_attn_scalar
    self.scale = scalar**-0.5 if scalar else None
    linear = lambda i, o, bias=config.qkv_bias: layers_lib.Linear(
      i, o, use_bias=bias, dtype=dtype, rngs=rngs
    )
    self.q_proj = linear(d, config.num_attention_heads * size)
    self.k_proj = linear(d, config.num_key_value_heads * size)
    self.v_proj = linear(d, config.num_key_value_heads * size)
    self.o_proj = linear(config.num_attention_heads * size, d, False)
    self.qk_norm = config.qk_norm
    if config.qk_norm:
      self.q_norm = _norm(config, dtype, rngs, size)
      self.k_norm = _norm(config, dtype, rngs, size)

  def __call__(
    self, x, cos, sin, mask, cache, place, causal, implementation, at
  ):
    heads = lambda x: x.reshape(*x.shape[:2], -1, self.head_dim)
    pick = functools.partial(layers_lib.gather_tokens, at=at)
    q, k = heads(self.q_proj(pick(x))), heads(self.k_proj(x))
    if self.qk_norm:
      q, k = self.q_norm(q), self.k_norm(k)
    q = rotary_lib.rotate(q, pick(cos), pick(sin))
    k = rotary_lib.rotate(k, cos, sin)
    # Kept for the gradient; that of a norm needs what is not rotated as well.
    if not self.qk_norm:
      q, k = (checkpoint_name(x, attention_lib.PRODUCT) for x in (q, k))
    v = heads(self.v_proj(x))
    if cache is not None:
      cache = write_tokens(cache, k, v, *place)
      k, v = jax.tree.map(lambda x: x[place[0]], cache)
    causal = causal and at is None
    how = dict(causal=causal, implementation=implementation, scale=self.scale)
    out = attention_lib.attend(q, k, v, pick(mask)[:, None], **how)
    return self.o_proj(out.reshape(*out.shape[:2], -1)), cache


class LlamaMlp(nnx.Module):
  """A gated MLP: SwiGLU, or another activation in its place."""

  def __init__(self, config: LlamaConfig, dtype, rngs: nnx.Rngs):
    d, hidden = config.hidden_size, config.intermediate_size
    how = dict(use_bias=False, dtype=dtype, rngs=rngs)
    linear = functools.partial(layers_lib.Linear, **how)
    self.gate_proj, self.up_proj = linear(d, hidden), linear(d, hidden)
    self.down_proj = linear(hidden, d)
    self.act = layers_lib.ACTIVATIONS[config.hidden_act]

  def __call__(self, x: jax.Array) -> jax.Array:
    return self.down_proj(self.act(self.gate_proj(x)) * self.up_proj(x))


class LlamaLayer(nnx.Module):
  """A pre-norm decoder layer."""

  def __init__(self, config: LlamaConfig, dtype, rngs: nnx.Rngs):
    norm = lambda: _norm(config, dtype, rngs)
    self.input_layernorm, self.post_attention_layernorm = norm(), norm()
    self.self_attn = LlamaAttention(config, dtype, rngs)
    self.mlp = LlamaMlp(config, dtype, rngs)
    self.post_norms = config.post_norms
    if config.post_norms:
      self.pre_feedforward_layernorm = norm()
      self.post_feedforward_layernorm = norm()

  def __call__(self, x, cache, at=None, **attention):
    attended, cache = self.self_attn(
      self.input_layernorm(x), cache=cache, at=at, **attention
    )
    x = layers_lib.gather_tokens(x, at)
    if self.post_norms:
      x = x + self.post_attention_layernorm(attended)
      made = self.mlp(self.pre_feedforward_layernorm(x))
      return x + self.post_feedforward_layernorm(made), cache
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

  def embed(self, tokens: jax.Array) -> jax.Array:
    """Returns the embeddings ``[..., D]`` of tokens, in their scale."""
    x = self.embed_tokens(tokens)
    if not self.config.scale_embeddings:
      return x
    # Rounded to the dtype of the computation, as in transformers.
    return x * jnp.asarray(self.config.hidden_size**0.5, x.dtype)

  def __call__(
    self,
    x: jax.Array,
    positions: jax.Array,
    mask: jax.Array,
    cache: Cache | None = None,
    slot: jax.Array | int = 0,
    *,
    near: jax.Array | None = None,
    deep: Sequence[jax.Array] | None = None,
    at: jax.Array | None = None,
    num_layers: int | None = None,
    causal: bool = False,
    attention: str = 'auto',
    remat: str = 'products',
  ) -> tuple[jax.Array, Cache | None]:
    """Runs the decoder over embeddings.

    Args:
      x: ``[B, L, D]`` embeddings.
      positions: ``[B, L]`` int, or ``[B, L, 3]`` for multimodal rotary.
      mask: ``[B, L, S]`` bool, which of S keys a token sees; S is L, or the
        size of the cache.
      cache: keys and values so far, or None.
      slot: place in the cache where the L new tokens go.
      near: ``[B, L, S]`` bool, which keys are in the window of a token; for
        decoders with a ``sliding_window``.
      deep: arrays ``[B, L, D]`` that are added after each of the first layers.
      at: positions ``[B, K]`` int whose hidden states are returned; the last
        layer has queries and an MLP for these alone (for all with
        ``remat='none'``). None for all.
      num_layers: number of first layers to run, without the norm behind the
        last one; None for all of them and the norm.
      causal: whether no token sees a key of a later place.
      attention: implementation, see ``attention.attend``.
      remat: a key of ``layers.REMAT``.

    Returns:
      Hidden states ``[B, L, D]``, or ``[B, K, D]``, and the new cache.

    Raises:
      ValueError: if there are not so many layers.
    """
    config = self.config
    if not 0 <= (num_layers or 0) <= config.num_hidden_layers:
      raise UserError(
        f'the decoder has {config.num_hidden_layers} layers, so a layer is 0 '
        f'to {config.num_hidden_layers}; got {num_layers}.'
      )
    turn = functools.partial(rotary_lib.rotary, positions, config.head_dim)
    cos, sin = turn(
      config.rope_theta,
      config.mrope_section,
      interleaved=config.mrope_interleaved,
      factor=config.rope_factor,
    )
    seen = dict(cos=cos, sin=sin, mask=mask)
    kinds = None  # of layers
    if config.sliding_window:
      cos, sin = turn(config.rope_local_base_freq)
      window = dict(cos=cos, sin=sin, mask=mask & near)
      kinds = jnp.asarray(config.full_layers[:num_layers])

    count = config.num_hidden_layers if num_layers is None else num_layers

    def apply(layer, state, extra, at=None):
      (x, cache), (number, full) = state, extra
      choose = lambda a, b: jnp.where(full, a, b)
      here = seen if full is None else jax.tree.map(choose, seen, window)
      how = dict(place=(number, slot), causal=causal, implementation=attention)
      x, cache = layer(x, cache, at, **how, **here)
      for k, added in enumerate(deep or ()):
        x += jnp.where(number == k, layers_lib.gather_tokens(added, at), 0)
      return (x, cache), None

    # With 'none' the scan would keep a copy of every layer's weights.
    last_alone = at is not None and count > 0 and remat != 'none'
    first = count - 1 if last_alone else num_layers
    inner = (jnp.arange(count), kinds)
    (x, cache), _ = layers_lib.scan_layers(
      self.layers,
      apply,
      (x, cache),
      jax.tree.map(lambda x: x[:first], inner),
      place=lambda state: (sharding.split_rows(state[0]), state[1]),
      num_layers=first,
      remat=remat,
    )
    if last_alone:

      def last(state):
        layer = layers_lib.select_layer(self.layers, first)
        extra = (first, None if kinds is None else kinds[first])
        return apply(layer, state, extra, at)[0]

      x, cache = layers_lib.rematerialized(remat, last)((x, cache))
    elif at is not None:
      x = layers_lib.gather_tokens(x, at)
    if at is not None:
      x = sharding.split_rows(x)
    return (self.norm(x) if num_layers is None else x), cache


class Llama(nnx.Module):
  """The decoder with its output layer, or none if that is the embedding."""

  def __init__(
    self, config: LlamaConfig, dtype, rngs: nnx.Rngs, *, tied: bool = False
  ):
    self.model = LlamaModel(config, dtype, rngs)
    self.tied = tied
    if not tied:
      self.lm_head = layers_lib.Linear(
        config.hidden_size,
        config.vocab_size,
        use_bias=False,
        dtype=dtype,
        rngs=rngs,
      )

  def logits(self, hidden: jax.Array) -> jax.Array:
    """Maps hidden states ``[..., D]`` to logits ``[..., V]``."""
    if self.tied:
      return self.model.embed_tokens.attend(hidden)
    return self.lm_head(hidden)


class OffsetNorm(nnx.Module):
  """RMSNorm that multiplies by an offset and its weight, in float32."""

  def __init__(self, width: int, epsilon: float, offset: float, dtype):
    self.epsilon, self.offset, self.dtype = epsilon, offset, dtype
    self.scale = nnx.Param(jnp.full(width, 1 - offset, jnp.float32))

  def __call__(self, x: jax.Array) -> jax.Array:
    x = x.astype(jnp.float32)
    square = jnp.mean(x * x, axis=-1, keepdims=True)
    x = x * jax.lax.rsqrt(square + self.epsilon)
    weight = self.scale[...].astype(jnp.float32)
    return (x * (self.offset + weight)).astype(self.dtype)


def _norm(config: LlamaConfig, dtype, rngs: nnx.Rngs, width: int = 0):
  """RMSNorm with the config's epsilon."""
  width, epsilon = width or config.hidden_size, config.rms_norm_eps
  if config.norm_offset:
    return OffsetNorm(width, epsilon, config.norm_offset, dtype)
  return nnx.RMSNorm(width, epsilon=epsilon, dtype=dtype, rngs=rngs)
