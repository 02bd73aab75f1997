"""Trees of a run that trains weights, or adapters of them, as shapes."""

import functools
from typing import Any, NamedTuple

import jax

from mmu_jax import lora as lora_lib
from mmu_jax import tree as tree_lib
from mmu_jax.models import Model


class Trees(NamedTuple):
  """Shapes of a run.

  Attributes:
    base: parameters that a step reads, in their dtype.
    merged: leaves whose gradient a step takes; all without adapters.
    trained: tree that a step changes.
  """

  base: Any
  merged: Any
  trained: Any


@functools.lru_cache(maxsize=64)
def trees(
  model: Model, lora: lora_lib.Lora | None, kinds: tuple[str, ...]
) -> Trees:
  """Returns the shapes of a run on a model.

  Args:
    model: the model.
    lora: adapters of the run; None for whole weights.
    kinds: kinds of change of the adapters.
  """
  params = model.abstract_params
  if lora is None:
    return Trees(params, params, params)
  base = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, lora.dtype), params
  )
  leaves = tree_lib.flatten(base)
  make = lambda key: lora_lib.new_adapters(key, params, lora, kinds)
  changed = (*lora.targets, *lora.whole)
  trained = jax.eval_shape(make, jax.random.key(0))
  return Trees(base, {name: leaves[name] for name in changed}, trained)
