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


def rotary(
  positions: jax.Array,
  head_dim: int,
  theta: float,
  mrope_section: Sequence[int] = (),
  *,
  interleaved: bool = False,
  factor: float = 1.0,
) -> tuple[jax.Array, jax.Array]:
  """Returns the cosines and sines of rotary embedding.

  Args:
    positions: int; ``[B, L]``, or ``[B, L, 3]`` with ``mrope_section``.
    head_dim: width of an attention head, even.
    theta: base of the wavelengths.
    mrope_section: numbers of the ``head_dim / 2`` frequencies that follow
      time, row and column; not read for positions ``[B, L]``, which stand for
      three equal ones.
    interleaved: whether frequencies follow time, row and column in turn while
      their sections last, and time from there on; else section by section.
    factor: divisor of the frequencies.

  Returns:
    Two float32 arrays ``[B, L, 1, head_dim]``.

  References:
    Su et al., RoFormer, 2021 (https://arxiv.org/abs/2104.09864);
    Wang et al., Qwen2-VL, 2024 (https://arxiv.org/abs/2409.12191).
  """
  frequencies = layers_lib.rotary_frequencies(head_dim, theta)
  frequencies = frequencies / np.float32(factor)
  if positions.ndim == 3:
    axes = mrope_axes(mrope_section, interleaved)
    positions = positions[..., axes]  # [B, L, head_dim / 2]
  else:
    positions = positions[..., None]
  angles = positions.astype(jnp.float32) * frequencies
  angles = jnp.concatenate([angles, angles], axis=-1)[..., None, :]
  return jnp.cos(angles), jnp.sin(angles)


def mrope_axes(section: Sequence[int], interleaved: bool) -> np.ndarray:
  """Returns the axis that each frequency follows: 0 time, 1 row, 2 column.

  Example:
    >>> mrope_axes((2, 1, 1), False).tolist()
    [0, 0, 1, 2]
    >>> mrope_axes((2, 1, 1), True).tolist()
    [0, 1, 2, 0]
  """
  if not interleaved:
    return np.repeat(np.arange(len(section)), section)
  place = np.arange(sum(section))
  axis = place % 3
  return np.where(place < 3 * np.asarray(section)[axis], axis, 0)


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
    scalar = config.query_pre_attn_scalar
    self.scale = scalar**-0.5 if scalar else None
    linear = lambda i, o, bias=config.qkv_bias: nnx.Linear(
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

  def __call__(self, x, cos, sin, mask, cache, place, implementation):
    heads = (*x.shape[:2], -1, self.head_dim)
    q, k = self.q_proj(x).reshape(heads), self.k_proj(x).reshape(heads)
    if self.qk_norm:
      q, k = self.q_norm(q), self.k_norm(k)
    q, k = rotate(q, cos, sin), rotate(k, cos, sin)
    v = self.v_proj(x).reshape(heads)
    if cache is not None:
      cache = write_tokens(cache, k, v, *place)
      k, v = jax.tree.map(lambda x: x[place[0]], cache)
    out = jax.nn.dot_product_attention(
      q,
      k,
      v,
      mask=mask[:, None],
      scale=self.scale,
      implementation=implementation,
    )
    return self.o_proj(out.reshape(*x.shape[:2], -1)), cache


class LlamaMlp(nnx.Module):
  """A gated MLP: SwiGLU, or another activation in its place."""

  def __init__(self, config: LlamaConfig, dtype, rngs: nnx.Rngs):
    d, hidden = config.hidden_size, config.intermediate_size
    linear = lambda i, o: nnx.Linear(
      i, o, use_bias=False, dtype=dtype, rngs=rngs
    )
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

  def __call__(self, x, cache, **attention):
    attended, cache = self.self_attn(
      self.input_layernorm(x), cache=cache, **attention
    )
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
      near: ``[B, L, S]`` bool, which keys are in the window of a token; for
        decoders with a ``sliding_window``.
      deep: arrays ``[B, L, D]`` that are added after each of the first layers.
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
    turn = functools.partial(rotary, positions, config.head_dim)
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

    def apply(layer, state, extra):
      (x, cache), (number, full) = state, extra
      pick = lambda a, b: jnp.where(full, a, b)
      here = seen if full is None else jax.tree.map(pick, seen, window)
      how = dict(place=(number, slot), implementation=attention)
      x, cache = layer(x, cache, **how, **here)
      for k, added in enumerate(deep or ()):
        x += jnp.where(number == k, added, 0)
      return (x, cache), None

    (x, cache), _ = layers_lib.scan_layers(
      self.layers,
      apply,
      (x, cache),
      (jnp.arange(count), kinds),
      place=lambda state: (sharding.split_rows(state[0]), state[1]),
      num_layers=num_layers,
      remat=remat,
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


def within(queries: jax.Array, keys: jax.Array, window: int) -> jax.Array:
  """Which keys are less than a window behind a query, or before it.

  Positions tell, and not places in a row: in a packed row the branches of a
  document lie one after the other.

  Args:
    queries: positions ``[B, L]``.
    keys: positions ``[B, S]``.
    window: number of tokens, the query included.

  Returns:
    ``[B, L, S]`` bool.
  """
  return queries[:, :, None] - keys[:, None, :] < window


def within_visible(visible: jax.Array, window: int) -> jax.Array:
  """Which slots of a cache are among the last that are visible.

  Args:
    visible: slots ``[B, S]`` bool that a new token sees, its own the last.
    window: number of tokens, the new one included.

  Returns:
    ``[B, S]`` bool.

  Example:
    >>> import jax.numpy as jnp
    >>> within_visible(jnp.array([[True, True, False, True]]), 2).tolist()
    [[False, True, True, True]]
  """
  from_end = jnp.cumsum(visible[:, ::-1].astype(jnp.int32), axis=1)[:, ::-1]
  return from_end <= window


def attention_mask(
  documents: jax.Array, branches: jax.Array, images: jax.Array | None = None
) -> jax.Array:
  """Which token sees which: earlier ones of its document and its branch.

  Padding sees all real tokens before it and nobody sees padding, as in right-
  padded batches of transformers. Its outputs matter to no result except the
  published KL, which counts them.

  Args:
    documents: ``[B, L]`` int, 0 for padding.
    branches: ``[B, L]`` int, 0 for what all branches of a document share.
    images: ``[B, L]`` int, the number of the image whose token stands here,
      below 0 for text, where the tokens of an image see each other both ways;
      None where they see backwards, as text does.

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
  if images is not None:
    query, key = images[:, :, None], images[:, None, :]
    causal |= (query == key) & (key >= 0)
  return same_document & same_branch & causal
