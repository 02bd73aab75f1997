"""Masks: one bool per parameter, True = may change; packed, one bit each.

A packed mask is a pytree like the parameters whose leaves are uint8, eight
entries of the *last* axis to a byte (``[..., n] -> [..., ceil(n / 8)]``), so
every other axis keeps its meaning and its sharding. The transformations take
either form.
"""

from collections.abc import Iterable, Mapping, Sequence
import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmu_jax import sharding
from mmu_jax import tree as tree_lib
from mmu_jax.errors import UserError
from mmu_jax.typing import Mask


def pack(mask: Mask) -> Mask:
  """Packs a bool mask, eight entries to a byte along the last axis.

  Args:
    mask: pytree of bool arrays ``[..., n]``; a scalar counts as ``[1]``.

  Returns:
    Pytree of uint8 arrays ``[..., ceil(n / 8)]``.

  Raises:
    TypeError: if a leaf is not bool: packing would turn numbers into bits.

  Example:
    >>> import jax.numpy as jnp
    >>> pack({'w': jnp.array([True, False, True])})
    {'w': Array([160], dtype=uint8)}
  """

  for name, leaf in tree_lib.flatten(mask).items():
    if leaf.dtype != bool:
      raise TypeError(
        f'pack takes bool masks; {name!r} is {leaf.dtype}. Compare first, '
        'for example mask_from_saliency(saliency, threshold=1.0).'
      )
  return _pack(mask)


def unpack(mask: Mask, like: Any) -> Mask:
  """Returns the bool form of a mask that is packed or already bool.

  Args:
    mask: pytree of uint8 (packed) or bool leaves.
    like: pytree of the parameters (or their shapes) the mask belongs to.

  Returns:
    Pytree of bool arrays with the shapes of ``like``.

  Raises:
    ValueError: if the mask does not belong to a tree like this one. Raised
      while tracing, before anything is compiled.

  Example:
    >>> import jax.numpy as jnp
    >>> mask = {'w': jnp.array([True, False, True])}
    >>> unpack(pack(mask), like=mask)
    {'w': Array([ True, False,  True], dtype=bool)}
  """
  tree_lib.check_same(
    mask, like, got_name='the mask', want_name='the parameters', shapes=False
  )
  return tree_lib.map_with_name(_unpack_leaf, mask, like)


def exempt(mask: Mask, rule: str) -> Mask:
  """Lets leaves change freely: True everywhere, whatever the mask says.

  The published loop masked the leaves that its list of words names, so norms,
  embeddings and the output layer got the whole ascent. Ours exempts nothing.

  Args:
    mask: bool or packed.
    rule: regex over leaf names, from their start; ``''`` for none.

  Returns:
    A mask of the same form.

  Raises:
    ValueError: if the rule matches no leaf, or every leaf.

  Example:
    >>> import jax.numpy as jnp
    >>> mask = {'norm': jnp.array([False]), 'proj': jnp.array([False])}
    >>> exempt(mask, r'(?!.*proj)')
    {'norm': Array([ True], dtype=bool), 'proj': Array([False], dtype=bool)}
  """
  if not rule:
    return mask
  free = exempted(tree_lib.flatten(mask), rule)
  true = lambda leaf: jnp.full_like(leaf, True if leaf.dtype == bool else 255)
  return tree_lib.map_with_name(
    lambda name, leaf: true(leaf) if name in free else leaf, mask
  )


def exempted(names: Iterable[str], rule: str) -> set[str]:
  """Returns the leaves that a rule of ``exempt`` lets change freely.

  Args:
    names: names of all leaves.
    rule: regex over leaf names, from their start; ``''`` for none.

  Raises:
    ValueError: if the rule matches no leaf, or every leaf.
  """
  names = list(names)
  found = {name for name in names if rule and re.match(rule, name)}
  if rule and len(found) in (0, len(names)):
    raise UserError(
      f'the rule {rule!r} exempts {"every" if found else "no"} leaf from the '
      f"mask; the first leaf is {names[0]!r}. Use '' to exempt none, and a "
      'method without masked turns for no mask.'
    )
  return found


