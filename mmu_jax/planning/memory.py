"""Memory that one program needs on one device, item by item.

A program holds arguments (parameters, moments, mask, reference, batch) and
temporaries. Donated arguments come out in their own place, so the peak is
arguments + temporaries. Arguments are exact. Temporaries are those of the
largest phase:

  head       activations kept for backward, logits and their gradient, the
             output layer and its whole gradient
  layers     activations kept for backward, all gradients, and one layer at
             work: its gathered weights, values computed again, gradients in
             flight
  optimizer  gradients, and the updates made of them
"""

from collections.abc import Callable, Mapping
import functools
import math
from typing import Any, NamedTuple

import jax
from jax.sharding import AbstractMesh
import numpy as np

from mmu_jax import masks
from mmu_jax import sharding
from mmu_jax import tree as tree_lib
from mmu_jax.methods import descend
from mmu_jax.methods import Turn
from mmu_jax.models import Model
from mmu_jax.models import MODELS
from mmu_jax.planning import activations

UNREAD = 'parameters that see'  # held, and no argument of rows in text


class Rows(NamedTuple):
  """Rows of a batch: how many in all, tokens of each, room for pictures."""

  count: int
  length: int
  room: int


class Program(NamedTuple):
  """One program of a job.

  Attributes:
    stage: 'base', 'vanilla', 'retrained', 'importance', 'mask', 'evaluate', or
      the name of a run.
    step: split, set of rows, or way of asking.
    rows: rows of the whole batch; 0 for a mask.
    turn: turn of a method, for training.
    tx: optimizer, for training.
    mask: whether the run holds a mask, though this turn may not use it.
    reference: whether the run holds a reference, as with the mask.
    count: importances that a mask is made of, or new tokens of an answer.
  """

  stage: str
  step: str
  rows: Rows
  turn: Turn | None = None
  tx: Any = None
  mask: bool = False
  reference: bool = False
  count: int = 0

  @property
  def has_gradient(self) -> bool:
    """Whether it takes a gradient, and so is cut into micro-batches."""
    return self.turn is not None or self.stage == 'importance'


class Machine(NamedTuple):
  """Devices, and how a program uses them.

  Attributes:
    mesh: mesh whose devices need not exist.
    micro_batches: parts of a batch, one after the other.
    offload: trees that wait on the host, ('reference',) or ().
    simulated: whether XLA compiles for CPUs, where it computes with float32
      instead of bfloat16, and sums whole gradients before it cuts them.
  """

  mesh: AbstractMesh
  micro_batches: int = 1
  offload: tuple[str, ...] = ()
  simulated: bool = False


class Need(NamedTuple):
  """Bytes that a program needs on one device.

  Attributes:
    held: item -> bytes that stay: arguments, and what else the stage keeps.
    phases: phase -> item -> bytes of temporaries.
  """

  held: Mapping[str, int]
  phases: Mapping[str, Mapping[str, int]]

  @property
  def arguments(self) -> int:
    """Bytes of the arguments of a run that holds nothing else."""
    return sum(n for name, n in self.held.items() if name != UNREAD)

  @property
  def largest(self) -> Mapping[str, int]:
    """Temporaries of the phase that needs most."""
    return max(self.phases.values(), key=lambda items: sum(items.values()))

  @property
  def peak(self) -> int:
    """Bytes in all."""
    return sum(self.held.values()) + sum(self.largest.values())


class Leaf(NamedTuple):
  """A parameter on a mesh: entries in all, of one device, and at work there."""

  size: int
  local: int
  gathered: int  # one layer, whole but for the axis tensor
  tensor: int  # parts over this axis
  stack: str
  is_matrix: bool  # no norm and no bias


@functools.lru_cache(maxsize=256)
def make_mesh(data: int = 1, fsdp: int = 1, tensor: int = 1) -> AbstractMesh:
  """Returns a mesh of devices that need not exist.

  Example:
    >>> make_mesh(data=2, fsdp=512).size
    1024
  """
  return AbstractMesh((data, fsdp, tensor), sharding.AXES)


