"""Meshes, and which part of an array lives on which device.

A rule is ``(regex over leaf names, PartitionSpec of the last axes)``; the first
rule that matches counts, as in most JAX training code. One set of rules serves
parameters, optimizer moments, importances and packed masks alike, since all of
them are trees with the same names.
"""

from collections.abc import Sequence
import re
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
import numpy as np

from mmu_jax import tree as tree_lib

Rules = Sequence[tuple[str, PartitionSpec]]
AXES = ('data', 'fsdp', 'tensor')
ROWS = ('data', 'fsdp')  # the axes that split the rows of a batch


def make_mesh(spec: str, devices: Sequence[Any] | None = None) -> Mesh:
  """Makes a mesh from a line of a config.

  Args:
    spec: ``'data=2,fsdp=4'``: sizes of the axes data (copies of the model),
      fsdp (parameters split, batch split) and tensor (layers split); left
      out means 1, and one of them may be -1: what remains.
    devices: all devices if None.

  Raises:
    ValueError: if an axis is unknown or the sizes do not make the devices.

  Example:
    >>> dict(make_mesh('fsdp=-1').shape)['data']
    1
  """
  devices = jax.devices() if devices is None else devices
  sizes = dict.fromkeys(AXES, 1)
  given = [part.partition('=') for part in spec.split(',') if part]
  names = [name.strip() for name, _, _ in given]
  for name, (_, _, size) in zip(names, given):
    number = re.fullmatch(r'\s*(-1|[1-9]\d*)\s*', size)
    if name not in AXES or not number or names.count(name) > 1:
      raise ValueError(
          'a mesh is written like data=2,fsdp=4, each of the axes '
          f'{", ".join(AXES)} once and with a size >= 1 or -1; '
          f'{name}={size} of {spec!r} is not.'
      )
    sizes[name] = int(size)
  free = [name for name, size in sizes.items() if size == -1]
  known = int(np.prod([size for size in sizes.values() if size > 0]))
  if len(free) == 1:
    sizes[free[0]] = len(devices) // known
  if len(free) > 1 or int(np.prod(list(sizes.values()))) != len(devices):
    raise ValueError(
        f'the axes of a mesh multiply to the number of devices; {spec!r} does '
        f'not fit {len(devices)}. Use -1 for one axis to take what remains.'
    )
  shape = tuple(sizes.values())
  return jax.make_mesh(
      shape, AXES, devices=devices, axis_types=(AxisType.Auto,) * len(AXES)
  )


def spec_of(
    name: str, shape: Sequence[int], rules: Rules, mesh: Mesh
) -> PartitionSpec:
  """Returns how a leaf is split.

  Args:
    name: of the leaf, ``'model/layers/mlp/up_proj/kernel'``.
    shape: of the leaf.
    rules: see above; of a rule with more axes than the leaf, the last count.
    mesh: an axis of the rule that does not divide its dimension is left out,
      so that a vocabulary of 32,003 tokens is copied instead of refused.

  Raises:
    ValueError: if no rule matches.
  """
  matching = (spec for regex, spec in rules if re.fullmatch(regex, name))
  rule = next(matching, None)
  if rule is None:
    raise ValueError(
        f'every parameter needs a partition rule; none matches {name!r}. End '
        "the rules with ('.*', PartitionSpec())."
    )
  axes = ((None,) * len(shape) + tuple(rule))[len(rule) :]
  fits = lambda size, axis: axis and size % _parts(axis, mesh) == 0
  return PartitionSpec(
      *(axis if fits(size, axis) else None for size, axis in zip(shape, axes))
  )


def _parts(axis: str | tuple[str, ...], mesh: Mesh) -> int:
  """Into how many parts an axis of a rule, or several of them, split."""
  axes = (axis,) if isinstance(axis, str) else axis
  unknown = [name for name in axes if name not in mesh.shape]
  if unknown:
    raise ValueError(
        'a partition rule splits over axes of the mesh, '
        f'{", ".join(mesh.shape)}; got {", ".join(unknown)}.'
    )
  return int(np.prod([mesh.shape[name] for name in axes]))


def shardings(tree: Any, rules: Rules, mesh: Mesh) -> Any:
  """Returns a tree of ``NamedSharding`` for a tree of arrays or shapes.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> tree = {'w': {'kernel': jnp.ones((8, 8))}}
    >>> rules = [('.*kernel', PartitionSpec('fsdp', None))]
    >>> made = shardings(tree, rules, make_mesh('fsdp=-1'))
    >>> tuple(made['w']['kernel'].spec)
    ('fsdp', None)
  """
  return tree_lib.map_with_name(
      lambda name, x: NamedSharding(mesh, spec_of(name, x.shape, rules, mesh)),
      tree,
  )


def split_rows(x: jax.Array) -> jax.Array:
  """Splits the rows of an activation over the mesh that is set, if one is.

  Without it the compiler may keep weights where they are and give every device
  the activations of the whole batch. Set the mesh with ``jax.set_mesh(mesh)``
  where a step is called; without a mesh this is the identity.

  Args:
    x: ``[B, ...]``, traced.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or not set(AXES) <= set(mesh.axis_names):
    return x
  size = mesh.shape['data'] * mesh.shape['fsdp']
  if size == 1 or x.shape[0] % size:
    return x
  return jax.lax.with_sharding_constraint(x, PartitionSpec(ROWS))


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Rows of a batch are split over the axes data and fsdp."""
  return NamedSharding(mesh, PartitionSpec(ROWS))
