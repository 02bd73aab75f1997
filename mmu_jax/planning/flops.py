"""Floating-point operations of a step, counted in its trace.

Matrix products are counted and nothing else: they are all but a few per cent.
The body of a scan counts as often as it runs, and what a remat policy computes
again is there to be seen: so forward, backward and recomputation are counts of
three traces, not rules of thumb.
"""

from collections.abc import Iterator
import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from mmu_jax import models
from mmu_jax.planning import activations
from mmu_jax.planning import shapes
from mmu_jax.planning.shapes import Rows
from mmu_jax.typing import LossFn


class Flops(NamedTuple):
  """Floating-point operations for one row of a batch.

  Attributes:
    forward: of the loss, with the forward pass of a reference.
    backward: of its gradient.
    again: what the remat policy computes a second time.
  """

  forward: float
  backward: float
  again: float

  @property
  def total(self) -> float:
    """All of them."""
    return self.forward + self.backward + self.again


@functools.lru_cache(maxsize=256)
def of_loss(config: Any, loss: LossFn, length: int, room: int) -> Flops:
  """Counts the operations of a loss and its gradient.

  Args:
    config: of the model.
    loss: of a turn.
    length: L, tokens of a row.
    room: pictures or patches of a row.
  """

  def counts(remat, gradient):
    found = dataclasses.replace(config, remat=remat, attention='xla')
    model = models.build(found)
    params = model.abstract_params
    batch = shapes.batch(model, Rows(activations.ROWS, length, room))
    f = lambda p, ref, b: loss(model.forward, p, ref, b)
    f = jax.value_and_grad(f) if gradient else f
    return count(jax.make_jaxpr(f)(params, params, batch)) / activations.ROWS

  forward = counts('none', False)
  both = counts('none', True)
  again = counts(config.remat, True) - both
  return Flops(forward, both - forward, again)


def count(jaxpr: Any) -> float:
  """Counts the operations of the matrix products in a program.

  Args:
    jaxpr: from ``jax.make_jaxpr``.

  Returns:
    Two for each product and sum.

  Example:
    >>> import jax.numpy as jnp
    >>> x = jnp.ones((2, 3))
    >>> count(jax.make_jaxpr(lambda x: x @ x.T)(x))  # 2 x 2 x 3 x 2
    24.0
  """
  total = 0.0
  for eqn in jaxpr.eqns:
    if eqn.primitive.name == 'dot_general':
      total += _product(eqn)
    times = eqn.params['length'] if eqn.primitive.name == 'scan' else 1
    total += times * sum(map(count, _inner(eqn)))
  return total


def _product(eqn) -> float:
  """Operations of one matrix product."""
  (contracted, _), _ = eqn.params['dimension_numbers']
  left = eqn.invars[0].aval.shape
  depth = np.prod([left[i] for i in contracted], dtype=float)
  return 2.0 * float(np.prod(eqn.outvars[0].aval.shape, dtype=float) * depth)


def _inner(eqn) -> Iterator[Any]:
  """The programs within an operation."""
  for value in eqn.params.values():
    for part in value if isinstance(value, (list, tuple)) else (value,):
      if hasattr(part, 'eqns'):
        yield part
      elif hasattr(part, 'jaxpr') and hasattr(part.jaxpr, 'eqns'):
        yield part.jaxpr