def density(
  mask: Mask, like: Any = None, components: Mapping[str, str] | None = None
) -> dict[str, float]:
  """Returns the share of True entries, in all and per component.

  Args:
    mask: bool mask, or a packed one with ``like`` given.
    like: the parameters, needed for a packed mask only.
    components: component -> regex over leaf names.

  Returns:
    ``{'all': share, component: share, ...}``, each in [0, 1].

  Example:
    >>> import jax.numpy as jnp
    >>> mask = {'a': jnp.array([True, False]), 'b': jnp.array([True, True])}
    >>> density(mask, components={'first': 'a', 'second': 'b'})
    {'all': 0.75, 'first': 0.5, 'second': 1.0}
  """
  leaves = tree_lib.flatten(mask if like is None else unpack(mask, like))
  totals = dict(zip(leaves, total(list(leaves.values()))))
  groups = {'all': list(leaves)}
  for name in leaves if components else ():
    component = tree_lib.component_of(name, components or {})
    groups.setdefault(component, []).append(name)
  size = lambda names: max(sum(leaves[n].size for n in names), 1)
  return {
    group: sum(totals[n] for n in names) / size(names)
    for group, names in groups.items()
  }


def density_by_leaf(mask: Mask) -> dict[str, float]:
  """Returns the share of True entries of every leaf of a bool mask."""
  leaves = tree_lib.flatten(mask)
  totals = total(list(leaves.values()))
  return {n: t / max(x.size, 1) for (n, x), t in zip(leaves.items(), totals)}


def density_by_layer(
  mask: Mask, components: Mapping[str, str]
) -> dict[str, list[float]]:
  """Returns the share of True entries of every layer of each component.

  Layers are the leading axis of the leaves under a node of ``tree.STACKS``; a
  component without such leaves is left out.

  Example:
    >>> import jax.numpy as jnp
    >>> mask = {'layers': {'w': jnp.array([[True, True], [True, False]])}}
    >>> density_by_layer(mask, {'language': 'layers'})
    {'language': [1.0, 0.5]}
  """
  leaves = {
    name: leaf
    for name, leaf in tree_lib.flatten(mask).items()
    if tree_lib.STACKS & set(name.split('/'))
  }
  found = total(list(leaves.values()), by_layer=True)
  totals: dict[str, Any] = {}
  sizes: dict[str, int] = {}
  for (name, leaf), each in zip(leaves.items(), found):
    component = tree_lib.component_of(name, components)
    totals[component] = totals.get(component, 0) + each
    sizes[component] = sizes.get(component, 0) + leaf[0].size
  return {c: (totals[c] / sizes[c]).tolist() for c in totals}


def counts(mask: Mask, components: Mapping[str, str]) -> dict[str, int]:
  """Returns the number of True entries of each component of a bool mask."""
  found, leaves = dict.fromkeys(components, 0), tree_lib.flatten(mask)
  for name, number in zip(leaves, total(list(leaves.values()))):
    found[tree_lib.component_of(name, components)] += number
  return found


def overlap(a: Mask, b: Mask) -> float:
  """Returns |a and b| / |a or b|, the Jaccard index of two bool masks."""
  tree_lib.check_same(a, b, got_name='one mask', want_name='the other')
  a, b = jax.tree.leaves(a), jax.tree.leaves(b)
  _check_bool(a + b)
  both, either = to_int(_count_pairs(a, b))
  return int(both.sum()) / max(int(either.sum()), 1)


def random_like(mask: Mask, key: jax.Array) -> Mask:
  """Returns a random mask with as many True entries in every leaf.

  A control for sparsity alone: equal density, no saliency. Every entry draws 32
  random bits, and the highest draws win, on every mesh the same. Equal draws
  at the border are all taken, so one in four leaves of a billion entries gets
  one entry more.

  Args:
    mask: bool mask to imitate.
    key: a ``jax.random`` key.
  """
  leaves = jax.tree.leaves(mask)
  _check_bool(leaves)
  keys = jax.random.split(key, len(leaves))
  places = [getattr(leaf, 'sharding', None) for leaf in leaves]
  made = map(_shuffle, leaves, keys, places)
  return jax.tree.unflatten(jax.tree.structure(mask), made)


def total(leaves: Sequence[jax.Array], by_layer: bool = False) -> list[Any]:
  """Counts the True entries of some arrays, on the devices that have them.

  Args:
    leaves: bool arrays, whole or split over devices and processes.
    by_layer: whether to count each entry of the first axis by itself.

  Returns:
    A number for each array, or an int64 array ``[layers]``.
  """
  _check_bool(list(leaves))
  found = _count_each(list(leaves), by_layer)
  return [x if by_layer else int(x) for x in map(to_int, found)]


