"""Sums of squared gradients: what an importance is made of, batch by batch.

The sums of a 7B model are 28 GB, so each step takes the buffers of the sums
that it is given, and what it returns lies where the parameters are.
"""

from collections.abc import Callable, Mapping
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mmu_jax import micro_batches as micro_batches_lib
from mmu_jax import sharding
from mmu_jax.sharding import Rules
from mmu_jax.typing import Batch
from mmu_jax.typing import Params

BatchLoss = Callable[[Params, Batch], jax.Array]  # -> scalar


class Sums(NamedTuple):
  """What an importance is made of, as far as it has come.

  Attributes:
    total: sums of squared gradients, float32, a tree like the parameters.
    count: float32 scalar, over how many batches or rows.
  """

  total: Params
  count: jax.Array


def abstract_sums(
  params: Params, rules: Rules = (), mesh: jax.sharding.Mesh | None = None
) -> Sums:
  """Returns the shapes of sums, and their places, to restore them into.

  Args:
    params: arrays, or their shapes.
    rules: partition rules; none for no places.
    mesh: None for the mesh that is set, if one is.
  """
  sums = jax.eval_shape(_zeros, params)
  mesh = jax.sharding.get_mesh() if mesh is None else mesh
  if mesh.empty or not rules:
    return sums
  return sharding.placed(sums, rules, mesh)


def _zeros(params: Params) -> Sums:
  """Sums of nothing."""
  zeros = lambda p: jnp.zeros(p.shape, jnp.float32)
  return Sums(jax.tree.map(zeros, params), jnp.zeros([], jnp.float32))


def begin(params: Params, rules: Rules) -> Sums:
  """Returns sums of nothing, where the parameters are.

  Args:
    params: a tree of arrays.
    rules: where they are on the mesh that is set.
  """
  shapes = jax.eval_shape(lambda p: p, params)
  places = None
  if not rules or jax.sharding.get_abstract_mesh().empty:
    places = jax.tree.map(lambda p: getattr(p, 'sharding', None), params)
    places = Sums(places, None)
  make = lambda: _placed(*_zeros(shapes), rules)
  return jax.jit(make, out_shardings=places)()


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
    sums: so far; their buffers are given away.
    params: theta_0.
    batch: tree of arrays ``[B, ...]``.
    rules: a tuple of partition rules of the parameters.
    parts: into how many the batch is cut, see ``mmu_jax.micro_batches``.
    measure: of the loss, needed for more than one part.
  """
  _, grads = micro_batches_lib.value_and_grad(
    loss, params, batch, measure=measure, parts=parts, rules=rules
  )
  return _placed(_add_squares(sums.total, grads), sums.count + 1, rules)


@functools.partial(
  jax.jit, static_argnums=0, static_argnames='rules', donate_argnums=1
)
def add_examples(loss, sums, params, batch, *, rules):
  """Adds the squared gradients of every row's own loss, one row at a time.

  Args:
    loss: see ``add_batch``.
    sums: so far; their buffers are given away.
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
def mean(total, count, *, rules):
  """Returns the importance: the sums over their count; takes their buffers."""
  mean = jax.tree.map(lambda t: t / jnp.maximum(count, 1), total)
  return sharding.constrain(mean, rules)


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
