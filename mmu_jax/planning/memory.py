"""Memory that one program needs on one device, item by item.

Arguments (parameters, moments, mask, reference, batch) are exact. Donated ones
come out in their own place, so the peak is arguments plus the temporaries of
the largest phase:

  head       activations kept for backward, logits and their gradient, the
             output layer and its whole gradient
  layers     activations kept for backward, all gradients, and one layer at
             work: its gathered weights, values computed again, gradients in
             flight
  optimizer  gradients, and the updates made of them (not of Adam's)

A run of adapters holds its base in their dtype. Until the optimizer's turn it
has a merged copy of their leaves too, and gradients of these leaves alone.
"""

from collections.abc import Callable, Mapping
import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh

from mmu_jax import lora as lora_lib
from mmu_jax import masks
from mmu_jax import sharding
from mmu_jax import tree as tree_lib
from mmu_jax.methods import Turn
from mmu_jax.models import Model
from mmu_jax.models import MODELS
from mmu_jax.objectives import descend
from mmu_jax.planning import activations
from mmu_jax.planning import adapters
from mmu_jax.typing import LossFn


class Rows(NamedTuple):
  """Rows of a batch.

  Attributes:
    count: number of rows in all.
    length: tokens of each.
    room: room of each for pictures.
    counted: tokens of each that count in a loss; 0 for all.
  """

  count: int
  length: int
  room: int
  counted: int = 0


class Program(NamedTuple):
  """One program of a job.

  Attributes:
    stage: 'importance', 'mask', 'evaluate', or the name of a model or run.
    step: split, set of rows, or way of asking.
    rows: rows of the whole batch; none for a mask.
    beside: rows of the other batch of a turn that reads two.
    turn: turn of a method, for training.
    tx: optimizer, for training.
    mask: whether the run holds a mask, though this turn may not use it.
    reference: whether the run holds a reference, as with the mask.
    count: importances behind a mask, or new tokens of an answer.
    lora: adapters that the run trains, if any; ``reference`` then means one
      that is not their base.
    kinds: kinds of change of these adapters.
  """

  stage: str
  step: str
  rows: Rows = Rows(0, 0, 0)
  turn: Turn | None = None
  tx: Any = None
  mask: bool = False
  reference: bool = False
  count: int = 0
  beside: Rows = Rows(0, 0, 0)
  lora: lora_lib.Lora | None = None
  kinds: tuple[str, ...] = ()

  @property
  def name(self) -> str:
    """Stage and step."""
    return f'{self.stage} {self.step}'.strip()

  @property
  def has_gradient(self) -> bool:
    """Whether it takes a gradient, and so is cut into micro-batches."""
    return self.turn is not None or self.stage == 'importance'

  @property
  def reads_mask(self) -> bool:
    """Whether the step takes a mask."""
    return bool(self.turn and self.turn.masked) or lora_lib.MASKED in self.kinds

  @property
  def reads_reference(self) -> bool:
    """Whether the step takes a reference; the base of adapters is one."""
    needed = bool(self.turn and self.turn.needs_reference)
    return needed and (self.lora is None or self.reference)

  @property
  def backward(self) -> 'list[tuple[LossFn, Program]]':
    """Loss and batch of each backward pass."""
    turn = self.turn
    if turn and turn.beside:
      own, other = (activations.term_of(turn.loss, x) for x in (False, True))
      return [(own, self), (other, self._replace(rows=self.beside))]
    first = (turn.loss if turn else descend), self
    return [first, (descend, self)] if turn and turn.project else [first]


class Need(NamedTuple):
  """Bytes on one device: item -> held, and phase -> item -> temporary."""

  held: Mapping[str, int]
  phases: Mapping[str, Mapping[str, int]]

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


