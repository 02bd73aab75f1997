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
import jax.numpy as jnp
from jax.sharding import AbstractMesh
from jax.sharding import AxisType
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
import numpy as np

from mmu_jax import tree as tree_lib
from mmu_jax.errors import UserError

Rules = Sequence[tuple[str, PartitionSpec]]
AXES = ('data', 'fsdp', 'tensor')
ROWS = ('data', 'fsdp')  # the axes that split the rows of a batch


def make_mesh(spec: str, devices: Sequence[Any] | None = None) -> Mesh:
  """Makes a mesh from a line of a config.

  Args:
    spec: ``'data=2,fsdp=4'``: sizes of the axes data (copies of the model),
      fsdp (parameters split, batch split) and tensor (layers split). A missing
      axis has size 1, and one axis may be -1: it takes the remaining devices.
    devices: devices of the mesh, all if None. One process may have more than
      the mesh needs, and uses the first; several processes use all.

  Raises:
    ValueError: if an axis is unknown, or the sizes do not fit the devices.

  Example:
    >>> dict(make_mesh('fsdp=-1').shape)['data']
    1
  """
  devices = jax.devices() if devices is None else devices
  sizes = axis_sizes(spec)
  free = [name for name, size in sizes.items() if size == -1]
  known = int(np.prod([size for size in sizes.values() if size > 0]))
  if len(free) == 1:
    sizes[free[0]] = len(devices) // known
  shape = tuple(sizes.values())
  wanted = int(np.prod(shape))
  alone = len({device.process_index for device in devices}) == 1
  fits = wanted == len(devices) or (alone and 0 < wanted < len(devices))
  if len(free) > 1 or (free and wanted != len(devices)) or not fits:
    raise UserError(
      f'the axes of a mesh multiply to the number of devices; {spec!r} does '
      f'not fit {len(devices)}. Use -1 for one axis to take what remains.'
    )
  return jax.make_mesh(
    shape,
    AXES,
    devices=devices[:wanted],
    axis_types=(AxisType.Auto,) * len(AXES),
  )


def axis_sizes(spec: str) -> dict[str, int]:
  """Returns the size of every axis that a line of a config gives.

  Args:
    spec: sizes as for ``make_mesh``; -1 stays -1.

  Raises:
    ValueError: if an axis is unknown or given twice, or a size is no number.

  Example:
    >>> axis_sizes('data=2,fsdp=-1')
    {'data': 2, 'fsdp': -1, 'tensor': 1}
  """
  sizes = dict.fromkeys(AXES, 1)
  given = [part.partition('=') for part in spec.split(',') if part]
  names = [name.strip() for name, _, _ in given]
  for name, (_, _, size) in zip(names, given):
    number = re.fullmatch(r'\s*(-1|[1-9]\d*)\s*', size)
    if name not in AXES or not number or names.count(name) > 1:
      raise UserError(
        'a mesh is written like data=2,fsdp=4, each of the axes '
        f'{", ".join(AXES)} once and with a size >= 1 or -1; '
        f'{name}={size} of {spec!r} is not.'
      )
    sizes[name] = int(size)
  return sizes


def spec_of(
  name: str, shape: Sequence[int], rules: Rules, mesh: Mesh | AbstractMesh
) -> PartitionSpec:
  """Returns how a leaf is split.

  Args:
    name: name of the leaf, ``'model/layers/mlp/up_proj/kernel'``.
    shape: shape of the leaf.
    rules: partition rules; of a rule with more axes than the leaf, the last
      ones count.
    mesh: the mesh. An axis of the rule that does not divide its dimension is
      left out, so that a vocabulary of 32,003 tokens is copied, not refused.

  Raises:
    ValueError: if no rule matches.
  """
  matching = (spec for regex, spec in rules if re.fullmatch(regex, name))
  rule = next(matching, None)
  if rule is None:
    raise UserError(
      f'every parameter needs a partition rule; none matches {name!r}. End '
      "the rules with ('.*', PartitionSpec())."
    )
  axes = ((None,) * len(shape) + tuple(rule))[len(rule) :]
  fits = lambda size, axis: axis and size % _parts(axis, mesh) == 0
  return PartitionSpec(
    *(axis if fits(size, axis) else None for size, axis in zip(shape, axes))
  )


def _parts(axis: str | tuple[str, ...], mesh: Mesh | AbstractMesh) -> int:
  """Into how many parts an axis of a rule, or several of them, split."""
  axes = (axis,) if isinstance(axis, str) else axis
  unknown = [name for name in axes if name not in mesh.shape]
  if unknown:
    raise UserError(
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


def placed(tree: Any, rules: Rules, mesh: Mesh) -> Any:
  """Returns the shapes of a tree with the place of each: nothing is allocated.

  Args:
    tree: pytree of arrays or shapes: parameters, or a tree with their names in
      it, such as an optimizer state.
    rules: partition rules.
    mesh: the mesh that it goes to.
  """
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    tree,
    shardings(tree, rules, mesh),
  )


def constrain(tree: Any, rules: Rules) -> Any:
  """Puts every leaf where its rule says, on the mesh that is set, if one is.

  Otherwise the compiler chooses the places of a step's results, and the next
  step is compiled again for them.

  Args:
    tree: pytree of traced arrays.
    rules: partition rules; none for the identity.
  """
  mesh = _mesh()
  if mesh is None or not rules:
    return tree
  return tree_lib.map_with_name(
    lambda name, x: jax.lax.with_sharding_constraint(
      x, spec_of(name, x.shape, rules, mesh)
    ),
    tree,
  )


