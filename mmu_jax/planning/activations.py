"""What a backward pass keeps of the forward pass, from its trace.

JAX says it itself: the residuals of ``jax.vjp`` are the leaves of a tree, and
``jax.eval_shape`` gives their shapes without computing anything. So what each
remat policy keeps is read, not modelled. The batch is traced with a number of
rows that no other axis has, which tells values that grow with the rows.
"""

from collections.abc import Mapping
import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mmu_jax import models
from mmu_jax import tree as tree_lib
from mmu_jax.planning import shapes
from mmu_jax.planning.shapes import Rows
from mmu_jax.typing import LossFn

ROWS = 1009  # a prime number that is the size of no other axis


class Value(NamedTuple):
  """An array that lives until the backward pass has used it.

  Attributes:
    shape: for one row if ``by_row``, without the axis of the rows.
    itemsize: bytes of an entry.
    half: whether it is a 16-bit float.
    by_row: whether there is one for every row.
    kind: 'logits' of the vocabulary's size, 'layers' of a stack of layers,
      'weights' for a copy of parameters in another dtype, or 'rest'.
    layers: the leading axis of a stack, else 1.
    leaf: the parameter that it is a copy of.
  """

  shape: tuple[int, ...]
  itemsize: int
  half: bool
  by_row: bool
  kind: str
  layers: int = 1
  leaf: str = ''

  @property
  def size(self) -> int:
    """Entries."""
    return int(np.prod(self.shape))


@functools.lru_cache(maxsize=256)
def kept(
  config: Any, loss: LossFn, length: int, room: int, remat: str
) -> tuple[Value, ...]:
  """Returns what the backward pass of a loss needs of the forward pass.

  Args:
    config: of the model.
    loss: of a turn.
    length: L, tokens of a row.
    room: pictures or patches of a row.
    remat: a key of ``layers.REMAT``.

  Returns:
    The values; parameters themselves are not among them.
  """
  config = dataclasses.replace(config, remat=remat)
  fused = config.attention != 'xla'
  if fused:  # cuDNN is traced on its devices alone; it keeps no scores
    config = dataclasses.replace(config, attention='xla')
  model = models.build(config)
  params = model.abstract_params
  batch = shapes.batch(model, Rows(ROWS, length, room))

  def residuals(params, ref_params, batch):
    f = lambda p: loss(model.forward, p, ref_params, batch)
    return jax.vjp(f, params)[1]

  found = jax.eval_shape(residuals, params, params, batch)
  by_shape = {x.shape: n for n, x in tree_lib.flatten(params).items()}
  values = [_value(x, config, by_shape) for x in jax.tree.leaves(found)]
  squares = {(length, length), (config_patches(config, room),) * 2}
  return tuple(
    v
    for v in values
    if v is not None and not (fused and _is_square(v, squares))
  )


def config_patches(config: Any, room: int) -> int:
  """Patches that see each other in the vision tower."""
  if isinstance(config, models.LlavaConfig):
    return config.vision_config.num_patches + 1
  return room


def _is_square(value: Value, squares: set[tuple[int, int]]) -> bool:
  """Whether a value has an entry for each pair of tokens."""
  sizes = [n for n in value.shape[value.layers > 1 :] if n > 1]
  return any(sizes.count(n) >= 2 for n, _ in squares)


def _value(
  x: jax.ShapeDtypeStruct, config: Any, by_shape: Mapping[tuple, str]
) -> Value | None:
  """Says what a residual is; None for a parameter itself."""
  half = jnp.issubdtype(x.dtype, jnp.floating) and x.dtype.itemsize == 2
  axis = next((i for i, n in enumerate(x.shape) if n % ROWS == 0 and n), None)
  if axis is not None:
    rest = x.shape[axis] // ROWS
    shape = (*x.shape[:axis], rest, *x.shape[axis + 1 :])
    layers = shape[0] if axis > 0 and shape[0] in _depths(config) else 1
    kind = 'layers' if layers > 1 else 'rest'
    if shape[-1] == config.text_config.vocab_size:
      kind = 'logits'
    return Value(shape, x.dtype.itemsize, half, True, kind, layers)
  if x.shape in by_shape and x.dtype == jnp.float32:
    return None
  leaf = by_shape.get(x.shape) or _sliced(x.shape, by_shape)
  kind = 'weights' if leaf else 'rest'
  return Value(x.shape, x.dtype.itemsize, half, False, kind, 1, leaf or '')


def _sliced(shape: tuple[int, ...], by_shape: Mapping[tuple, str]) -> str:
  """The parameter whose first layers have this shape."""
  found = (
    name
    for whole, name in by_shape.items()
    if len(shape) > 1
    and whole[1:] == shape[1:]
    and len(whole) == len(shape)
    and whole[0] > shape[0]
  )
  return next(found, '')


def _depths(config: Any) -> set[int]:
  """How many layers the stacks of a model run."""
  vision = config.vision_config
  seen = (
    config.num_vision_layers
    if isinstance(config, models.LlavaConfig)
    else vision.depth
  )
  return {seen, config.text_config.num_hidden_layers} - {1}
