"""The bytes that a step moves between devices, by kind of collective.

A ring moves (n - 1) / n of what is gathered or scattered, and twice that of
what is summed everywhere. So of W bytes of weights, split n ways by fsdp:

  gather   W (n - 1) / n in forward, and again in backward
  scatter  the same, of the gradients
  sum      2 (d - 1) / d of a device's part, over the axis data; and of norms
           and biases, which every device holds whole
  tensor   2 (t - 1) / t of [rows, L, D] twice in every layer, forward,
           backward, and once when it is computed again

Weights move in the dtype of the computation, gradients too. Small things are
left out: the logits' maxima and sums, losses, the tokens of the embedding.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.sharding import AbstractMesh

from mmu_jax import tree as tree_lib
from mmu_jax.methods import Turn
from mmu_jax.models import Model
from mmu_jax.planning import activations
from mmu_jax.planning import chips
from mmu_jax.planning import flops as flops_lib
from mmu_jax.planning import layout
from mmu_jax.planning.memory import local_rows
from mmu_jax.planning.memory import Setting
from mmu_jax.planning.shapes import Rows

EQUAL = 0.1  # times that differ by less are not told apart


class Traffic(NamedTuple):
  """What one device moves in one step, and what it computes.

  Attributes:
    gather_forward: bytes of weights, all-gather.
    gather_backward: the same again.
    scatter: bytes of gradients, reduce-scatter.
    sums: bytes of gradients, all-reduce over data (and of what is copied).
    tensor: bytes of activations, all-reduce within layers.
    flops: operations of the device.
  """

  gather_forward: float
  gather_backward: float
  scatter: float
  sums: float
  tensor: float
  flops: float

  @property
  def moved(self) -> float:
    """Bytes in all."""
    return sum(self[:5])

  @property
  def intensity(self) -> float:
    """Operations for each byte that is moved; inf for one device."""
    return self.flops / self.moved if self.moved else float('inf')


class Times(NamedTuple):
  """Seconds of a step at the vendor's figures, if nothing else counted.

  Attributes:
    compute: of the operations.
    move: of the collectives.
  """

  compute: float
  move: float

  @property
  def bound(self) -> str:
    """What takes longer: 'compute', 'communication', or 'equal' within 10 %."""
    if abs(self.move - self.compute) <= EQUAL * max(self):
      return 'equal'
    return 'communication' if self.move > self.compute else 'compute'


def of_turn(model: Model, turn: Turn, rows: Rows, setting: Setting) -> Traffic:
  """Returns what a turn moves and computes on one device.

  Args:
    model: what is trained.
    turn: of a method.
    rows: of the whole batch.
    setting: mesh and micro-batches.
  """
  on, micro = setting.mesh, setting.micro_batches
  width = jnp.dtype(model.config.dtype).itemsize
  parts = {axis: on.shape[axis] for axis in on.axis_names}
  ring = lambda n: (n - 1) / n
  split = sums = 0.0  # bytes that move once for each use
  for leaf in layout.leaves(model, on).values():
    size = leaf.size / leaf.tensor * width
    if leaf.fsdp > 1:
      split += size * ring(leaf.fsdp)
      sums += 2 * ring(parts['data']) * size / leaf.fsdp
    else:
      sums += 2 * ring(parts['data'] * parts['fsdp']) * size
  passes = (2 if turn.needs_reference else 1) + (1 if turn.project else 0)
  backward = 2 if turn.project else 1
  found = flops_lib.of_loss(model.config, turn.loss, rows.length, rows.room)
  count = local_rows(rows, setting) * micro
  return Traffic(
    gather_forward=split * micro * passes,
    gather_backward=split * micro * backward,
    scatter=split * micro * backward,
    sums=sums * micro * backward,
    tensor=_tensor(model, rows, count, on) * backward,
    flops=found.total * backward * count * _computed(model, on),
  )


def times(traffic: Traffic, chip: chips.Chip, on: AbstractMesh) -> Times:
  """Returns how long a step computes and moves, each at its best.

  Each collective runs over the ring of its axis; rings of more devices than a
  node has go over the network, side by side where an axis within them is.

  Args:
    traffic: of a turn.
    chip: of ``chips.CHIPS``.
    on: the mesh, whose axis tensor is within nodes first, then fsdp.
  """
  tensor = on.shape['tensor']
  fsdp = tensor * on.shape['fsdp']
  over_fsdp = sum(traffic[:3]) / chips.speed(chip, fsdp, tensor)
  # Without the axis data, what is summed are norms, over fsdp.
  beside = fsdp if on.shape['data'] > 1 else tensor
  over_data = traffic.sums / chips.speed(chip, on.size, beside)
  over_tensor = traffic.tensor / chips.speed(chip, tensor)
  return Times(traffic.flops / chip.flops, over_fsdp + over_data + over_tensor)


def _computed(model: Model, on: AbstractMesh) -> float:
  """The share of the operations that a device of the axis tensor does."""
  whole = split = 0
  for name, leaf in layout.leaves(model, on).items():
    if leaf.is_matrix and not name.endswith('embedding'):
      whole += leaf.size
      split += leaf.size / leaf.tensor
  return split / whole


def _tensor(model: Model, rows: Rows, count: int, on: AbstractMesh) -> float:
  """Bytes of activations that are summed over the axis tensor."""
  parts = on.shape['tensor']
  if parts == 1:
    return 0.0
  config: Any = model.config
  width = jnp.dtype(config.dtype).itemsize
  text = config.text_config
  seen, read = (_halves(model, on, sees) for sees in (True, False))
  token = text.hidden_size * rows.length * text.num_hidden_layers * read / 2
  if rows.room:
    token += _vision(model, rows.room) * seen / 2
  times = 5 if config.remat == 'full' else 4
  return 2 * (parts - 1) / parts * times * token * width * count


def _halves(model: Model, on: AbstractMesh, sees: bool) -> int:
  """How many of the two halves of a layer, attention and MLP, are split."""
  halves = {
    name.removeprefix(leaf.stack).split('/')[1]
    for name, leaf in layout.leaves(model, on).items()
    if leaf.stack
    and leaf.is_matrix
    and leaf.tensor > 1
    and sees == (tree_lib.component_of(name, model.components) == 'vision')
  }
  return len(halves)


def _vision(model: Model, room: int) -> int:
  """Entries of all layers of the tower, for a row."""
  vision = model.config.vision_config
  if hasattr(vision, 'num_hidden_layers'):
    patches = activations.config_patches(model.config, room) * room
    layers = model.config.num_vision_layers
    return vision.hidden_size * patches * layers
  return vision.embed_dim * room * vision.depth
