"""Pytrees by path: name the leaves, select some, count, compare two trees."""

from collections.abc import Callable, Mapping
import re
from typing import Any

import jax
import numpy as np

from mmu_jax.errors import UserError

Tree = Any
STACKS = {'layers', 'blocks'}  # nodes whose leaves have a leading layer axis


def path_name(path: tuple[Any, ...]) -> str:
  """Joins a JAX key path with slashes: ``language_model/layers/q_proj``."""
  return jax.tree_util.keystr(path, simple=True, separator='/')


def map_with_name(f: Callable[..., Any], tree: Tree, *rest: Tree) -> Tree:
  """Maps ``f(name, leaf, *other leaves)`` over trees of one structure.

  Example:
    >>> map_with_name(lambda name, x: f'{name}={x}', {'a': {'b': 1}})
    {'a': {'b': 'a/b=1'}}
  """
  return jax.tree_util.tree_map_with_path(
    lambda path, *leaves: f(path_name(path), *leaves), tree, *rest
  )


def flatten(tree: Tree) -> dict[str, Any]:
  """Returns the leaves of a tree by name, in tree order.

  Example:
    >>> flatten({'a': {'b': 1, 'c': 2}})
    {'a/b': 1, 'a/c': 2}
  """
  leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
  return {path_name(path): leaf for path, leaf in leaves}


def component_of(name: str, components: Mapping[str, str]) -> str:
  """Returns the one component whose regex matches a leaf's name.

  Args:
    name: a leaf's name, ``'vision_tower/...'``.
    components: component -> regex, searched from the start of the name.

  Raises:
    ValueError: if no component or more than one matches: a parameter without
      a component would escape the mask.
  """
  found = [c for c, rule in components.items() if re.match(rule, name)]
  if len(found) != 1:
    raise UserError(
      'Every parameter must belong to exactly one component; '
      f'{name!r} matches {found} of {dict(components)}. Give the component '
      'whose regex should match its name.'
    )
  return found[0]


def by_component(
  choices: Mapping[str, Tree], components: Mapping[str, str]
) -> Tree:
  """Assembles one tree, each leaf from the tree chosen for its component.

  Args:
    choices: component -> tree; all trees of one structure.
    components: component -> regex over leaf names.

  Example:
    >>> by_component({'x': {'a': 1, 'b': 2}, 'y': {'a': 3, 'b': 4}},
    ...              {'x': 'a', 'y': 'b'})
    {'a': 1, 'b': 4}
  """
  names = list(choices)
  return map_with_name(
    lambda name, *leaves: leaves[names.index(component_of(name, components))],
    *choices.values(),
  )


def count(tree: Tree) -> int:
  """Returns the number of entries over all leaves."""
  return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(tree))


def check_same(
  got: Tree, want: Tree, *, got_name: str, want_name: str, shapes: bool = True
) -> None:
  """Raises unless two trees have the same leaves (and shapes).

  It compares structure only, so it works on tracers and abstract shapes and
  raises before anything is compiled.

  Args:
    got: the tree to be checked.
    want: the tree that it must match.
    got_name: name of ``got`` in the message: 'the mask'.
    want_name: name of ``want``: 'the parameters'.
    shapes: whether shapes must agree too.

  Raises:
    ValueError: if they differ; names the first such leaves.
  """
  got_leaves, want_leaves = flatten(got), flatten(want)
  missing = [n for n in want_leaves if n not in got_leaves]
  unexpected = [n for n in got_leaves if n not in want_leaves]
  wrong = [
    f'{n}: {tuple(got_leaves[n].shape)} instead of {tuple(w.shape)}'
    for n, w in want_leaves.items()
    if shapes and n in got_leaves and got_leaves[n].shape != w.shape
  ]
  if missing or unexpected or wrong:
    raise UserError(
      f'{got_name} must have the leaves of {want_name}: '
      f'{_some(missing)} missing, {_some(unexpected)} unexpected, '
      f'{_some(wrong)} of another shape. It was probably made for another '
      'model, or the parameters were wrapped and renamed: make it again '
      'from these parameters.'
    )


def _some(names: list[str], most: int = 3) -> str:
  """Writes a count and the first few names."""
  shown = ', '.join(names[:most]) + (', ...' if len(names) > most else '')
  return f'{len(names)} ({shown})' if names else '0'
