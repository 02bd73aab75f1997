"""The k-th largest of many numbers, by counting: nothing is sorted or moved.

A mask of a given density needs the score that so many reach. Sorting a few
billion float32, split over devices and processes, would gather them; counting
them does not. The bits of a float32, read as an integer, are ordered as the
numbers are, so the exact value is found in two rounds: how often each value of
the upper 16 bits occurs, then of the lower 16 among the numbers that share the
upper ones.
"""

from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np

from mmu_jax import sharding
from mmu_jax.errors import UserError

# () -> (numbers, which of them count; None for all), array after array
Read = Callable[[], Iterable[tuple[jax.Array, jax.Array | None]]]


def kth_largest(read: Read, k: int) -> float:
  """Returns the k-th largest of the numbers that count, exactly.

  Args:
    read: ``read()``, which yields the arrays, of any shape and place, float32
      and not NaN; called twice, so that they may come from a disk, one at a
      time.
    k: rank >= 1; equal numbers are counted each.

  Returns:
    The number: at least k are not below it, and fewer than k are above.

  Raises:
    ValueError: if there are fewer than k numbers.

  Example:
    >>> import jax.numpy as jnp
    >>> kth_largest(lambda: [(jnp.array([3., -1.]), None), (jnp.ones(2), None)],
    ...             k=2)
    1.0
  """
  found, wanted = 0, k
  for shift in (16, 0):
    counts = np.zeros(2**16, np.int64)
    for x, where in read():
      made = jax.device_get(_histogram(x, where, found, shift))
      counts += made.reshape(-1, 2**16).sum(axis=0, dtype=np.int64)
    reached = np.cumsum(counts[::-1])[::-1]  # by the numbers of each value
    if reached[0] < wanted:
      raise UserError(f'there are fewer than {k} numbers to rank.')
    last = int(np.sum(reached >= wanted)) - 1
    wanted -= int(reached[last] - counts[last])  # the others are above
    found = found << 16 | last
  return _from_key(found)


@jax.jit
def _histogram(
  x: jax.Array, where: jax.Array | None, found: int, shift: int
) -> jax.Array:
  """How often each value of 16 bits occurs behind the bits found so far.

  A count is 32 bits, so a stack of layers has a row for each.
  """

  def count(x: jax.Array, where: jax.Array | None) -> jax.Array:
    key = _key(x) >> shift
    counts = key >> 16 == found
    counts = counts if where is None else counts & where
    digit = (key & 0xFFFF).astype(jnp.int32)
    zeros = jnp.zeros(2**16, jnp.uint32)
    return zeros.at[digit].add(counts.astype(jnp.uint32))

  if x.ndim < 3:
    return sharding.replicate(count(x, where))
  return sharding.replicate(jax.lax.map(lambda each: count(*each), (x, where)))


def reaches(x: jax.Array, bound: jax.Array | float) -> jax.Array:
  """Returns where numbers are not below a bound, also among the smallest.

  XLA compares numbers below 1.2e-38 as if they were 0. Squared gradients are
  often as small, and a mask would hold more than its share.

  Args:
    x: float32 numbers.
    bound: float32 number.

  Returns:
    A bool array like ``x``; False where it is NaN.

  Example:
    >>> import jax.numpy as jnp
    >>> reaches(jnp.array([0., 1e-40, 1.]), 1e-40).tolist()
    [False, True, True]
  """
  bound = jnp.asarray(bound, jnp.float32)
  return (_key(x) >= _key(bound)) & ~jnp.isnan(x) & ~jnp.isnan(bound)


def _key(x: jax.Array) -> jax.Array:
  """Integers in the order of the numbers: uint32.

  Only bits are looked at: arithmetic would make 0 of the smallest numbers.
  """
  bits = jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.uint32)
  top = jnp.uint32(1 << 31)
  bits = jnp.where(bits == top, 0, bits)  # -0.0 is 0.0
  return jnp.where(bits >= top, ~bits, bits | top)


def _from_key(key: int) -> float:
  """The number of an integer of ``_key``."""
  bits = key ^ (1 << 31) if key >> 31 else ~key & 0xFFFFFFFF
  return float(np.uint32(bits).view(np.float32))