def mesh_line(mesh: AbstractMesh) -> str:
  """Returns a mesh as a config has it.

  Example:
    >>> mesh_line(make_mesh(fsdp=8))
    'fsdp=8'
  """
  sizes = [f'{name}={n}' for name, n in mesh.shape.items() if n > 1]
  return ','.join(sizes) or 'data=1'


@functools.lru_cache(maxsize=512)
def leaves(model: Model, mesh: AbstractMesh) -> Mapping[str, Leaf]:
  """Returns the parameters of a model on a mesh, by name."""
  found = tree_lib.flatten(model.abstract_params).items()
  return {name: _leaf(name, x.shape, model, mesh) for name, x in found}


def _leaf(name, shape, model, mesh) -> Leaf:
  """A leaf of the parameters, or of a tree with their names."""
  spec = sharding.spec_of(name, shape, model.partition_rules, mesh)
  split = {part: mesh.shape[part] for part in jax.tree.leaves(tuple(spec))}
  words, tensor = name.split('/'), split.get('tensor', 1)
  at = [i for i, word in enumerate(words) if word in tree_lib.STACKS]
  stack = '/'.join(words[: at[0] + 1]) if at else ''
  size, layers = math.prod(shape), shape[0] if stack else 1
  return Leaf(
    size,
    size // math.prod(split.values()),
    size // (layers * tensor),
    tensor,
    stack,
    len(shape) - bool(stack) > 1,
  )


def tree_bytes(tree: Any, model: Model, mesh: AbstractMesh) -> int:
  """Returns bytes on one device of a tree with the names of the parameters.

  Args:
    tree: arrays or shapes: parameters, an optimizer state, a packed mask.
    model: its partition rules say where leaves go.
    mesh: mesh of all devices.
  """
  return sum(
    _leaf(name, x.shape, model, mesh).local * x.dtype.itemsize
    for name, x in tree_lib.flatten(tree).items()
  )


@functools.lru_cache(maxsize=4096)
def need(program: Program, model: Model, machine: Machine) -> Need:
  """Returns the memory that a program needs on one device.

  Args:
    program: program of a job.
    model: model with its dtype and remat policy.
    machine: devices and levers.
  """
  if program.turn is not None:
    return _turn(program, model, machine)
  if program.stage == 'importance':
    return _importance(program, model, machine)
  if program.stage == 'mask':
    return _mask(program, model, machine)
  return _answers(program, model, machine)


def _turn(program, model, machine) -> Need:
  """One turn of training."""
  turn = program.turn
  own = lambda tree: tree_bytes(tree, model, machine.mesh)
  grads = own(model.abstract_params)
  held = {'parameters': grads, 'moments': own(shapes(program.tx.init, model))}
  if turn.masked or program.mask:
    held['mask'] = own(shapes(packed_mask, model))
  waits = 'reference' in machine.offload
  if (turn.needs_reference or program.reference) and not waits:
    held['reference'] = grads
  batches = 2 if turn.project else 1
  held['batch'] = batches * batch_bytes(model, program.rows, machine)
  phases = _gradient(model, turn.loss, program.rows, machine)
  if turn.project:  # neither of the two backward passes waits for the other
    other = _gradient(model, descend, program.rows, machine)
    for name, items in phases.items():
      items['activations'] += other[name]['activations']
      items['gradients'] += grads
  if turn.needs_reference and waits:
    phases['head']['reference'] = grads
  phases['optimizer'] = {'gradients': (batches + 1) * grads}
  return Need(held, phases)


def _importance(program, model, machine) -> Need:
  """A batch of an importance, whose sums are float32."""
  own = tree_bytes(model.abstract_params, model, machine.mesh)
  unread = _unread(model, program.rows, machine)
  sums = sum(leaf.local for leaf in leaves(model, machine.mesh).values()) * 4
  held = {
    'parameters': own - unread,
    UNREAD: unread,
    'importances': sums,
    'batch': batch_bytes(model, program.rows, machine),
  }
  return Need(held, _gradient(model, descend, program.rows, machine))


