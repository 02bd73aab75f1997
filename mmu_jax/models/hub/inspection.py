"""Contents of a checkpoint folder, from its headers alone."""

from collections.abc import Iterable
import pathlib
import re
from typing import Any, NamedTuple

import jax
import numpy as np

from mmu_jax import checkpoint
from mmu_jax import tree as tree_lib
from mmu_jax.errors import UserError
from mmu_jax.models.family import Family
from mmu_jax.models.hub import config as hub_config
from mmu_jax.models.hub import loading as checkpoints
from mmu_jax.models.hub import weights
from mmu_jax.models.model import MODELS

Folder = str | pathlib.Path
_LONGEST = 44  # signs of a path beside shape and dtype, on 80 columns


class Contents(NamedTuple):
  """Contents of a folder of parameters.

  Attributes:
    path: the folder.
    form: 'Hugging Face' or 'Orbax'.
    family: a key of ``MODELS``; for an Orbax folder whose note names none, a
      sentence with those that its leaves fit.
    leaves: name -> shape and dtype, layers stacked.
    components: component -> regex over leaf names.
  """

  path: pathlib.Path
  form: str
  family: str
  leaves: dict[str, jax.ShapeDtypeStruct]
  components: dict[str, str]


def inspect(path: Folder) -> Contents:
  """Returns the contents of a Hugging Face or Orbax folder; reads no weight.

  Raises:
    FileNotFoundError: if it is neither.
    ValueError: if it is damaged, or of no known family.
  """
  path = pathlib.Path(path).expanduser()
  step = checkpoint.latest_step(path) if path.exists() else None
  if step is None or (path / hub_config.FILE).exists():
    model, tensors = checkpoints.read_headers(path)
    by_leaf = weights.by_leaf(weights.table(model).places)
    leaves = {
      name: jax.ShapeDtypeStruct(
        x.shape, checkpoints.stored_dtype(tensors, by_leaf[name])
      )
      for name, x in tree_lib.flatten(model.abstract_params).items()
    }
    return Contents(
      path, 'Hugging Face', model.family, leaves, model.components
    )
  check_whole(path)
  leaves = tree_lib.flatten(checkpoint.describe(path))
  family = checkpoint.read_note(path).get('family')
  families = [family] if family in MODELS else _fitting(leaves, path)
  components = MODELS[families[0]].components
  said = ' or '.join(families)
  if family not in MODELS:
    said += ' (by the names of its leaves; its note names no known family)'
  return Contents(path, 'Orbax', said, leaves, components)


def check_whole(path: Folder) -> None:
  """Raises ValueError if an Orbax folder holds the adapters of a run."""
  if 'lora' in checkpoint.read_note(path):
    raise UserError(
      f'{path} holds the adapters of a run without their base. Give the '
      'merged parameters beside them, in the folder params.'
    )


def content_tables(contents: Contents) -> list[Any]:
  """Returns the output of ``mmu inspect``: rich tables and lines.

  Args:
    contents: contents of a folder, from ``inspect``.
  """
  from rich import box
  from rich import table

  leaves = contents.leaves
  by_component = table.Table('component', box=box.SIMPLE_HEAD)
  for column in ('parameters', 'share', 'leaves', 'size'):
    by_component.add_column(column, justify='right')
  total = _count(leaves.values())
  groups = {name: [] for name in contents.components}
  for name, leaf in leaves.items():
    groups[tree_lib.component_of(name, contents.components)].append(leaf)
  for name, found in {**groups, 'all': list(leaves.values())}.items():
    count, size = _count(found), size_text(_bytes(found))
    share = f'{count / total:.1%}'
    by_component.add_row(name, f'{count:,}', share, str(len(found)), size)
  by_leaf = table.Table(box=box.SIMPLE_HEAD)
  by_leaf.add_column('parameter, layers stacked', overflow='fold')
  for column in ('shape', 'dtype'):
    by_leaf.add_column(column, no_wrap=True)
  for name, leaf in leaves.items():
    by_leaf.add_row(_folded(name), str(leaf.shape), leaf.dtype.name)
  title = f'{contents.path} ({contents.form}): {contents.family}'
  return [by_leaf, title, by_component, _memory(leaves)]


def _folded(name: str) -> str:
  """A long path in two lines that end and begin at a '/'."""
  place = name.rfind('/', 0, _LONGEST) + 1
  return name if len(name) <= _LONGEST else f'{name[:place]}\n  {name[place:]}'


def _memory(leaves: dict[str, jax.ShapeDtypeStruct]) -> Any:
  """Sizes of the arrays of each use, on all devices together."""
  from rich import box
  from rich import table

  count = _count(leaves.values())
  bits = sum(
    _count([x]) // x.shape[-1] * -(-x.shape[-1] // 8) for x in leaves.values()
  )
  title = 'memory, on all devices together'
  memory = table.Table(title, 'size', box=box.SIMPLE_HEAD)
  for use, size in (
    ('parameters as they are stored', _bytes(leaves.values())),
    ('parameters in float32', 4 * count),
    ('train state: float32 parameters, two moments', 12 * count),
    ('gradients in float32', 4 * count),
    ('one importance in float32', 4 * count),
    ('packed mask', bits),
  ):
    memory.add_row(use, size_text(size))
  return memory


def _count(leaves: Iterable[jax.ShapeDtypeStruct]) -> int:
  """Entries of some leaves."""
  return sum(int(np.prod(x.shape)) for x in leaves)


def _bytes(leaves: Iterable[jax.ShapeDtypeStruct]) -> int:
  """Bytes of some leaves."""
  return sum(int(np.prod(x.shape)) * x.dtype.itemsize for x in leaves)


def size_text(size: int) -> str:
  """Returns bytes as people read them.

  Example:
    >>> size_text(3 * 2**29)
    '1.5 GiB'
  """
  power = min(int(np.log2(max(size, 1)) // 10), 3)
  unit = ('B', 'KiB', 'MiB', 'GiB')[power]
  return f'{size / 1024**power:,.1f} {unit}'


def _fitting(leaves: dict[str, Any], path: pathlib.Path) -> list[str]:
  """The families whose components the leaves belong to, at least one."""
  found = [
    name
    for name, family in MODELS.items()
    if all(_components(leaf, family) == 1 for leaf in leaves)
  ]
  if not found:
    raise UserError(
      f'{path} holds leaves of no known model ({", ".join(MODELS)}'
      f'); the first is {next(iter(leaves))!r}. Give a folder of parameters, '
      'such as vanilla/params, not of a mask or a train state.'
    )
  return found


def _components(leaf: str, family: Family) -> int:
  """Number of a family's components that have the leaf."""
  return sum(bool(re.match(r, leaf)) for r in family.components.values())
