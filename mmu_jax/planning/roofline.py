"""Compute against communication: seconds of a step with both at their best.

Matrix products are counted in the trace of a gradient, including those that a
remat policy computes again. A ring of n devices moves (n - 1) / n of the bytes
that are gathered or scattered, and twice as much of those that are summed:

  fsdp    weights, gathered for forward and again for backward; gradients,
          scattered
  data    gradients, summed, of the part that a device holds
  tensor  inputs of layers, summed twice in each, forward and backward
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import numpy as np

from mmu_jax import models
from mmu_jax.planning import activations
from mmu_jax.planning.memory import Program
from mmu_jax.planning.memory import Setting
from mmu_jax.typing import LossFn

GIB = 2**30
ROWS = 2  # of the trace that is counted


class Chip(NamedTuple):
  """One accelerator, as its vendor publishes it."""

  flops: float  # bfloat16 operations a second, dense
  hbm: int  # bytes of memory
  link: float  # bytes a second to its neighbours
  domain: int = 0  # devices that these links join; 0 for a whole pod
  network: float = 0.0  # bytes a second of its own adapter, beyond them


# TPU: https://cloud.google.com/tpu/docs/system-architecture-tpu-vm. GPU: data
# sheets of NVIDIA's SXM modules, and the adapters of DGX systems.
CHIPS = {
  'v4': Chip(275e12, 32 * GIB, 300e9),
  'v5e': Chip(197e12, 16 * GIB, 200e9),
  'v5p': Chip(459e12, 95 * GIB, 600e9),
  'v6e': Chip(918e12, 32 * GIB, 400e9),
  'a100': Chip(312e12, 80 * GIB, 300e9, 8, 25e9),
  'h100': Chip(989e12, 80 * GIB, 450e9, 8, 50e9),
  'h200': Chip(989e12, 141 * GIB, 450e9, 8, 50e9),
}


class StepTime(NamedTuple):
  """A training step on one device: operations, bytes moved, seconds of both."""

  flops: float
  moved: float
  compute: float
  move: float


def step_time(program: Program, on: Setting, chip: str) -> StepTime:
  """Returns how long a training step computes and moves, each at its best.

  Args:
    program: program with a turn.
    on: model and mesh; 'tensor' lies within nodes first.
    chip: key of ``CHIPS``.
  """
  # Plan: bytes over each axis, the operations of the local rows, then both by
  # the chip's figures.
  turn, backward, config = program.turn, program.backward, on.model.config
  spec, (data, fsdp, tensor) = CHIPS[chip], on.mesh.shape.values()
  width = np.dtype(config.dtype).itemsize
  ring = lambda n: (n - 1) / n
  split = sums = whole = mine = entries = flops = 0.0
  for leaf in on.leaves.values():
    size = leaf.size / leaf.tensor
    parts = size / leaf.local
    split += ring(parts) * size * width
    copies = data * (1 if parts > 1 else fsdp)
    sums += 2 * ring(copies) * leaf.local * width
    if leaf.is_matrix:
      whole, mine = whole + leaf.size, mine + size
  passes = on.micro_batches * len(backward)
  for loss, batch in backward:
    count = on.micro_batches * on.local_rows(batch)
    rows = batch.rows
    shape = config, loss, rows.length, rows.room, rows.counted
    flops += row_flops(*shape) * count * mine / whole
    if mine < whole:
      kept = activations.kept(*shape, 'full')
      stacks = [v for v in kept if v.layers > 1]
      one = lambda v: math.prod(v.shape) // v.shape[0]  # its last may be apart
      entries += count * sum(v.layers * one(v) for v in stacks)
  again = 5 if config.remat == 'full' else 4
  gathers = on.micro_batches * (3 * len(backward) + turn.needs_reference)
  # Without the axis data, norms are summed, over fsdp.
  beside = tensor * fsdp if data > 1 else tensor
  moved = [
    (_speed(spec, tensor * fsdp, tensor), split * gathers),
    (_speed(spec, on.mesh.size, beside), sums * passes),
    (_speed(spec, tensor, 1), 2 * ring(tensor) * again * entries * width),
  ]
  move = sum(size / speed for speed, size in moved)
  return StepTime(flops, sum(n for _, n in moved), flops / spec.flops, move)


def _speed(chip: Chip, devices: int, beside: int) -> float:
  """Bytes a second on a ring, beside which other devices have theirs."""
  if not chip.domain or devices <= chip.domain:
    return chip.link
  # It leaves a node by all adapters, shared with the other rings.
  rings = min(beside, chip.domain)
  return min(chip.link, chip.network * chip.domain / rings)


@functools.lru_cache(maxsize=64)
def row_flops(
  config: Any, loss: LossFn, length: int, room: int, counted: int = 0
) -> float:
  """Returns operations of a loss and its gradient for one row of a batch.

  The arguments are as for ``activations.kept``.
  """
  model = models.build(config)
  params = model.abstract_params
  f = jax.grad(lambda p, ref, batch: loss(model.forward, p, ref, batch))
  batch = activations.abstract_batch(config, ROWS, length, room, counted)
  return count_flops(jax.make_jaxpr(f)(params, params, batch)) / ROWS


def count_flops(jaxpr: Any) -> float:
  """Returns the operations of the matrix products in a program.

  Example:
    >>> x = np.ones((2, 3))
    >>> count_flops(jax.make_jaxpr(lambda x: x @ x.T)(x))  # 2 x 2 x 3 x 2
    24.0
  """
  total = 0.0
  for eqn in jaxpr.eqns:
    if eqn.primitive.name == 'dot_general':
      (axes, _), _ = eqn.params['dimension_numbers']
      depth = math.prod(eqn.invars[0].aval.shape[i] for i in axes)
      total += 2.0 * depth * math.prod(eqn.outvars[0].aval.shape)
    times = eqn.params['length'] if eqn.primitive.name == 'scan' else 1
    inner = jax.tree.leaves(list(eqn.params.values()))
    parts = (getattr(part, 'jaxpr', part) for part in inner)
    total += times * sum(count_flops(p) for p in parts if hasattr(p, 'eqns'))
  return total
