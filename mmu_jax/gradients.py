"""Gradients of batches in micro-batches, and sums of their squares.

A loss that is a mean, over tokens or answers, is the sum of the losses of its
micro-batches, each times its share of these tokens or answers. So a batch needs
the memory of one micro-batch and keeps its gradient. A mean of their means
would be another gradient wherever answers differ in length. A loss of several
means returns each of them, and has a measure for each.

The sums of a 7B model are 28 GB, so each step takes over the buffers of the
sums it is given, and returns them where the parameters are.
"""

from collections.abc import Callable, Mapping
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mmu_jax import sharding
from mmu_jax.errors import UserError
from mmu_jax.sharding import Rules
from mmu_jax.typing import Batch
from mmu_jax.typing import Params
from mmu_jax.typing import Terms

BatchLoss = Callable[[Params, Batch], Terms]
Measure = Callable[[Batch], Terms]  # the denominator of a mean, or of each


class Sums(NamedTuple):
  """Running sum of squared gradients, and how many there are.

  Attributes:
    total: sums of squared gradients, float32, a tree like the parameters.
    count: float32 scalar, number of batches or rows.
  """

  total: Params
  count: jax.Array


def value_and_grad(
  loss: BatchLoss,
  params: Params,
  batch: Batch,
  *,
  measure: Measure | None = None,
  parts: int = 1,
  rules: Rules = (),
) -> tuple[Terms, Params]:
  r"""The value and the gradient of a loss, one micro-batch after the other.

  .. math:: L(b) = \sum_k \sum_i \frac{m_k(b_i)}{m_k(b)} L_k(b_i)

  A loss of one term is a scalar, one of several the tuple of its L_k.
  Micro-batch i has the rows i, i + parts, ...: devices hold neighbouring rows,
  so each micro-batch has some of every device and no row moves.

  Args:
    loss: ``loss(params, batch) -> scalar``, or a tuple of them.
    params: tree of arrays at which the gradient is taken.
    batch: tree of arrays ``[B, ...]``; B may differ between two batches in it.
    measure: m, ``measure(batch) -> scalar >= 0``, the denominator of the loss,
      or a tuple with one for each term; a micro-batch without any counts
      nothing. Not used for one part.
    parts: number of micro-batches; divides each B.
    rules: partition rules: gradients go where the parameters are.

  Returns:
    The loss or its terms, and the gradient of their sum: float32 sums, in the
    parameters' dtypes.

  Raises:
    ValueError: if a loss of several parts has no measure, or the rows cannot
      be shared evenly.

  Example:
    >>> measure = lambda x: jnp.sum(x > 0)
    >>> loss = lambda w, x: jnp.sum(w * x) / measure(x)
    >>> w, x = jnp.ones([]), jnp.array([1., 2., 3., 0.])
    >>> value_and_grad(loss, w, x, measure=measure, parts=2)
    (Array(2., dtype=float32), Array(2., dtype=float32))
  """

  def scaled(params, batch, shares):
    terms = loss(params, batch)
    if shares is not None:
      terms = jax.tree.map(jnp.multiply, shares, terms)
    return jax.tree.reduce(jnp.add, terms), terms

  each = jax.value_and_grad(scaled, has_aux=True)
  if parts == 1:
    (_, value), grads = each(params, batch, None)
    return value, sharding.constrain(grads, rules)
  check_micro_batches(measure, parts)
  cut = _split(batch, parts)
  shares = jax.tree.map(_shares, jax.vmap(measure)(cut))

  def add_part(sums, inputs):
    (_, value), grads = each(params, *inputs)
    grads = sharding.constrain(grads, rules)
    # In half precision a sum of many parts would stop growing.
    add = lambda s, x: s + x.astype(jnp.float32)
    return jax.tree.map(add, sums, (value, grads)), None

  zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), params)
  nothing = jax.tree.map(lambda _: jnp.float32(0), shares)
  start = nothing, sharding.constrain(zeros, rules)
  (value, grads), _ = jax.lax.scan(add_part, start, (cut, shares))
  return value, jax.tree.map(lambda g, p: g.astype(p.dtype), grads, params)


def check_micro_batches(
  measure: Measure | None, parts: int, name: str = 'this loss'
) -> None:
  """Raises ValueError unless a loss can be taken in so many micro-batches."""
  if parts < 1:
    raise UserError(f'micro_batches is a number >= 1, got {parts}.')
  if parts > 1 and measure is None:
    raise UserError(
      f'{name} is not a mean over tokens or answers, so splitting a batch '
      f'into {parts} micro-batches would change it. Set micro_batches=1, or '
      "choose a loss that is one: kl_over='answers' for kl_min, "
      "per='answer' for npo."
    )


def abstract_sums(
  params: Params, rules: Rules = (), mesh: jax.sharding.Mesh | None = None
) -> Sums:
  """Returns the shapes of sums, and their places, to restore them into.

  Args:
    params: tree of arrays, or their shapes.
    rules: partition rules; none for no places.
    mesh: None for the mesh that is set, if one is.
  """
  sums = jax.eval_shape(_zeros, params)
  mesh = jax.sharding.get_mesh() if mesh is None else mesh
  if mesh.empty or not rules:
    return sums
  return sharding.placed(sums, rules, mesh)


