"""Compute against communication: seconds of a step with both at their best.

Matrix products are counted in the trace of a gradient, those that a remat
policy computes again too. A ring of n devices moves (n - 1) / n of the bytes
that are gathered or scattered, and twice that of those that are summed:

  fsdp    weights, gathered for forward and again for backward; gradients,
          scattered
  data    gradients, summed, of the part that a device holds
  tensor  inputs of layers, summed twice in each, forward and backward
"""

from collections.abc import Iterator
import functools
import math
from typing import Any, NamedTuple

import jax
import numpy as np

from mmu_jax import models
from mmu_jax.models import Model
from mmu_jax.models import MODELS
from mmu_jax.planning import activations
from mmu_jax.planning import memory
from mmu_jax.planning.memory import Machine
from mmu_jax.planning.memory import Program
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


class Step(NamedTuple):
  """A training step on one device: operations, bytes moved, seconds of both."""

  flops: float
  moved: float
  compute: float
  move: float


def step(program: Program, model: Model, machine: Machine, chip: str) -> Step:
  """Returns how long a training step computes and moves, each at its best.

  Args:
    program: program with a turn.
    model: model that is trained.
    machine: mesh and micro-batches; 'tensor' lies within nodes first.
    chip: key of ``CHIPS``.
  """
  # Plan: bytes over each axis, the operations of the local rows, then both by
  # the chip's figures.
  turn, rows, sizes = program.turn, program.rows, machine.mesh.shape
  micro, spec = machine.micro_batches, CHIPS[chip]
  width = np.dtype(model.config.dtype).itemsize
  ring = lambda n: (n - 1) / n
  split = sums = whole = mine = 0.0
  for leaf in memory.leaves(model, machine.mesh).values():
    size = leaf.size / leaf.tensor
    fsdp = size / leaf.local
    split += ring(fsdp) * size * width
    copies = sizes['data'] * (1 if fsdp > 1 else sizes['fsdp'])
    sums += 2 * ring(copies) * leaf.local * width
    if leaf.is_matrix:
      whole, mine = whole + leaf.size, mine + size
  backward = 1 + bool(turn.project)
  forward = backward + turn.needs_reference
  count = memory.local_rows(rows, machine) * micro * backward
  entries = 0
  if mine < whole:
    inputs = activations.kept(
      model.config, turn.loss, rows.length, rows.room, 'full'
    )
    entries = count * sum(v.size for v in inputs if v.kind == 'layers')
  again = 5 if model.config.remat == 'full' else 4
  tensor, within = sizes['tensor'], sizes['tensor'] * sizes['fsdp']
  # Without the axis data, norms are summed, over fsdp.
  beside = within if sizes['data'] > 1 else tensor
  moved = [
    (_speed(spec, within, tensor), split * micro * (forward + 2 * backward)),
    (_speed(spec, machine.mesh.size, beside), sums * micro * backward),
    (_speed(spec, tensor, 1), 2 * ring(tensor) * again * entries * width),
  ]
  flops = row_flops(model.config, turn.loss, rows.length, rows.room)
  flops *= count * mine / whole
  return Step(
    flops,
    sum(size for _, size in moved),
    flops / spec.flops,
    sum(size / speed for speed, size in moved),
  )


def _speed(chip: Chip, devices: int, beside: int) -> float:
  """Bytes a second on a ring, which leaves a node by all its adapters, shared
  with the rings of the devices beside it."""
  if not chip.domain or devices <= chip.domain:
    return chip.link
  rings = min(beside, chip.domain)
  return min(chip.link, chip.network * chip.domain / rings)


@functools.lru_cache(maxsize=64)
def row_flops(config: Any, loss: LossFn, length: int, room: int) -> float:
  """Returns operations of a loss and its gradient for one row of a batch."""
  model = models.build(config)
  params = model.abstract_params
  make = MODELS[model.family].abstract_batch
  f = jax.grad(lambda p, ref, batch: loss(model.forward, p, ref, batch))
  batch = make(config, ROWS, length, room)
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
    total += times * sum(map(count_flops, _inner(eqn)))
  return total


def _inner(eqn) -> Iterator[Any]:
  """The programs within an operation."""
  for value in eqn.params.values():
    for part in value if isinstance(value, (list, tuple)) else (value,):
      part = getattr(part, 'jaxpr', part)
      if hasattr(part, 'eqns'):
        yield part
