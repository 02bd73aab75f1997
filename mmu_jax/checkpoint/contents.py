"""Names the content of a tree, so that two trees are known to be the same.

A checksum of a file tells whether it was changed; this tells whether it is the
tree that something else was made from. It looks at values, not at files, so it
is the same for every mesh, number of processes and way to store.
"""

import hashlib
import json
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmu_jax import sharding
from mmu_jax import tree as tree_lib

_WORDS = {1: np.uint8, 2: np.uint16, 4: np.uint32}  # by bytes of a value
_STARTS = (0x9E3779B9, 0x7F4A7C15)  # two sums, of 32 bits each
_SMALL = 2**16  # values of an array that is summed on the host: no compiling


def digest(tree: Any) -> str:
  """Returns 32 hexadecimal digits that name the values of a tree.

  Every bit counts, with its place and leaf: -0.0 is not 0.0. Two trees that
  differ have the same digest with a chance of about 2^-64; it protects against
  mistakes, not against somebody who looks for such a pair.

  Args:
    tree: pytree of arrays of at most 32 bits. In a job of several processes
      all of them call this.

  Example:
    >>> import numpy as np
    >>> a, b = np.float32([1, 2]), np.float32([2, 1])
    >>> digest({'w': a}) == digest({'w': a.copy()}), digest({'w': b})[:4]
    (True, 'b544')
  """
  flat = tree_lib.flatten(tree)
  sums = jax.device_get([_sums(x) for x in flat.values()])
  named = [
    [name, str(x.dtype), list(x.shape), [int(s) for s in found]]
    for (name, x), found in zip(flat.items(), sums)
  ]
  return hashlib.sha256(json.dumps(named).encode()).hexdigest()[:32]


def _sums(x: Any) -> Any:
  """Two sums over all values, each scrambled with its place: uint32 ``[2]``."""
  if isinstance(x, np.ndarray) or (x.size <= _SMALL and x.is_fully_addressable):
    x = np.ascontiguousarray(x)
    if x.dtype == np.bool_:
      x = x.astype(np.uint8)
    return _summed(x.view(_WORDS[x.dtype.itemsize]), np)
  return _on_devices(x)


@jax.jit
def _on_devices(x: jax.Array) -> jax.Array:
  """The sums of an array, where its parts are."""
  if x.dtype == jnp.bool_:
    x = x.astype(jnp.uint8)
  bits = jax.lax.bitcast_convert_type(x, _WORDS[x.dtype.itemsize])
  return sharding.replicate(_summed(bits, jnp))


def _summed(bits: Any, xp: ModuleType) -> Any:
  """The sums of unsigned integers, with NumPy or with its twin in JAX."""
  bits = xp.atleast_1d(bits).astype(xp.uint32)
  found = []
  for start in _STARTS:
    place = xp.full((1,) * bits.ndim, start, xp.uint32)
    for axis, length in enumerate(bits.shape):
      shape = [length if i == axis else 1 for i in range(bits.ndim)]
      index = xp.arange(length, dtype=xp.uint32).reshape(shape)
      place = _scramble(place ^ index, xp)
    found.append(xp.sum(_scramble(bits ^ place, xp), dtype=xp.uint32))
  return xp.stack(found)


def _scramble(x: Any, xp: ModuleType) -> Any:
  """Spreads every bit of a word over all of it; no two words become one."""
  for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
    x = (x ^ (x >> shift)) * xp.uint32(factor)
  return x ^ (x >> 16)
