"""A table of tensors in checkpoint files and their places in parameters.

Our leaves are named like the tensors of the checkpoints on the hub, with these
differences: layers are stacked (``layers.3.x`` is entry 3 of ``layers/x``), a
``weight`` is called ``kernel``, ``scale`` or ``embedding`` after its use,
and a kernel is transposed, ``[in, out]``. So the table of a model is computed
from its parameters, and covers each of them once.
"""

from collections.abc import Iterable, Mapping
import re
from typing import NamedTuple

import numpy as np

from mmu_jax import tree as tree_lib
from mmu_jax.errors import UserError
from mmu_jax.models.model import Model
from mmu_jax.models.model import MODELS


class Place(NamedTuple):
  """Where a tensor belongs.

  Attributes:
    leaf: name of the parameter.
    layer: entry of its leading axis, None if it is not stacked.
    shape: shape of the tensor in the file.
    transposed: whether the file holds ``[out, in...]`` of a ``[in, out]``.
  """

  leaf: str
  layer: int | None
  shape: tuple[int, ...]
  transposed: bool


class Table(NamedTuple):
  """The tensors of a model.

  Attributes:
    places: hub name -> where it belongs; each entry of each leaf once.
    copies: hub name -> where it belongs, of tensors that some writers save
      although another holds the same (the output layer of a tied embedding).
  """

  places: Mapping[str, Place]
  copies: Mapping[str, Place]


# Tensors of old writers that hold no parameters.
BUFFERS = re.compile(r'.*(position_ids|rotary_emb\.inv_freq)')
LAST = {'kernel': 'weight', 'scale': 'weight', 'embedding': 'weight'}


def hub_name(name: str, family: str) -> str:
  """Returns the name that the hub has for a tensor of any writer.

  Example:
    >>> hub_name('model.language_model.norm.weight', 'llava')
    'language_model.model.norm.weight'
    >>> hub_name('model.language_model.norm.weight', 'qwen2_vl')
    'model.norm.weight'
  """
  for pattern, replacement in MODELS[family].renames:
    name = re.sub(pattern, replacement, name)
  return name


def table(model: Model) -> Table:
  """Returns the table of a model; nothing is allocated."""
  family = MODELS[model.family]
  ends = family.convolutions(model.config)
  places = {}
  for leaf, array in tree_lib.flatten(model.abstract_params).items():
    convolution = next((s for e, s in ends.items() if leaf.endswith(e)), ())
    places |= _tensors(leaf, array.shape, convolution)
  copies = family.copies(model.config)
  return Table(places, {copy: places[hub] for copy, hub in copies.items()})


def to_leaf(tensor: np.ndarray, place: Place) -> np.ndarray:
  """Brings a tensor from the layout of files to ours."""
  if not place.transposed:
    return tensor
  return tensor.reshape(tensor.shape[0], -1).T


def by_leaf(places: Mapping[str, Place]) -> dict[str, list[str]]:
  """Returns the tensors of each leaf, in the order of its layers."""
  found: dict[str, list[str]] = {}
  for name, place in places.items():
    found.setdefault(place.leaf, []).append(name)
  return found


def check_tensors(
  names: Iterable[str], family: str, known: Table, where: str
) -> dict[str, str]:
  """Returns hub name -> name in the file, of the tensors of a checkpoint.

  Raises:
    ValueError: names all that are missing and all that are unexpected, or
      two that are one under their names of different writers.
  """
  found = {}
  unexpected = []
  for name in names:
    hub = hub_name(name, family)
    if hub in found:
      raise UserError(
        f'every parameter has one tensor; in {where}, {found[hub]} and '
        f'{name} are the same one. Delete the one that is out of date.'
      )
    if hub in known.places or hub in known.copies:
      found[hub] = name
    elif not BUFFERS.fullmatch(name):
      unexpected.append(name)
  missing = [name for name in known.places if name not in found]
  if missing or unexpected:
    raise UserError(
      f'the tensors in {where} must be the ones that its config.json names: '
      f'{_some(missing)} missing, {_some(unexpected)} unexpected. Is the '
      'config made for these weights, and is every file there?'
    )
  return found


def _tensors(
  leaf: str, shape: tuple[int, ...], convolution: tuple[int, ...]
) -> dict[str, Place]:
  """The tensors that make one leaf."""
  parts = leaf.split('/')
  kind = parts[-1]
  names = [*parts[:-1], LAST.get(kind, kind)]
  node = next((i for i, p in enumerate(names) if p in tree_lib.STACKS), None)
  transposed = kind == 'kernel'

  def in_file(shape):
    if not transposed:
      return shape
    return (shape[-1], *(convolution or shape[:-1]))

  if node is None:
    place = Place(leaf, None, in_file(shape), transposed)
    return {'.'.join(names): place}
  return {
    '.'.join([*names[: node + 1], str(i), *names[node + 1 :]]): Place(
      leaf, i, in_file(shape[1:]), transposed
    )
    for i in range(shape[0])
  }


def _some(names: list[str], most: int = 5) -> str:
  """A count and the first few names."""
  shown = ', '.join(names[:most]) + (', ...' if len(names) > most else '')
  return f'{len(names)} ({shown})' if names else '0'