def count(x: jax.Array) -> jax.Array:
  """Counts the True entries of a traced array of any size.

  Stacked leaves of large models have more than 2**31 entries, and int64 is
  off in JAX: a count is two numbers, of 4,096 and of 1.

  Args:
    x: bool ``[...]``, each but its last axis of at most 2**20.

  Returns:
    uint32 ``[2]``, for ``to_int``.
  """
  x = jnp.atleast_1d(x)
  low = jnp.sum(x, axis=-1, dtype=jnp.uint32)
  high = jnp.zeros_like(low)
  while True:
    high, low = high + (low >> 12), low & 4095
    if not low.ndim:
      return jnp.stack([high, low])
    high, low = (jnp.sum(n, axis=-1, dtype=jnp.uint32) for n in (high, low))


def to_int(counts: Any) -> np.ndarray:
  """Turns counts ``[..., 2]`` of ``count`` into int64 ``[...]``."""
  counts = np.asarray(jax.device_get(counts)).astype(np.int64)
  return counts[..., 0] * 4096 + counts[..., 1]


@jax.jit
def _pack(mask: Mask) -> Mask:
  """Packs all leaves in one program."""
  return jax.tree.map(lambda x: jnp.packbits(jnp.atleast_1d(x), axis=-1), mask)


@functools.partial(jax.jit, static_argnums=1)
def _count_each(leaves: list[jax.Array], by_layer: bool) -> list[jax.Array]:
  """The count of each leaf, or of each of its layers."""
  count_one = jax.vmap(count) if by_layer else count
  return sharding.replicate([count_one(x) for x in leaves])


@jax.jit
def _count_pairs(a: list[jax.Array], b: list[jax.Array]) -> jax.Array:
  """The counts of ``a & b`` and of ``a | b``, leaf by leaf: [2, leaves, 2]."""
  pairs = list(zip(a, b))
  both = jnp.stack([count(x & y) for x, y in pairs])
  either = jnp.stack([count(x | y) for x, y in pairs])
  return sharding.replicate(jnp.stack([both, either]))


@functools.partial(jax.jit, static_argnums=2)
def _shuffle(mask: jax.Array, key: jax.Array, place: Any) -> jax.Array:
  """A random leaf with as many True entries, where the leaf is."""
  # The k highest draws win. Their lowest value, the bound, is found bit by
  # bit from the highest: a bit is set if k draws still reach the bound with it.
  draws = jax.random.bits(key, mask.shape, jnp.uint32)
  if place is not None and len(place.device_set) > 1:
    draws = jax.lax.with_sharding_constraint(draws, place)
  k = count(mask)

  def bit(i: jax.Array, bound: jax.Array) -> jax.Array:
    higher = bound | (jnp.uint32(1) << (31 - i).astype(jnp.uint32))
    found = count(draws >= higher)
    enough = (found[0] > k[0]) | ((found[0] == k[0]) & (found[1] >= k[1]))
    return jnp.where(enough, higher, bound)

  bound = jax.lax.fori_loop(0, 32, bit, jnp.uint32(0))
  return (draws >= bound) & jnp.any(k > 0)


def _unpack_leaf(name: str, mask: jax.Array, like: Any) -> jax.Array:
  """Checks one leaf of a mask, and turns bits to bools."""
  if mask.dtype not in (jnp.bool_, jnp.uint8):
    raise UserError(
      f'a mask is bool or packed uint8; {name!r} is {mask.dtype}. Make it '
      'with mask_from_saliency, or compare your scores with a threshold.'
    )
  *rest, last = like.shape or (1,)
  want = like.shape if mask.dtype == bool else (*rest, -(-last // 8))
  if mask.shape != want:
    raise UserError(
      f'a {mask.dtype} mask for {name!r} of shape {like.shape} must have '
      f'shape {want}, got {mask.shape}. It was made for another model: make '
      'it again from these parameters.'
    )
  if mask.dtype == bool:
    return mask
  bits = jnp.unpackbits(mask, axis=-1, count=last)
  return bits.astype(bool).reshape(like.shape)


def _check_bool(leaves: list[jax.Array]) -> None:
  """Raises on a packed mask: its bytes are not to be counted or moved."""
  for leaf in leaves:
    if leaf.dtype != bool:
      raise TypeError(
        f'this takes a bool mask, got one with a leaf of {leaf.dtype}. If it '
        'is packed, unpack it first: unpack(mask, like=params).'
      )
