"""Attention, and its masks: which token of a row sees which."""

import functools

import jax
import jax.numpy as jnp

ATTENTION = ('auto', 'xla', 'blocks', 'cudnn')
_BLOCK, _BLOCKS = 256, 8  # fewest queries of a block, and most blocks


def resolved(implementation: str, length: int) -> str:
  """Returns the implementation that ``'auto'`` stands for.

  Args:
    implementation: word of ``ATTENTION``.
    length: L, queries of a row.

  Example:
    >>> resolved('auto', 300), resolved('auto', 2048), resolved('xla', 2048)
    ('xla', 'blocks', 'xla')
  """
  if implementation != 'auto':
    return implementation
  return 'blocks' if length > 2 * _BLOCK else 'xla'


def block_size(length: int) -> int:
  """Returns the number of queries in a block of a row of ``length``."""
  return max(_BLOCK, -(-length // _BLOCKS))


def attend(
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  mask: jax.Array | None = None,
  *,
  causal: bool = False,
  scale: float | None = None,
  implementation: str = 'auto',
) -> jax.Array:
  """Softmax attention, whose heads may share keys and values.

  ``'blocks'`` goes through the queries in at most eight blocks, whose scores
  the backward pass computes again: the scores ``[B, H, L, S]`` of all of them
  never exist together, and where tokens see backwards alone each block reads no
  keys behind it, which saves up to 7 of 16 products. It is exact, to rounding.
  ``'xla'`` and ``'cudnn'`` are the ways of ``jax.nn.dot_product_attention``.

  Args:
    query: ``[B, L, H, D]``.
    key: ``[B, S, H_kv, D]``; H is a multiple of H_kv.
    value: ``[B, S, H_kv, D]``.
    mask: ``[B, 1, L, S]`` bool, the keys that a query sees; None for all.
    causal: whether the mask lets no query see a key of a later place.
    scale: factor of the scores; None for the root of 1 / D.
    implementation: word of ``ATTENTION``; ``'auto'`` is ``'blocks'`` from 513
      queries on, else ``'xla'``.

  Returns:
    ``[B, L, H, D]``.

  Example:
    >>> import jax
    >>> q, k, v = jax.random.normal(jax.random.key(0), (3, 2, 600, 4, 8))
    >>> bool(jnp.allclose(attend(q, k, v, implementation='xla'),
    ...                   attend(q, k, v), atol=1e-5))
    True
  """
  length = query.shape[1]
  implementation = resolved(implementation, length)
  whole = functools.partial(
    jax.nn.dot_product_attention,
    scale=scale,
    implementation='xla' if implementation == 'blocks' else implementation,
  )
  if implementation != 'blocks':
    return whole(query, key, value, mask=mask)

  @functools.partial(jax.checkpoint, static_argnums=0)
  def block(start, query, key, value, mask):
    # It cuts what it needs itself, so that backward keeps no pieces.
    queries, keys = slice(start, start + size), slice(None)
    if causal:
      keys = slice(start + size)
    seen = None if mask is None else mask[:, :, queries, keys]
    return whole(query[:, queries], key[:, keys], value[:, keys], mask=seen)

  size = block_size(length)
  found = [
    block(start, query, key, value, mask) for start in range(0, length, size)
  ]
  return jnp.concatenate(found, axis=1)


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
    visible: slots ``[..., S]`` bool that a new token sees, in the order of
      their positions, its own the last.
    window: number of tokens, the new one included.

  Returns:
    ``[..., S]`` bool.

  Example:
    >>> import jax.numpy as jnp
    >>> within_visible(jnp.array([[True, True, False, True]]), 2).tolist()
    [[False, True, True, True]]
  """
  from_end = jnp.cumsum(visible[..., ::-1].astype(jnp.int32), axis=-1)
  return from_end[..., ::-1] <= window


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
