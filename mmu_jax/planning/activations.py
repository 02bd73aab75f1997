"""Activations that a backward pass keeps, read from a trace of it.

The residuals of ``jax.vjp`` are the leaves of a tree, and ``jax.eval_shape``
gives their shapes without computing anything: so nothing is assumed of layers
or remat policies. The trace has a number of rows and a length that no other
axis has. They tell which values grow with the batch, and one trace serves
batches of every size.
"""

from collections.abc import Mapping
import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mmu_jax import models
from mmu_jax import tree as tree_lib
from mmu_jax.models import MODELS
from mmu_jax.typing import LossFn

ROWS, LENGTH = 1009, 10007  # prime numbers


class Value(NamedTuple):
  """An array that lives until the backward pass has used it.

  Attributes:
    shape: its sizes, of one row if ``by_row``.
    itemsize: bytes of an entry.
    half: whether it is a 16-bit float.
    by_row: whether every row of the batch has one.
    kind: 'logits' for what is as wide as the vocabulary, 'layers' for a stack
      of layers, 'weights' for parameters in another dtype, or 'rest'.
    layers: depth of the stack, else 1.
    leaf: name of the parameter that it copies.
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
    """Entries, of one row if ``by_row``."""
    return math.prod(self.shape)


def kept(
  config: Any, loss: LossFn, length: int, room: int, remat: str
) -> tuple[Value, ...]:
  """Returns the values that the gradient of a loss needs from its forward pass.

  Args:
    config: config of the model.
    loss: loss of a turn.
    length: L, tokens of a row.
    room: places for pictures in a row.
    remat: key of ``layers.REMAT``.

  Returns:
    The values; parameters themselves are not among them.
  """
  # cuDNN is traced on its own devices alone; it keeps no scores.
  fused = config.attention != 'xla'
  config = dataclasses.replace(config, attention='xla', remat=remat)
  model = models.build(config)
  params = tree_lib.flatten(model.abstract_params)
  by_shape = {x.shape: name for name, x in params.items()}
  depths = MODELS[model.family].widths(config)['layers']
  vocab = config.text_config.vocab_size
  found = (
    _value(x, length, depths, vocab, by_shape)
    for x in _residuals(config, loss, room)
  )
  return tuple(v for v in found if v and not (fused and _is_score(v)))


@functools.lru_cache(maxsize=64)
def _residuals(
  config: Any, loss: LossFn, room: int
) -> tuple[jax.ShapeDtypeStruct, ...]:
  """Shapes of the residuals for ROWS rows of LENGTH tokens."""
  model = models.build(config)
  params = model.abstract_params
  make = MODELS[model.family].abstract_batch

  def residuals(params, ref_params, batch):
    f = lambda p: loss(model.forward, p, ref_params, batch)
    return jax.vjp(f, params)[1]

  batch = make(config, ROWS, LENGTH, room)
  return tuple(
    jax.tree.leaves(jax.eval_shape(residuals, params, params, batch))
  )


def _value(
  x: jax.ShapeDtypeStruct,
  length: int,
  depths: tuple[int, ...],
  vocab: int,
  by_shape: Mapping[tuple[int, ...], str],
) -> Value | None:
  """A residual of the wanted length; None for a parameter itself."""
  # Plan: a parameter, or a copy of one, has its shape and no rows. Else put
  # the wanted length where LENGTH stands, take ROWS out, and see what is left.
  size, half = x.dtype.itemsize, x.dtype in (jnp.bfloat16, jnp.float16)
  row_axis = next((i for i, n in enumerate(x.shape) if n and not n % ROWS), -1)
  if row_axis < 0:
    leaf = by_shape.get(x.shape) or _sliced(x.shape, by_shape)
    if leaf and x.shape in by_shape and x.dtype == jnp.float32:
      return None
    shape = tuple(_of_length(n, length) for n in x.shape)
    return Value(
      shape, size, half, False, 'weights' if leaf else 'rest', 1, leaf
    )
  rows = (n // ROWS if i == row_axis else n for i, n in enumerate(x.shape))
  shape = tuple(_of_length(n, length) for n in rows)
  stacked = row_axis > 0 and 1 < shape[0] and shape[0] in depths
  kind = 'layers' if stacked else 'rest'
  kind = 'logits' if shape[-1] == vocab else kind
  return Value(shape, size, half, True, kind, shape[0] if stacked else 1)


def _of_length(n: int, length: int) -> int:
  """An axis for rows of the wanted length."""
  return n // LENGTH * length if n and not n % LENGTH else n


def _sliced(shape: tuple[int, ...], by_shape) -> str:
  """The parameter whose first layers have this shape, or ''."""
  fits = lambda whole: (
    1 < len(shape) == len(whole)
    and whole[1:] == shape[1:]
    and whole[0] > shape[0]
  )
  return next((name for whole, name in by_shape.items() if fits(whole)), '')


def _is_score(value: Value) -> bool:
  """Whether a value has an entry for each pair of tokens, in every head."""
  sizes = value.shape[value.layers > 1 :]
  return value.by_row and len(sizes) > 2 and sizes[-2] == sizes[-1] > 1
