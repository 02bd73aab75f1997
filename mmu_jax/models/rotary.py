"""Rotary position embedding: one position of a token, or three."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from mmu_jax.models import layers as layers_lib


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
