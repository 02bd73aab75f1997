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

from mmu_jax import distributed
from mmu_jax import tree as tree_lib
from mmu_jax.errors import UserError

_WORDS = {1: np.uint8, 2: np.uint16, 4: np.uint32}  # by bytes of a value
_STARTS = (0x9E3779B9, 0x7F4A7C15)  # two sums, of 32 bits each
_SMALL = 2**16  # values of a part that is summed on the host: no compiling


def digest(tree: Any) -> str:
  """Returns 32 hexadecimal digits that name the values of a tree.

  Every bit counts, with its place and leaf: -0.0 is not 0.0. Two trees that
  differ have the same digest with a chance of about 2^-64; it protects against
  mistakes, not against somebody who looks for such a pair.

  Args:
    tree: pytree of arrays of at most 32 bits. In a job of several processes
      all of them call this.

  Raises:
    ValueError: if a leaf has values of more than 32 bits; names it.

  Example:
    >>> import numpy as np
    >>> a, b = np.float32([1, 2]), np.float32([2, 1])
    >>> digest({'w': a}) == digest({'w': a.copy()}), digest({'w': b})[:4]
    (True, 'b544')
  """
  flat = tree_lib.flatten(tree)
  for name, x in flat.items():
    if x.dtype.itemsize not in _WORDS:
      raise UserError(
        f'a checkpoint holds values of at most 32 bits; {name} has the dtype '
        f'{x.dtype}. Save it as float32 or int32.'
      )
  mine = [_sums(x) for x in flat.values()]
  sums = np.sum(distributed.gather(mine), axis=0) % 2**32
  named = [
    [name, str(x.dtype), list(x.shape), found]
    for (name, x), found in zip(flat.items(), sums.tolist())
  ]
  return hashlib.sha256(json.dumps(named).encode()).hexdigest()[:32]


def _sums(x: Any) -> list[int]:
  """Two sums over the values that this process counts.

  Every part of an array counts once, in one process. The devices do not speak
  with each other: on CPUs, processes that run ahead of others may hang.
  """
  parts = [(x, (0,) * np.ndim(x))] if distributed.is_first() else []
  if isinstance(x, jax.Array):
    parts = [
      (shard.data, tuple(part.start or 0 for part in shard.index))
      for shard in x.addressable_shards
      if shard.replica_id == 0
    ]
  found = [_sum_part(data, np.uint32(where)) for data, where in parts]
  return [int(sum(map(int, sums))) for sums in zip(*found)] or [0, 0]


def _sum_part(data: Any, where: np.ndarray) -> Any:
  """The sums of a part of an array that begins at some place of it."""
  where = where if data.shape else np.zeros(1, np.uint32)
  if isinstance(data, jax.Array) and data.size > _SMALL:
    (device,) = data.devices()  # not the mesh of the job, if one is set
    with jax.set_mesh(jax.sharding.Mesh([device], ('alone',))):
      return jax.device_get(_on_device(data, where))
  data = np.asarray(data, order='C').reshape(data.shape or (1,))
  if data.dtype == np.bool_:
    data = data.astype(np.uint8)
  return _summed(data.view(_WORDS[data.dtype.itemsize]), where, np)


@jax.jit
def _on_device(data: jax.Array, where: jax.Array) -> jax.Array:
  """The sums of a part of an array, where it is."""
  if data.dtype == jnp.bool_:
    data = data.astype(jnp.uint8)
  bits = jax.lax.bitcast_convert_type(data, _WORDS[data.dtype.itemsize])
  return _summed(bits.reshape(data.shape or (1,)), where, jnp)


def _summed(bits: Any, where: Any, xp: ModuleType) -> Any:
  """The sums of unsigned integers, with NumPy or with its twin in JAX."""
  bits = bits.astype(xp.uint32)
  found = []
  for start in _STARTS:
    place = xp.full((1,) * bits.ndim, start, xp.uint32)
    for axis, length in enumerate(bits.shape):
      shape = [length if i == axis else 1 for i in range(bits.ndim)]
      index = xp.arange(length, dtype=xp.uint32) + where[axis]
      place = _scramble(place ^ index.reshape(shape), xp)
    found.append(xp.sum(_scramble(bits ^ place, xp), dtype=xp.uint32))
  return xp.stack(found)


def _scramble(x: Any, xp: ModuleType) -> Any:
  """Spreads every bit of a word over all of it; no two words become one."""
  for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
    x = (x ^ (x >> shift)) * xp.uint32(factor)
  return x ^ (x >> 16)
