"""Names what a tree holds, so that two trees are known to be the same.

A checksum of a file tells whether it was changed; this tells whether it is the
tree that something else was made from. It looks at values, not at files, so it
is the same for every mesh, number of processes and way to store.
"""

import hashlib
import json
from typing import Any

import jax
import jax.numpy as jnp

from mmu_jax import sharding
from mmu_jax import tree as tree_lib

_WORDS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}  # by bytes of a value
_STARTS = (0x9E3779B9, 0x7F4A7C15)  # two sums, of 32 bits each


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
    (True, ...)
  """
  sums = jax.device_get([_sums(x) for x in jax.tree.leaves(tree)])
  named = [
    [name, str(x.dtype), list(x.shape), [int(s) for s in found]]
    for (name, x), found in zip(tree_lib.flatten(tree).items(), sums)
  ]
  return hashlib.sha256(json.dumps(named).encode()).hexdigest()[:32]


@jax.jit
def _sums(x: jax.Array) -> jax.Array:
  """Two sums over all values, each scrambled with its place: uint32 ``[2]``."""
  if x.dtype == jnp.bool_:
    x = x.astype(jnp.uint8)
  bits = jax.lax.bitcast_convert_type(x, _WORDS[x.dtype.itemsize])
  bits = bits.astype(jnp.uint32)
  found = []
  for start in _STARTS:
    place = jnp.full((), start, jnp.uint32)
    for axis in range(bits.ndim):
      index = jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
      place = _scramble(place ^ index)
    found.append(jnp.sum(_scramble(bits ^ place), dtype=jnp.uint32))
  return sharding.replicate(jnp.stack(found))


def _scramble(x: jax.Array) -> jax.Array:
  """Spreads every bit of a word over all of it; no two words become one."""
  for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
    x = (x ^ (x >> shift)) * jnp.uint32(factor)
  return x ^ (x >> 16)