def _mask(program, model, machine) -> Need:
  """Making a mask from importances that are read leaf by leaf."""
  sizes = [leaf.local for leaf in leaves(model, machine.mesh).values()]
  made = {
    'ties and mask': 2 * sum(sizes),  # bool
    # Its importances, the same normalised, and their ratio.
    'one leaf at work': 4 * max(sizes) * (2 * program.count + 1),
  }
  return Need({}, {'mask': made})


def _answers(program, model, machine) -> Need:
  """Decoding prompts with a cache, or scoring given answers."""
  machine = machine._replace(micro_batches=1)
  rows, text = program.rows, model.config.text_config
  count, width = local_rows(rows, machine), itemsize(model, machine)
  held = {
    'parameters': tree_bytes(model.abstract_params, model, machine.mesh),
    'batch': batch_bytes(model, rows, machine),
  }
  every = activations.kept(
    model.config, descend, rows.length, rows.room, 'none'
  )
  largest = max(sum(_by_layer(every, count, model, machine), []), default=0)
  # Two values of a layer without a gradient, its input and its output.
  hidden = count * rows.length * text.hidden_size * width
  layer, tables = _layer_weights(model, machine), _word_tables(model, machine)
  work = {'activations': 2 * (largest + hidden), 'weights at work': layer}
  if not program.count:
    work['logits'] = _logits_bytes(model, rows, count, machine)
    work['weights at work'] = max(layer, *tables)
    return Need(held, {'score': work})
  tensor = machine.mesh.shape['tensor']
  heads = text.num_key_value_heads
  heads //= 1 if heads % tensor else tensor
  slots = count * (rows.length + program.count)
  entries = 2 * text.num_hidden_layers * slots * heads * text.head_dim
  # A scan over layers reads one cache and writes another.
  own = np.dtype(model.config.dtype).itemsize
  work['cache'] = entries * (own + width)
  # In the loop over new tokens nothing else is large but the tables of words.
  loop = {'activations': 0, 'weights at work': layer + sum(tables)}
  return Need(held, {'prompts': work, 'new tokens': work | loop})


def _gradient(model, loss, rows, machine) -> dict[str, dict[str, int]]:
  """Phases of a loss's gradient."""
  # Plan: what backward keeps, logits apart; gradients and, of micro-batches,
  # their sums; weights at work; then the two phases, and on CPUs a third.
  count = local_rows(rows, machine)
  kept, every = (
    activations.kept(model.config, loss, rows.length, rows.room, remat)
    for remat in (model.config.remat, 'none')
  )
  of = lambda values: sum(
    _value_bytes(v, count, model, machine) for v in values
  )
  activation = of(v for v in kept if v.kind != 'logits')
  logits = of(v for v in kept if v.kind == 'logits')
  grads = tree_bytes(model.abstract_params, model, machine.mesh)
  grads -= _unread(model, rows, machine)
  sums = grads if machine.micro_batches > 1 else 0
  # Values of a layer that are computed again, and gradients in flight of the
  # two largest that stay; those of values computed again take their place.
  flying = [
    max(sum(again) - sum(stay), 0) + 2 * max(stay, default=0)
    for again, stay in zip(
      _by_layer(every, count, model, machine),
      _by_layer(kept, count, model, machine),
    )
  ]
  head, layer = (
    max(_word_tables(model, machine)),
    _layer_weights(model, machine),
  )
  stays = machine.simulated and sharding.row_parts(machine.mesh) > 1
  phases = {
    'head': {
      'activations': activation,
      'logits': logits + _logits_bytes(model, rows, count, machine),
      'weights at work': 2 * head,  # and its whole gradient
      'gradients': sums,
    },
    'layers': {
      'activations': activation + max(flying, default=0),
      'weights at work': layer + stays * head,
      'gradients': grads + sums,
    },
  }
  if stays:
    phases['sum of the output layer'] = phases['layers'] | {
      'activations': activation,
      'weights at work': 2 * head,
    }
  return phases


