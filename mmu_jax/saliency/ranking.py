"""The k-th largest of many numbers, by counting: nothing is sorted or moved.

A mask of a given density needs the score that so many reach. Sorting a few
billion float32, split over devices and processes, would gather them; counting
how many reach each of some bounds does not. The bits of a float32, read as an
integer, are ordered as the numbers are, so rounds of counting, of a few bits
each, find the exact value.
"""

from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np

from mmu_jax import masks
from mmu_jax import sharding
from mmu_jax.errors import UserError

# Bits of the number that a round finds. A round reads every number once, and
# counts 2^bits - 1 times: few rounds where reading is slow, else few counts.
FROM_DISK, FROM_MEMORY = 8, 2

# () -> (numbers, which of them count; None for all), array after array
Read = Callable[[], Iterable[tuple[jax.Array, jax.Array | None]]]


def kth_largest(read: Read, k: int, bits: int = FROM_DISK) -> float:
  """Returns the k-th largest of the numbers that count, exactly.

  Args:
    read: ``read()``, which yields the arrays, of any shape and place, float32
      and not NaN; called 32 / bits times, so that they may come from a disk,
      one at a time.
    k: rank >= 1; equal numbers are counted each.
    bits: number of bits found in a round: 1, 2, 4, 8 or 16.

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
  # `found` has the bits known so far, and `done` lower ones are still open.
  # Each round tries every value of the next few bits, and keeps the highest
  # that k numbers still reach.
  found, done = 0, 32
  while done:
    done -= bits
    bounds = (found + (np.arange(1, 2**bits) << done)).astype(np.uint32)
    reached = np.zeros(len(bounds), np.int64)
    for x, where in read():
      reached += masks.to_int(_count_reached(x, where, bounds))
    found += int(np.sum(reached >= k)) << done
  if not found:  # no number has this key
    raise UserError(f'there are fewer than {k} numbers to rank.')
  return _from_key(found)


@jax.jit
def _count_reached(
  x: jax.Array, where: jax.Array | None, bounds: jax.Array
) -> jax.Array:
  """How many numbers reach each of some bounds, as ``masks.count`` has it."""
  key = _key(x)
  counts = lambda bound: masks.count(
    key >= bound if where is None else (key >= bound) & where
  )
  return sharding.replicate(jax.lax.map(counts, bounds))


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