@dataclasses.dataclass(frozen=True)
class Setting:
  """A model on a mesh, and how programs use the devices.

  Attributes:
    model: model with its dtype and remat policy.
    mesh: mesh whose devices need not exist.
    micro_batches: parts of a batch, one after the other.
    offload: trees that wait on the host, ('reference',) or ().
    simulated: whether XLA compiles for CPUs, where it computes with float32
      instead of bfloat16, and sums whole gradients before it cuts them.
  """

  model: Model
  mesh: AbstractMesh
  micro_batches: int = 1
  offload: tuple[str, ...] = ()
  simulated: bool = False

  @functools.cached_property
  def leaves(self) -> Mapping[str, Leaf]:
    """Parameters by name."""
    found = tree_lib.flatten(self.model.abstract_params).items()
    return {name: self._leaf(name, x.shape) for name, x in found}

  @functools.cached_property
  def widths(self) -> Mapping[str, Any]:
    """Sizes by which the family knows an activation."""
    return MODELS[self.model.family].widths(self.model.config)

  @functools.cached_property
  def params(self) -> int:
    """Bytes of the parameters on one device."""
    return self.tree_bytes(self.model.abstract_params)

  @functools.cached_property
  def unread(self) -> int:
    """Bytes of the parameters that rows without pictures do not read."""
    parts = self.model.components
    sees = lambda name: tree_lib.component_of(name, parts) != 'language'
    named = tree_lib.flatten(self.model.abstract_params).items()
    return self.tree_bytes({name: x for name, x in named if sees(name)})

  @functools.cached_property
  def rules(self) -> sharding.Rules:
    """Partition rules of parameters, and of adapters."""
    rules = self.model.partition_rules
    return (*lora_lib.adapter_rules(rules), *rules)

  def trees(self, program: Program) -> adapters.Trees:
    """Returns the shapes of a program's base, gradients and trained tree."""
    return adapters.trees(self.model, program.lora, program.kinds)

  @functools.cached_property
  def itemsize(self) -> int:
    """Bytes of a number in the computation."""
    return 4 if self.simulated else jnp.dtype(self.model.config.dtype).itemsize

  @functools.cached_property
  def layer(self) -> int:
    """Bytes at work of one layer, with the largest whole gradient in it."""
    stacks: dict[str, list[int]] = {}
    for leaf in self.leaves.values():
      if leaf.stack and leaf.is_matrix:
        stacks.setdefault(leaf.stack, []).append(leaf.gathered * self.itemsize)
    return max(sum(sizes) + max(sizes) for sizes in stacks.values())

  @functools.cached_property
  def word_tables(self) -> list[int]:
    """Bytes at work of the embedding and the output layer; one if tied."""
    vocab = self.model.config.text_config.vocab_size
    shapes = tree_lib.flatten(self.model.abstract_params)
    return [
      leaf.gathered * self.itemsize
      for name, leaf in self.leaves.items()
      if vocab in shapes[name].shape and leaf.is_matrix and not leaf.stack
    ]

  def total_rows(self, program: Program) -> int:
    """Returns the rows of a program's batch, padding included."""
    parts = self.micro_batches**program.has_gradient
    return sharding.row_count(program.rows.count, self.mesh, parts)

  def local_rows(self, program: Program) -> int:
    """Returns the rows that a device computes at a time."""
    parts = self.micro_batches**program.has_gradient
    return self.total_rows(program) // sharding.row_parts(self.mesh) // parts

  def tree_bytes(self, tree: Any) -> int:
    """Returns bytes on one device of a tree with the names of parameters."""
    return sum(
      self._leaf(name, x.shape).local * x.dtype.itemsize
      for name, x in tree_lib.flatten(tree).items()
    )

  def _leaf(self, name: str, shape: tuple[int, ...]) -> Leaf:
    """A leaf of the parameters, or of a tree with their names."""
    spec = sharding.spec_of(name, shape, self.rules, self.mesh)
    split = {part: self.mesh.shape[part] for part in jax.tree.leaves([*spec])}
    words, tensor = name.split('/'), split.get('tensor', 1)
    at = [i for i, word in enumerate(words) if word in tree_lib.STACKS]
    stack = '/'.join(words[: at[0] + 1]) if at else ''
    size, layers = math.prod(shape), shape[0] if stack else 1
    local, gathered = size // math.prod(split.values()), size // layers
    is_matrix = len(shape) - bool(stack) > 1
    return Leaf(size, local, gathered // tensor, tensor, stack, is_matrix)


def abstract_mesh(data: int = 1, fsdp: int = 1, tensor: int = 1):
  """Returns a mesh of devices that need not exist.

  Example:
    >>> abstract_mesh(data=2, fsdp=512).size
    1024
  """
  return AbstractMesh((data, fsdp, tensor), sharding.AXES)


def mesh_line(mesh: AbstractMesh) -> str:
  """Returns a mesh as a config has it.

  Example:
    >>> mesh_line(abstract_mesh(fsdp=8))
    'fsdp=8'
  """
  sizes = [f'{name}={n}' for name, n in mesh.shape.items() if n > 1]
  return ','.join(sizes) or 'data=1'


@functools.lru_cache(maxsize=4096)
def need(program: Program, on: Setting) -> Need:
  """Returns the memory that a program needs on one device."""
  if program.stage == 'mask':
    sizes = [leaf.local for leaf in on.leaves.values()]
    # Of one leaf, in float32: importances, the same normalised, their ratio.
    at_work = 4 * max(sizes) * (2 * program.count + 1)
    made = {'ties and mask': 2 * sum(sizes), 'one leaf at work': at_work}
    return Need({}, {'mask': made})
  turn, waits = program.turn, 'reference' in on.offload
  if not program.has_gradient:
    held = {'parameters': on.params, 'batch': _batch_bytes(program, on)}
    return Need(held, _answers(program, on))
  backward = program.backward
  size = sum(_batch_bytes(p, on) for _, p in backward)
  base, merged, trained = map(on.tree_bytes, on.trees(program))
  held, phases = (
    {'parameters': base, 'batch': size},
    _gradient(*backward[0], on),
  )
  for pass_ in backward[1:]:  # neither of two passes waits for the other
    for name, items in _gradient(*pass_, on).items():
      phases[name]['activations'] += items['activations']
      phases[name]['gradients'] += merged
  if not turn:
    sums = 4 * sum(leaf.local for leaf in on.leaves.values())
    return Need(held | {'importances': sums}, phases)
  make = jax.eval_shape(program.tx.init, on.trees(program).trained)
  held['moments'] = on.tree_bytes(make)
  if program.reads_mask or program.mask:
    held['mask'] = on.tree_bytes(shapes(packed_mask, on.model))
  if (program.reads_reference or program.reference) and not waits:
    held['reference'] = on.params
  if program.reads_reference and waits:
    phases['head']['reference'] = on.params
  if program.lora:
    held['adapters'] = trained
    for items in phases.values():
      items['merged weights'] = merged
  # Adam's updates are written over its gradients, made of the moments alone.
  trees = 2 - (held['moments'] >= 2 * trained) + bool(turn.project)
  phases['optimizer'] = {'gradients': trees * trained}
  return Need(held, phases)


def _batch_bytes(program, on) -> int:
  """Bytes of a batch on one device."""
  count = on.local_rows(program) * on.micro_batches**program.has_gradient
  batch = activations.abstract_batch(on.model.config, count, *program.rows[1:])
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(batch))