def split_rows(
  x: jax.Array, axis: int = 0, last: str | None = None
) -> jax.Array:
  """Splits the rows of an activation over the mesh that is set, if one is.

  Without it the compiler may keep weights where they are and give every device
  the activations of the whole batch. Set the mesh with ``jax.set_mesh(mesh)``
  where a step is called; without a mesh this is the identity.

  Args:
    x: ``[B, ...]``, traced.
    axis: index of the axis of the rows.
    last: axis of the mesh that splits the last dimension, such as a vocabulary
      over 'tensor'; a dimension that it does not divide stays whole.
  """
  mesh = _mesh()
  if mesh is None:
    return x
  parts: list[Any] = [None] * x.ndim
  if x.shape[axis] % row_parts(mesh) == 0:
    parts[axis] = ROWS
  if last is not None and x.shape[-1] % mesh.shape[last] == 0:
    parts[-1] = last
  if not any(parts):
    return x
  return jax.lax.with_sharding_constraint(x, PartitionSpec(*parts))


def replicate(tree: Any) -> Any:
  """Gives every device, and so every process, all of some traced results."""
  if _mesh() is None:
    return tree
  return jax.tree.map(
    lambda x: jax.lax.with_sharding_constraint(x, PartitionSpec()), tree
  )


def not_finite(tree: Any) -> list[str]:
  """Returns the names of the leaves that hold a NaN or an infinity.

  Example:
    >>> import jax.numpy as jnp
    >>> not_finite({'a': jnp.ones(2), 'b': jnp.log(jnp.arange(2.))})
    ['b']
  """
  leaves = tree_lib.flatten(tree)
  finite = jax.device_get(_are_finite(list(leaves.values())))
  return [name for name, good in zip(leaves, finite) if not good]


@jax.jit
def _are_finite(leaves: list[jax.Array]) -> list[jax.Array]:
  """Which leaves are finite throughout."""
  return replicate([jnp.all(jnp.isfinite(x)) for x in leaves])


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Rows of a batch are split over the axes data and fsdp."""
  return NamedSharding(mesh, PartitionSpec(ROWS))


def row_parts(mesh: Mesh | AbstractMesh) -> int:
  """Into how many parts the rows of a batch are split."""
  return mesh.shape['data'] * mesh.shape['fsdp']


def parts_here() -> int:
  """Into how many parts the mesh that is set splits rows; 1 without a mesh."""
  mesh = jax.sharding.get_mesh()
  return 1 if mesh.empty else row_parts(mesh)


def row_count(num_rows: int, mesh: Mesh, micro_batches: int = 1) -> int:
  """The number of rows of a batch that is padded for its devices.

  Every device gets as many rows, in micro-batches of equal size; the added
  rows have no weight.

  Example:
    >>> row_count(5, make_mesh('fsdp=-1'), micro_batches=4) % 4
    0
  """
  parts = row_parts(mesh) * micro_batches
  return -(-num_rows // parts) * parts


def local_rows(total: int, mesh: Mesh) -> np.ndarray:
  """Which rows of a batch the devices of this process hold, in order.

  Args:
    total: number of rows of the batch, from ``row_count``.
    mesh: the mesh of all processes.
  """
  parts = batch_sharding(mesh).addressable_devices_indices_map((total,))
  return np.unique(
    [np.arange(total)[index[0]] for index in parts.values() if index]
  )


def place(batch: Any, mesh: Mesh, total: int) -> Any:
  """Makes the arrays of a batch from the rows of every process.

  Args:
    batch: tree of NumPy arrays with the rows ``local_rows(total, mesh)`` of
      this process, in this order.
    mesh: the mesh of all processes.
    total: number of rows of the whole batch, from ``row_count``.

  Returns:
    A tree of arrays with ``total`` rows, split over the mesh.

  Raises:
    ValueError: if the batch has other rows.

  Example:
    >>> mesh = make_mesh('fsdp=-1')
    >>> rows = np.ones((row_count(3, mesh), 2))
    >>> place({'x': rows}, mesh, len(rows))['x'].shape == rows.shape
    True
  """
  mine = local_rows(total, mesh)
  sharding = batch_sharding(mesh)

  def make(x: np.ndarray) -> jax.Array:
    if len(x) != len(mine):
      raise UserError(
        f'this process holds {len(mine)} of the {total} rows of a batch; '
        f'got {len(x)}. Make the rows local_rows(total, mesh).'
      )
    part = lambda index: x[np.searchsorted(mine, np.arange(total)[index[0]])]
    return jax.make_array_from_callback((total, *x.shape[1:]), sharding, part)

  return jax.tree.map(make, batch)


def share(num_rows: int) -> Sequence[int] | np.ndarray:
  """Which rows of a batch this process makes, for the mesh that is set.

  Rows beyond ``num_rows`` are padding. Without a mesh it makes all rows, and no
  padding.
  """
  mesh = jax.sharding.get_mesh()
  if mesh.empty:
    return range(num_rows)
  return local_rows(row_count(num_rows, mesh), mesh)


def place_shared(batch: Any, num_rows: int) -> Any:
  """Places the rows that ``share(num_rows)`` gave; without a mesh, nothing."""
  mesh = jax.sharding.get_mesh()
  if mesh.empty:
    return batch
  return place(batch, mesh, row_count(num_rows, mesh))


def _mesh() -> AbstractMesh | None:
  """The mesh that is set, if it has our axes."""
  mesh = jax.sharding.get_abstract_mesh()
  return mesh if set(AXES) <= set(mesh.axis_names) else None