def zero_sums(params: Params, rules: Rules) -> Sums:
  """Returns sums of nothing, where the parameters are.

  Args:
    params: tree of arrays.
    rules: partition rules, for the mesh that is set.
  """
  if rules and not jax.sharding.get_abstract_mesh().empty:
    return _placed_zeros(params, rules=rules)
  total = jax.tree.map(lambda p: jnp.zeros_like(p, jnp.float32), params)
  return Sums(total, jnp.zeros([], jnp.float32))


@functools.partial(jax.jit, static_argnames='rules')
def _placed_zeros(params: Params, *, rules: Rules) -> Sums:
  """Sums of nothing by the rules: compiled once for a model, not a call."""
  return _placed(*_zeros(params), rules)


@functools.partial(
  jax.jit,
  static_argnums=0,
  static_argnames=('rules', 'parts', 'measure'),
  donate_argnums=1,
)
def add_batch(loss, sums, params, batch, *, rules, parts, measure):
  """Adds the squared gradient of one batch's loss.

  Args:
    loss: ``loss(params, batch) -> scalar``, one object over calls.
    sums: running sums; their buffers are given away.
    params: theta_0.
    batch: tree of arrays ``[B, ...]``.
    rules: a tuple of partition rules of the parameters.
    parts: number of micro-batches, see ``value_and_grad``.
    measure: the denominator of the loss, needed for more than one part.
  """
  _, grads = value_and_grad(
    loss, params, batch, measure=measure, parts=parts, rules=rules
  )
  return _placed(_add_squares(sums.total, grads), sums.count + 1, rules)


@functools.partial(
  jax.jit, static_argnums=0, static_argnames='rules', donate_argnums=1
)
def add_examples(loss, sums, params, batch, *, rules):
  """Adds the squared gradients of every row's own loss, one row at a time.

  Several rows at once would hold a gradient each. On a CPU two, four and eight
  take 1.3 to 2.1 times as long (at 30 M and 1.3 M parameters).

  Args:
    loss: ``loss(params, batch) -> scalar``, one object over calls.
    sums: running sums; their buffers are given away.
    params: theta_0.
    batch: tree of arrays ``[B, ...]``; rows without any weight do not count.
    rules: a tuple of partition rules of the parameters.
  """
  rows = jax.tree.map(lambda x: x[:, None], batch)  # rows of one

  def add_row(sums, row):
    grads = sharding.constrain(jax.grad(loss)(params, row), rules)
    total = _add_squares(sums.total, grads)
    return _placed(total, sums.count + _is_real(row), rules), None

  return jax.lax.scan(add_row, sums, rows)[0]


@functools.partial(jax.jit, static_argnames='rules', donate_argnums=0)
def mean_square(total, count, *, rules):
  """Returns the sums over their count; takes their buffers."""
  mean = jax.tree.map(lambda t: t / jnp.maximum(count, 1), total)
  return sharding.constrain(mean, rules)


def _shares(measures: jax.Array) -> jax.Array:
  """The share ``[parts]`` that each micro-batch has in a mean."""
  measures = measures.astype(jnp.float32)
  total = jnp.sum(measures)
  return measures / jnp.where(total > 0, total, 1)


def _split(batch: Batch, parts: int) -> Batch:
  """Cuts ``[B, ...]`` into ``[parts, B / parts, ...]``: every parts-th row."""

  def cut(x):
    rows, *rest = x.shape
    if rows % parts:
      raise UserError(
        f'micro-batches share the rows of a batch evenly; {rows} rows do '
        f'not make {parts}. Take another number of micro-batches, or pad '
        'the batch with empty rows.'
      )
    x = jnp.swapaxes(x.reshape(rows // parts, parts, *rest), 0, 1)
    return sharding.split_rows(x, axis=1)

  return jax.tree.map(cut, batch)


def _zeros(params: Params) -> Sums:
  """Sums of nothing."""
  zeros = lambda p: jnp.zeros(p.shape, jnp.float32)
  return Sums(jax.tree.map(zeros, params), jnp.zeros([], jnp.float32))


def _placed(total: Params, count: jax.Array, rules: Rules) -> Sums:
  """Sums that come back where they were."""
  return Sums(sharding.constrain(total, rules), sharding.replicate(count))


def _is_real(row: Any) -> jax.Array:
  """1.0 unless the row is padding, that is a Batch without any weight."""
  if isinstance(row, Mapping) and 'weights' in row:
    return jnp.any(row['weights'] > 0).astype(jnp.float32)
  return jnp.float32(1)


def _add_squares(total: Params, grads: Params) -> Params:
  """total + grads^2 in float32: in half precision small squares are 0."""
  return jax.tree.map(
    lambda t, g: t + jnp.square(g.astype(jnp.float32)), total, grads
  )
