"""Where the leaves of a model lie on a mesh that need not exist."""

from collections.abc import Mapping
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh
import numpy as np

from mmu_jax import sharding
from mmu_jax import tree as tree_lib
from mmu_jax.errors import UserError
from mmu_jax.models import Model


class Leaf(NamedTuple):
  """One parameter on a mesh.

  Attributes:
    shape: of the whole.
    fsdp: into how many parts it is split over the axis fsdp.
    tensor: and over the axis tensor.
    stack: the stack of layers that it belongs to, '' for none.
  """

  shape: tuple[int, ...]
  fsdp: int
  tensor: int
  stack: str

  @property
  def size(self) -> int:
    """Entries of the whole."""
    return int(np.prod(self.shape))

  @property
  def local(self) -> int:
    """Entries on one device."""
    return self.size // (self.fsdp * self.tensor)

  @property
  def gathered(self) -> int:
    """Entries on one device while they are computed with: of one layer."""
    layers = self.shape[0] if self.stack else 1
    return self.size // (layers * self.tensor)

  @property
  def is_matrix(self) -> bool:
    """Whether it is multiplied with, and not a norm or a bias."""
    return len(self.shape) - bool(self.stack) > 1


@functools.lru_cache(maxsize=256)
def mesh(data: int = 1, fsdp: int = 1, tensor: int = 1) -> AbstractMesh:
  """Returns a mesh of devices that nobody has.

  Example:
    >>> mesh(data=2, fsdp=512).size
    1024
  """
  return AbstractMesh((data, fsdp, tensor), sharding.AXES)


def parse(spec: str) -> AbstractMesh:
  """Returns the mesh that a line of a config describes.

  Args:
    spec: ``'data=2,fsdp=4'``, every size given.

  Raises:
    ValueError: if an axis is unknown or a size no number above zero.

  Example:
    >>> dict(parse('fsdp=8').shape)
    {'data': 1, 'fsdp': 8, 'tensor': 1}
  """
  sizes = {}
  for word in filter(None, spec.split(',')):
    name, _, size = (part.strip() for part in word.partition('='))
    known = name in sharding.AXES and name not in sizes
    if not known or not size.isdigit() or not int(size):
      raise UserError(
        'the mesh of a plan is written like data=2,fsdp=4, each of the axes '
        f'{", ".join(sharding.AXES)} at most once and with its size: a plan '
        f'knows no devices that -1 could count; got {spec!r}. Give it with '
        '--mesh.'
      )
    sizes[name] = int(size)
  return mesh(**sizes)


def line(of: AbstractMesh) -> str:
  """Returns a mesh as a config has it.

  Example:
    >>> line(mesh(fsdp=8))
    'fsdp=8'
  """
  sizes = [f'{name}={n}' for name, n in of.shape.items() if n > 1]
  return ','.join(sizes) or 'data=1'


@functools.lru_cache(maxsize=512)
def leaves(model: Model, on: AbstractMesh) -> Mapping[str, Leaf]:
  """Returns the parameters of a model on a mesh, by name.

  Args:
    model: its partition rules say where they go.
    on: the mesh, as of ``mesh``.
  """
  return {
    name: _leaf(name, x.shape, model, on)
    for name, x in tree_lib.flatten(model.abstract_params).items()
  }


def tree_bytes(tree: Any, model: Model, on: AbstractMesh) -> int:
  """Returns the bytes on one device of a tree with the names of a model.

  Args:
    tree: of arrays or shapes: parameters, an optimizer state, a packed mask.
    model: its partition rules say where they go.
    on: the mesh.
  """
  total = 0
  for name, x in tree_lib.flatten(tree).items():
    leaf = _leaf(name, x.shape, model, on)
    total += leaf.local * jnp.dtype(x.dtype).itemsize
  return total


def batch_bytes(tree: Any, on: AbstractMesh) -> int:
  """Returns the bytes on one device of a batch, its rows split."""
  parts = sharding.row_parts(on)
  return sum(
    int(np.prod(x.shape)) * x.dtype.itemsize // parts
    for x in jax.tree.leaves(tree)
  )


def _leaf(name, shape, model, on) -> Leaf:
  """One leaf, by its rule."""
  spec = sharding.spec_of(name, shape, model.partition_rules, on)
  axes = [axis for part in spec if part for axis in _names(part)]
  parts = {axis: on.shape[axis] for axis in axes}
  words = name.split('/')
  at = next((i for i, w in enumerate(words) if w in tree_lib.STACKS), None)
  stack = '' if at is None else '/'.join(words[: at + 1])
  return Leaf(tuple(shape), parts.get('fsdp', 1), parts.get('tensor', 1), stack)


def _names(axis) -> tuple[str, ...]:
  """The axes that split one dimension."""
  return (axis,) if isinstance(axis, str) else tuple(axis)