def _answers(program, on) -> dict[str, dict[str, int]]:
  """Phases of scoring given answers and, with new tokens, of decoding."""
  rows, text, count = program.rows, on.model.config.text_config, program.count
  local = on.local_rows(program)
  shape = (on.model.config, descend, *rows[1:])
  every = activations.kept(*shape, 'none') + activations.score_values(*shape)
  largest = max(sum(_by_layer(every, local, on), []), default=0)
  # Two values of a layer without a gradient, its input and its output.
  hidden = local * rows.length * text.hidden_size * on.itemsize
  work = {
    'activations': 2 * (largest + hidden),
    'weights at work': max(on.layer, *on.word_tables),
    'logits': _logits_bytes(program, on, rows.counted or rows.length),
  }
  if not count:
    return {'score': work}
  tensor, heads = on.mesh.shape['tensor'], text.num_key_value_heads
  heads //= 1 if heads % tensor else tensor
  slots = local * (rows.length + count)
  entries = 2 * text.num_hidden_layers * slots * heads * text.head_dim
  # It is written in place; keys and values of one layer are copied to be read.
  own = jnp.dtype(on.model.config.dtype).itemsize
  work['cache'] = (
    entries * own + entries // text.num_hidden_layers * on.itemsize
  )
  # In the loop over new tokens nothing else is large but the tables of words.
  tables = on.layer + sum(on.word_tables)
  loop = {'weights at work': tables, 'cache': work['cache']}
  return {'rows': work, 'new tokens': loop}


