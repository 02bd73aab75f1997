"""Masks of attention: which token of a row sees which."""

import jax
import jax.numpy as jnp


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
