"""Gradients of a batch that is cut into parts, one after the other.

A loss that is a mean, over tokens or answers, is the sum of the losses of its
parts, each by its share of what the mean is over. So the parts need the memory
of one, and give what the whole batch gives; a mean of their means would not,
where answers differ in length.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from mmu_jax import sharding
from mmu_jax.errors import UserError
from mmu_jax.sharding import Rules
from mmu_jax.typing import Batch
from mmu_jax.typing import Params
from mmu_jax.typing import Scalar

Measure = Callable[[Batch], Scalar]  # what the mean of a loss is over


def split(batch: Batch, parts: int) -> Batch:
  """Cuts a batch; part m has the rows m, m + parts, ...

  So where devices hold rows that follow each other, every part has some of
  each device, and no row moves.

  Args:
    batch: tree of arrays ``[B, ...]``.
    parts: M >= 1, divides B.

  Returns:
    A tree of arrays ``[M, B / M, ...]``.

  Raises:
    ValueError: if the rows cannot be shared evenly.

  Example:
    >>> split({'x': jnp.arange(6)}, 2)['x'].tolist()
    [[0, 2, 4], [1, 3, 5]]
  """

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


def value_and_grad(
  loss: Callable[[Params, Batch], Scalar],
  params: Params,
  batch: Batch,
  *,
  measure: Measure | None = None,
  parts: int = 1,
  rules: Rules = (),
) -> tuple[Scalar, Params]:
  r"""The value and the gradient of a loss, from the parts of its batch.

  .. math:: L(b) = \sum_i \frac{m(b_i)}{m(b)} L(b_i)

  Args:
    loss: ``loss(params, batch) -> scalar``.
    params: where the gradient is taken.
    batch: tree of arrays ``[B, ...]``.
    measure: m, ``measure(batch) -> scalar >= 0``, the denominator of the loss;
      a part without any counts nothing. Not used for one part.
    parts: how many, M; divides B.
    rules: partition rules: gradients go where the parameters are.

  Returns:
    The loss, and its gradient: float32 sums, of the parameters' dtypes.

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
  each = jax.value_and_grad(loss)
  if parts == 1:
    value, grads = each(params, batch)
    return value, sharding.constrain(grads, rules)
  check(measure, parts)
  cut = split(batch, parts)
  measures = jax.vmap(measure)(cut).astype(jnp.float32)  # [M]
  total = jnp.sum(measures)
  shares = measures / jnp.where(total > 0, total, 1)

  def body(sums, inputs):
    part, share = inputs
    value, grads = each(params, part)
    grads = sharding.constrain(grads, rules)
    shared = lambda s, x: s + share * x.astype(jnp.float32)
    return jax.tree.map(shared, sums, (value, grads)), None

  zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), params)
  start = jnp.float32(0), sharding.constrain(zeros, rules)
  (value, grads), _ = jax.lax.scan(body, start, (cut, shares))
  return value, jax.tree.map(lambda g, p: g.astype(p.dtype), grads, params)


def check(measure: Measure | None, parts: int, name: str = 'this loss') -> None:
  """Raises ValueError unless a loss can be taken in so many parts."""
  if parts < 1:
    raise UserError(f'micro_batches is a number >= 1, got {parts}.')
  if parts > 1 and measure is None:
    raise UserError(
      f'{name} is no mean over tokens or answers, so that of '
      f'{parts} micro-batches is not that of their batch. Set '
      'micro_batches=1, or choose a loss that has a measure: kl_over='
      "'answers' for kl_min, per='answer' for npo."
    )