def _gradient(loss, program, on) -> dict[str, dict[str, int]]:
  """Phases of a loss's gradient."""
  # Plan: what backward keeps, logits apart; gradients and, of micro-batches,
  # their sums; weights at work; then the two phases, and on CPUs a third.
  rows, config, count = program.rows, on.model.config, on.local_rows(program)
  kept, every = (
    activations.kept(config, loss, *rows[1:], remat)
    for remat in (config.remat, 'none')
  )
  vocab = config.text_config.vocab_size
  of = lambda values: sum(_value_bytes(v, count, on) for v in values)
  of_vocab = [v for v in kept if v.by_row and v.shape[-1] == vocab]
  logits, default = of(of_vocab), rows.counted or rows.length
  positions = max((v.shape[-2] for v in of_vocab), default=default)
  activation = of(kept) - logits
  trees = on.trees(program)
  grads = on.tree_bytes(trees.merged)
  if not program.lora:
    grads -= 0 if rows.room else on.unread
  sums = on.tree_bytes(trees.trained) if on.micro_batches > 1 else 0
  # Values of a layer that are computed again, or gradients in flight of the two
  # largest that stay; gradients of values computed again replace them.
  values = every, kept, activations.score_values(config, loss, *rows[1:])
  flying = [
    max(sum(again) - sum(stay), 2 * max(stay, default=0)) + sum(scores)
    for again, stay, scores in zip(
      *(_by_layer(each, count, on) for each in values)
    )
  ]
  head = max(on.word_tables)
  stays = on.simulated and sharding.row_parts(on.mesh) > 1
  phases = {
    'head': {
      'activations': activation,
      'logits': logits + _logits_bytes(program, on, positions),
      'weights at work': 2 * head,  # and its whole gradient
      'gradients': sums,
    },
    'layers': {
      'activations': activation + max(flying, default=0),
      'weights at work': on.layer + stays * head,
      'gradients': grads + sums,
    },
  }
  if stays:
    phases['sum of the output layer'] = phases['layers'] | {
      'activations': activation,
      'weights at work': 2 * head,
    }
  return phases


def _by_layer(values, count, on) -> list[list[int]]:
  """Bytes of one layer's values, for each depth of a stack."""
  return [
    [
      _value_bytes(v, count, on) // v.shape[0]
      for v in values
      if v.layers == n > 1
    ]
    for n in sorted(set(on.widths['layers']))
  ]


def _value_bytes(value, count, on) -> int:
  """Bytes of a kept value on one device that computes so many rows."""
  half = value.dtype in (jnp.bfloat16, jnp.float16)
  width = 4 if half and on.simulated else value.dtype.itemsize
  size, parts = math.prod(value.shape) * width, on.mesh.shape['tensor']
  if value.leaf:
    leaf = on.leaves[value.leaf]
    return size // (leaf.size // leaf.local)
  if not value.by_row:
    return size
  axes = {value.shape[-1]} & set(on.widths['split'])
  axes |= set(value.shape[1:-1]) & set(on.widths['heads'])
  return size * count // (parts if any(n % parts == 0 for n in axes) else 1)


def _logits_bytes(program, on, positions) -> int:
  """Bytes of logits and their gradient, in the dtype of the computation."""
  vocab = on.model.config.text_config.vocab_size
  parts = on.mesh.shape['tensor']
  size = on.local_rows(program) * positions * vocab
  # In float32 the logits themselves are among the kept values.
  times = 1 if on.itemsize == 4 else 2
  return size // (1 if vocab % parts else parts) * on.itemsize * times


@functools.lru_cache(maxsize=64)
def shapes(make: Callable[[Any], Any], model: Model) -> Any:
  """Returns the shapes of a tree that is made of a model's parameters."""
  return jax.eval_shape(make, model.abstract_params)


def packed_mask(params: Any) -> Any:
  """Returns a packed mask of where parameters are above 0."""
  return masks.pack(jax.tree.map(lambda x: x > 0, params))
