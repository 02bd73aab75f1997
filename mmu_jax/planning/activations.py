"""Activations that a backward pass keeps, read from a trace of it.

The residuals of ``jax.vjp`` are the leaves of a tree, and ``jax.eval_shape``
gives their shapes without computing anything: so nothing is assumed of layers
or remat policies. The trace has a number of rows, a length, and a number of
counted tokens that no other axis has. They tell which values grow with the
batch, and one trace serves batches of every size.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mmu_jax import models
from mmu_jax import tree as tree_lib
from mmu_jax.models import attention
from mmu_jax.models import MODELS
from mmu_jax.typing import LossFn

ROWS, LENGTH, COUNTED = 1009, 10007, 5003  # prime numbers


class Value(NamedTuple):
  """An array that lives until the backward pass has used it.

  Attributes:
    shape: its sizes, of one row if ``by_row``.
    dtype: its dtype.
    by_row: whether every row of the batch has one.
    layers: depth of the tower or decoder whose layers it holds, the last one
      perhaps excepted; else 1.
    leaf: name of the parameter of which it is a copy in another dtype, or ''.
  """

  shape: tuple[int, ...]
  dtype: Any
  by_row: bool
  layers: int = 1
  leaf: str = ''


@functools.cache
def term_of(loss: LossFn, beside: bool) -> LossFn:
  """Returns a loss of two batches as one of them alone needs it.

  Args:
    loss: loss of a turn that reads a batch beside its own.
    beside: whether it is that other batch.
  """

  def part(forward, params, ref_params, batch):
    other = batch | {'tokens': batch['tokens'] + 0}  # told by its tokens
    first, second = (other, batch) if beside else (batch, other)

    def seen(p, made, **layer):
      if made['tokens'] is batch['tokens']:
        return forward(p, made, **layer)
      out = jax.eval_shape(lambda p: forward(p, made, **layer), p)
      return jnp.zeros(out.shape, out.dtype)  # of no parameter

    terms = loss(seen, params, ref_params, first | {'beside': second})
    return jax.tree.reduce(jnp.add, terms)

  return part


@functools.lru_cache(maxsize=256)
def kept(
  config: Any, loss: LossFn, length: int, room: int, counted: int, remat: str
) -> tuple[Value, ...]:
  """Returns the values that the gradient of a loss needs from its forward pass.

  Args:
    config: config of the model.
    loss: loss of a turn.
    length: L, tokens of a row.
    room: places for pictures in a row.
    counted: K, tokens of a row that count in the loss; 0 for all.
    remat: key of ``layers.REMAT``.

  Returns:
    The values; parameters themselves are not among them.
  """
  # cuDNN is traced on its own devices alone.
  way = 'xla' if config.attention == 'cudnn' else config.attention
  config = dataclasses.replace(config, attention=way, remat=remat)
  model = models.build(config)
  params = tree_lib.flatten(model.abstract_params)
  by_shape = {x.shape: name for name, x in params.items()}
  depths = MODELS[model.family].widths(config)['layers']
  found = (
    _value(x, (length, counted), depths, by_shape)
    for x in _residuals(config, loss, room, bool(counted))
  )
  return tuple(v for v in found if v)


def score_values(
  config: Any, loss: LossFn, length: int, room: int, counted: int
) -> tuple[Value, ...]:
  """Returns the scores of attention, two for each layer while it is computed.

  Scores of all layers never exist together, and cuDNN makes none. The arguments
  are as for ``kept``.
  """
  if config.attention == 'cudnn':
    return ()
  every = kept(config, loss, length, room, counted, 'none')
  made = []
  for v in every:
    exact = v.dtype in (jnp.float32, jnp.float64)
    if v.layers > 1 and exact and v.shape[-1] == 2:
      # The two numbers that backward keeps of each query.
      *heads, queries, _ = v.shape
      way = attention.resolved(config.attention, queries)
      size = attention.block_size(queries) if way == 'blocks' else queries
      shape = (*heads, min(size, queries), queries)
      made += [v._replace(shape=shape)] * 2
  return tuple(made)


def abstract_batch(
  config: Any, rows: int, length: int, room: int, counted: int = 0
) -> Any:
  """Returns the shapes and dtypes of a batch.

  Args:
    config: config of the model.
    rows: B, rows of the whole batch.
    length: L, tokens of a row.
    room: places for pictures in a row.
    counted: K, tokens of a row that count in a loss; 0 for all.
  """
  family = MODELS[models.build(config).family]
  batch = family.abstract_batch(config, rows, length, room)
  if not counted:
    return batch
  return {**batch, 'counted': jax.ShapeDtypeStruct((rows, counted), jnp.int32)}


@functools.lru_cache(maxsize=64)
def _residuals(config, loss, room, some_count) -> list[jax.ShapeDtypeStruct]:
  """Shapes of the residuals for ROWS rows of LENGTH tokens."""
  model = models.build(config)
  params = model.abstract_params

  def residuals(params, ref_params, batch):
    f = lambda p: loss(model.forward, p, ref_params, batch)
    return jax.vjp(f, params)[1]

  batch = abstract_batch(config, ROWS, LENGTH, room, some_count * COUNTED)
  return jax.tree.leaves(jax.eval_shape(residuals, params, params, batch))


def _value(x, sizes, depths, by_shape) -> Value | None:
  """A residual of the wanted sizes; None for a parameter itself."""
  # Plan: put the wanted sizes where LENGTH and COUNTED stand, and take ROWS
  # out. Where no axis has rows it is a parameter, the first layers of one, or a
  # constant.
  fits = lambda n: [
    n // trace * size
    for trace, size in zip((LENGTH, COUNTED), sizes)
    if n and not n % trace
  ]
  of_length = lambda n: next(iter(fits(n)), n)
  at = next((i for i, n in enumerate(x.shape) if n and not n % ROWS), -1)
  shape = tuple(
    of_length(n // ROWS if i == at else n) for i, n in enumerate(x.shape)
  )
  if at >= 0:
    return Value(shape, x.dtype, True, _depth(x.shape, depths) if at else 1)
  if x.shape in by_shape and x.dtype == jnp.float32:
    return None
  first = lambda whole: (
    1 < len(x.shape) == len(whole)
    and whole[1:] == x.shape[1:]
    and whole[0] >= x.shape[0]
  )
  wholes = sorted(filter(first, by_shape), key=lambda s: s != x.shape)
  leaf = by_shape[wholes[0]] if wholes else by_shape.get(x.shape, '')
  return Value(shape, x.dtype, False, 1, leaf)


def _depth(shape, depths) -> int:
  """The layers of the part that a stack is of; 1 for no stack."""
  tower, decoder = depths
  if any(n and not n % LENGTH for n in shape):
    # Its last layer may be computed by itself.
    return decoder if decoder - 1 <= shape[0] <= decoder else 1
  return tower if shape[0] == tower else 1