def _by_layer(values, count, model, machine) -> list[list[int]]:
  """Bytes of one layer's values, for each depth of a stack."""
  return [
    [
      _value_bytes(v, count, model, machine) // depth
      for v in values
      if v.kind == 'layers' and v.layers == depth
    ]
    for depth in sorted(set(_widths(model)['layers']))
  ]


def _value_bytes(value, count, model, machine) -> int:
  """Bytes of a kept value on one device that computes so many rows."""
  width = 4 if value.half and machine.simulated else value.itemsize
  size = value.size * width
  if value.kind == 'weights':
    leaf = leaves(model, machine.mesh)[value.leaf]
    return size // (leaf.size // leaf.local)
  if not value.by_row:
    return size
  parts, sizes = machine.mesh.shape['tensor'], _widths(model)
  axes = {value.shape[-1]} & set(sizes['split'])
  axes |= set(value.shape[1:-1]) & set(sizes['heads'])
  return size * count // (parts if any(n % parts == 0 for n in axes) else 1)


def _layer_weights(model, machine) -> int:
  """One layer's weights at work, and the largest whole gradient of them."""
  stacks: dict[str, list[int]] = {}
  for leaf in leaves(model, machine.mesh).values():
    if leaf.stack and leaf.is_matrix:
      stacks.setdefault(leaf.stack, []).append(leaf.gathered)
  largest = max(sum(sizes) + max(sizes) for sizes in stacks.values())
  return largest * itemsize(model, machine)


def _word_tables(model, machine) -> list[int]:
  """Bytes at work of the embedding and the output layer; one if tied."""
  vocab = model.config.text_config.vocab_size
  shapes = tree_lib.flatten(model.abstract_params)
  return [
    leaf.gathered * itemsize(model, machine)
    for name, leaf in leaves(model, machine.mesh).items()
    if vocab in shapes[name].shape and leaf.is_matrix and not leaf.stack
  ]


def _logits_bytes(model, rows, count, machine) -> int:
  """Bytes of logits and their gradient, in the dtype of the computation."""
  width, vocab = itemsize(model, machine), model.config.text_config.vocab_size
  parts = machine.mesh.shape['tensor']
  size = count * rows.length * vocab // (1 if vocab % parts else parts)
  # In float32 the logits themselves are among the kept values.
  return size * width * (1 if width == 4 else 2)


def local_rows(rows: Rows, machine: Machine) -> int:
  """Returns the rows, padding included, that a device computes at a time."""
  total = sharding.row_count(rows.count, machine.mesh, machine.micro_batches)
  return total // (sharding.row_parts(machine.mesh) * machine.micro_batches)


def batch_bytes(model: Model, rows: Rows, machine: Machine) -> int:
  """Returns bytes of a batch on one device, with its rows of padding."""
  count = local_rows(rows, machine) * machine.micro_batches
  make = MODELS[model.family].abstract_batch
  made = make(model.config, count, rows.length, rows.room)
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(made))


@functools.lru_cache(maxsize=64)
def shapes(make: Callable[[Any], Any], model: Model) -> Any:
  """Returns the shapes of a tree that is made of a model's parameters."""
  return jax.eval_shape(make, model.abstract_params)


def packed_mask(params: Any) -> Any:
  """Returns a packed mask of where parameters are above 0."""
  return masks.pack(jax.tree.map(lambda x: x > 0, params))


def itemsize(model: Model, machine: Machine) -> int:
  """Returns bytes of a number in the model's computation."""
  return 4 if machine.simulated else np.dtype(model.config.dtype).itemsize


def _widths(model) -> Mapping[str, Any]:
  """Sizes by which the family knows an activation."""
  return MODELS[model.family].widths(model.config)


def _unread(model, rows, machine) -> int:
  """Bytes of the parameters that rows without pictures do not read."""
  unread = {
    name: x
    for name, x in tree_lib.flatten(model.abstract_params).items()
    if tree_lib.component_of(name, model.components) != 'language'
  }
  return 0 if rows.room else tree_bytes(unread, model, machine.mesh)
