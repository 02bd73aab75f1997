"""Attention, and its masks: which token of a row sees which."""

import functools
from typing import NamedTuple

import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp

ATTENTION = ('auto', 'xla', 'blocks', 'cudnn')
_BLOCK, _BLOCKS = 256, 8  # fewest queries of a block, and most blocks
PRODUCT = 'product'  # name of what layers keep for their backward pass


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

  ``'xla'`` makes all scores ``[B, H, L, S]`` of a layer at once. ``'blocks'``
  goes through the queries in at most eight blocks, so that they never exist
  together, and where no token sees a later one, a block reads no keys after its
  own, which saves up to 7 of 16 products. The backward pass of both makes the
  scores again. ``'cudnn'`` is the kernel of ``jax.nn.dot_product_attention``.

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
  way = resolved(implementation, length)
  scale = query.shape[-1] ** -0.5 if scale is None else scale
  if way == 'cudnn':
    return jax.nn.dot_product_attention(
      query, key, value, mask=mask, scale=scale, implementation=way
    )
  size = block_size(length) if way == 'blocks' else length
  # Heads by the keys that they share: [B, L, H_kv, H / H_kv, D].
  grouped = query.reshape(*query.shape[:2], key.shape[2], -1, query.shape[-1])
  how = _How(scale, size, causal and size < length)
  return _attend(how, grouped, key, value, mask).reshape(query.shape)


class _How(NamedTuple):
  """Factor of the scores, queries of a block, whether later keys are cut."""

  scale: float
  size: int
  causal: bool

  def blocks(self, length: int) -> list[tuple[slice, slice]]:
    """Queries and keys of each block."""
    starts = range(0, length, self.size)
    keys = lambda start: slice(start + self.size if self.causal else None)
    return [(slice(i, i + self.size), keys(i)) for i in starts]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(how, query, key, value, mask):
  """Attention of queries ``[B, L, H_kv, G, D]``, with softmax in float32.

  Backward makes the weights again from two numbers of each query, its highest
  score and the sum. JAX by itself would keep the weights or, in a layer that is
  computed again, run the whole softmax twice.
  """
  return _forward(how, query, key, value, mask)[0]


def _exact(x):
  """The dtype of scores and sums: float32, or float64 for such queries."""
  return jnp.promote_types(x.dtype, jnp.float32)


def _over(x, total):
  """Values ``[B, L, H_kv, G, D]`` over numbers ``[B, H_kv, G, L, 1]``."""
  return x / jnp.moveaxis(total, 3, 1)


def _scores(how, query, key, mask):
  """Scaled scores ``[B, H_kv, G, L, S]``, lowest where a key is not seen."""
  exact = _exact(query)
  product = functools.partial(jnp.einsum, preferred_element_type=exact)
  scores = product('blhgd,bshd->bhgls', query, key) * how.scale
  if mask is None:
    return scores
  return jnp.where(mask[:, :, None], scores, jnp.finfo(exact).min / 2)


def _forward(how, query, key, value, mask):
  """The output, and what backward keeps.

  The output is divided by the sum of the weights, for it is smaller than they.
  """
  product = functools.partial(jnp.einsum, preferred_element_type=_exact(query))
  outs, stats = [], []
  for queries, keys in how.blocks(query.shape[1]):
    seen = None if mask is None else mask[:, :, queries, keys]
    scores = _scores(how, query[:, queries], key[:, keys], seen)
    highest = scores.max(-1, keepdims=True)
    weights = jnp.exp(scores - highest)
    total = weights.sum(-1, keepdims=True)
    out = product(
      'bhgls,bshd->blhgd', weights.astype(value.dtype), value[:, keys]
    )
    outs.append(_over(out, total).astype(value.dtype))
    stats.append(jnp.concatenate([highest, total], -1))
  out = checkpoint_name(jnp.concatenate(outs, 1), PRODUCT)
  stats = checkpoint_name(jnp.concatenate(stats, -2), PRODUCT)
  return out, (query, key, value, mask, out, stats)


def _backward(how, kept, grad):
  """Gradients of queries, keys and values (Dao et al., arXiv 2205.14135)."""
  query, key, value, mask, out, stats = kept
  product = functools.partial(jnp.einsum, preferred_element_type=stats.dtype)
  padded = lambda x: jnp.pad(  # zero for keys that a block did not read
    x, ((0, 0), (0, key.shape[1] - x.shape[1]), (0, 0), (0, 0))
  )
  of_query, of_key, of_value = [], [], []
  for queries, keys in how.blocks(query.shape[1]):
    q, g, o = (x[:, queries] for x in (query, grad, out))
    k, v = key[:, keys], value[:, keys]
    seen = None if mask is None else mask[:, :, queries, keys]
    highest, total = jnp.split(stats[..., queries, :], 2, -1)
    weights = jnp.exp(_scores(how, q, k, seen) - highest)  # times the total
    g = _over(g, total).astype(g.dtype)
    # Mean gradient of the weights, by the output that they made.
    mean = product('blhgd,blhgd->bhgl', g, o)[..., None]
    of_weights = product('blhgd,bshd->bhgls', g, v)
    of_scores = weights * (of_weights - mean)
    if seen is not None:  # also zero for a query that sees no key
      of_scores = jnp.where(seen[:, :, None], of_scores, 0)
    of_scores = of_scores.astype(q.dtype)
    of_query.append(product('bhgls,bshd->blhgd', of_scores, k))
    # In this order no product needs the weights transposed.
    of_key.append(padded(product('blhgd,bhgls->bshd', q, of_scores)))
    weights = weights.astype(g.dtype)
    of_value.append(padded(product('blhgd,bhgls->bshd', g, weights)))
  of_query = (how.scale * jnp.concatenate(of_query, 1)).astype(query.dtype)
  of_key, of_value = how.scale * sum(of_key), sum(of_value)
  return of_query, of_key.astype(key.dtype), of_value.astype(value.dtype), None


_attend.defvjp(_forward, _backward)


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
