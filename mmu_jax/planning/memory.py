"""The memory of one program on one device, term by term.

A program holds its arguments (parameters, moments, mask, reference, batch) and
temporaries. What is donated comes out in its own place, so the peak is
arguments + temporaries. Arguments are exact. Temporaries are the largest of
the phases of a step:

  head       what backward keeps, the logits and their gradient, the output
             layer and its whole gradient
  layers     what backward keeps, all gradients, and one layer at work: its
             gathered weights, what is computed again, gradients in flight
  optimizer  the gradients, and the updates made of them

The kept values are those of JAX itself (see ``activations``).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh

from mmu_jax import masks
from mmu_jax import sharding
from mmu_jax import tree as tree_lib
from mmu_jax.methods import descend
from mmu_jax.methods import Turn
from mmu_jax.models import Model
from mmu_jax.planning import activations
from mmu_jax.planning import layout
from mmu_jax.planning import shapes
from mmu_jax.planning.shapes import Rows
from mmu_jax.training import optimizer
from mmu_jax.typing import LossFn


class Compiler(NamedTuple):
  """What XLA does differently on some devices.

  Attributes:
    widens: it computes with float32 where the model says bfloat16.
    reduces_whole: the sum of whole gradients over devices is made whole on
      each of them, and then cut, instead of being scattered at once.
  """

  widens: bool = False
  reduces_whole: bool = False


ACCELERATOR = Compiler()
CPU = Compiler(widens=True, reduces_whole=True)


class Setting(NamedTuple):
  """Where and how a program runs.

  Attributes:
    mesh: of ``layout.mesh``.
    micro_batches: parts of a batch, one after the other.
    offload: what waits on the host: ('reference',) or ().
    compiler: of the devices.
  """

  mesh: AbstractMesh
  micro_batches: int = 1
  offload: tuple[str, ...] = ()
  compiler: Compiler = ACCELERATOR


class Need(NamedTuple):
  """What a program needs on one device, in bytes.

  Attributes:
    held: item -> bytes that stay: arguments, and what else the stage keeps.
    phases: phase -> item -> bytes of temporaries.
    unused: what of ``held`` is no argument of the program itself.
  """

  held: Mapping[str, int]
  phases: Mapping[str, Mapping[str, int]]
  unused: tuple[str, ...] = ()

  @property
  def arguments(self) -> int:
    """Bytes of the program's arguments."""
    return sum(n for k, n in self.held.items() if k not in self.unused)

  @property
  def phase(self) -> str:
    """The phase that needs most."""
    return max(self.phases, key=lambda name: sum(self.phases[name].values()))

  @property
  def temporaries(self) -> int:
    """Bytes of temporaries in that phase."""
    return sum(self.phases[self.phase].values())

  @property
  def peak(self) -> int:
    """Bytes in all."""
    return sum(self.held.values()) + self.temporaries


def of_turn(
  model: Model,
  turn: Turn,
  rows: Rows,
  setting: Setting,
  options: Mapping[str, Any],
  *,
  mask: bool = False,
  reference: bool = False,
) -> Need:
  """Returns what one turn needs.

  Args:
    model: what is trained; its config has dtype and remat.
    turn: of a method.
    rows: of the whole batch.
    setting: mesh and levers.
    options: of ``optimizer.build``.
    mask: whether the run holds a mask, though this turn may not use it.
    reference: whether the run holds a reference, as with the mask.
  """
  on = setting.mesh
  params = model.abstract_params
  tx = optimizer.build(**options)
  moments = jax.eval_shape(tx.init, params)
  own = lambda tree: layout.tree_bytes(tree, model, on)
  held = {'parameters': own(params), 'moments': own(moments)}
  unused = []
  if turn.masked or mask:
    held['mask'] = own(_packed(params))
    unused += [] if turn.masked else ['mask']
  waits = 'reference' in setting.offload
  if (turn.needs_reference or reference) and not waits:
    held['reference'] = own(params)
    unused += [] if turn.needs_reference else ['reference']
  held['batch'] = batch_bytes(model, rows, setting) * (2 if turn.project else 1)
  grads = held['parameters']
  phases = of_gradient(model, turn.loss, rows, setting)
  if turn.project:  # nothing makes one backward pass wait for the other
    other = of_gradient(model, descend, rows, setting)
    for name, items in phases.items():
      items['activations'] += other[name]['activations']
      items['gradients'] = items.get('gradients', 0) + grads
  if turn.needs_reference and waits:
    phases['head']['reference'] = grads
  trees = 3 if turn.project else 2
  phases['optimizer'] = {'gradients': trees * grads}
  return Need(held, phases, tuple(unused))


def of_importance(model: Model, rows: Rows, setting: Setting) -> Need:
  """Returns what a batch of an importance needs.

  Args:
    model: what it is measured at.
    rows: of the whole batch.
    setting: mesh and levers.
  """
  own = layout.tree_bytes(model.abstract_params, model, setting.mesh)
  unread = _unread(model, rows, setting)
  held = {
    'parameters': own - unread,
    'parameters that see': unread,
    'importances': 4 * own // _itemsize(model.abstract_params),
    'batch': batch_bytes(model, rows, setting),
  }
  phases = of_gradient(model, descend, rows, setting)
  return Need(held, phases, ('parameters that see',))


def of_gradient(
  model: Model, loss: LossFn, rows: Rows, setting: Setting
) -> dict[str, dict[str, int]]:
  """Returns the phases of a loss's gradient: head and layers.

  Args:
    model: of which parameters the gradient is taken.
    loss: of a turn.
    rows: of the whole batch.
    setting: mesh and levers.
  """
  count = local_rows(rows, setting)
  trace = lambda remat: activations.kept(
    model.config, loss, rows.length, rows.room, remat
  )
  kept = trace(model.config.remat)
  sizes = lambda values: sum(
    kept_bytes(v, count, model, setting) for v in values
  )
  activation = sizes(v for v in kept if v.kind != 'logits')
  logits = [v for v in kept if v.kind == 'logits']
  grads = layout.tree_bytes(model.abstract_params, model, setting.mesh)
  grads -= _unread(model, rows, setting)
  sums = grads if setting.micro_batches > 1 else 0
  head = output_layer(model, setting)
  in_flight = _in_flight(kept, trace('none'), count, model, setting)
  shared = sharding.row_parts(setting.mesh) > 1
  stays = head if setting.compiler.reduces_whole and shared else 0
  phases = {
    'head': {
      'activations': activation,
      'logits': sizes(logits) + logits_bytes(model, rows, count, setting),
      'weights at work': 2 * head,  # and its whole gradient
    },
    'layers': {
      'activations': activation + in_flight,
      'gradients': grads,
      'weights at work': layer_weights(model, setting) + stays,
    },
  }
  if stays:
    phases['sum of the output layer'] = {
      'activations': activation,
      'gradients': grads,
      'weights at work': 2 * head,
    }
  for items in phases.values():
    items['gradients'] = items.get('gradients', 0) + sums
  return phases


def layer_weights(model: Model, setting: Setting) -> int:
  """Bytes of one layer's weights as they are multiplied with, and of the
  largest whole gradient of them before devices share it."""
  stacks: dict[str, list[int]] = {}
  for leaf in layout.leaves(model, setting.mesh).values():
    if leaf.stack and leaf.is_matrix:
      stacks.setdefault(leaf.stack, []).append(leaf.gathered)
  width = compute_itemsize(model, setting.compiler)
  return max(width * (sum(sizes) + max(sizes)) for sizes in stacks.values())


def output_layer(model: Model, setting: Setting) -> int:
  """Bytes of the output layer, gathered, in the dtype of computation."""
  found = layout.leaves(model, setting.mesh)
  name = next((n for n in found if n.endswith('lm_head/kernel')), None)
  if name is None:  # tied to the embedding
    name = next(n for n in found if n.endswith('embed_tokens/embedding'))
  return found[name].gathered * compute_itemsize(model, setting.compiler)


def compute_itemsize(model: Model, compiler: Compiler) -> int:
  """Bytes of a number in the model's computation."""
  size = jnp.dtype(model.config.dtype).itemsize
  return 4 if compiler.widens else size


def _in_flight(kept, every, count, model, setting) -> int:
  """What one layer computes again in backward, and gradients in flight.

  Computed again is what no policy would keep alone: the values of 'none' less
  those that are kept. The gradients in flight are those of the two largest
  values that stay; those of what is computed again take its place.
  """
  size = lambda v: kept_bytes(v, count, model, setting) // v.layers
  layers = {v.layers for v in every if v.kind == 'layers'} or {1}
  most = 0
  for depth in layers:
    of = lambda values: [
      size(v) for v in values if v.kind == 'layers' and v.layers == depth
    ]
    again = max(sum(of(every)) - sum(of(kept)), 0)
    most = max(most, again + 2 * max(of(kept), default=0))
  return most


def logits_bytes(model: Model, rows: Rows, count: int, setting: Setting) -> int:
  """Returns bytes of logits and their gradient, in the computation's dtype.

  Args:
    model: for the vocabulary.
    rows: how long each is.
    count: rows that a device computes at a time.
    setting: the mesh.
  """
  width = compute_itemsize(model, setting.compiler)
  vocab = model.config.text_config.vocab_size
  parts = setting.mesh.shape['tensor']
  parts = parts if vocab % parts == 0 else 1
  size = count * rows.length * vocab // parts
  # In float32 the kept values have the logits themselves.
  return size * width * (1 if width == 4 else 2)


def kept_bytes(
  value: activations.Value, count: int, model: Model, setting: Setting
) -> int:
  """Returns bytes of a kept value on one device.

  Args:
    value: of ``activations.kept``.
    count: rows that a device computes at a time.
    model: whose value it is.
    setting: the mesh.
  """
  width = value.itemsize
  if value.half and setting.compiler.widens:
    width = 4
  if value.kind == 'weights':
    leaf = layout.leaves(model, setting.mesh)[value.leaf]
    return value.size * width // (leaf.fsdp * leaf.tensor)
  size = value.size * width * (count if value.by_row else 1)
  return size // _tensor_parts(value, model, setting)


def _tensor_parts(value, model, setting) -> int:
  """How tensor parallelism splits a value: its heads, or its hidden layer."""
  parts = setting.mesh.shape['tensor']
  if parts == 1 or not value.by_row:
    return 1
  text, vision = model.config.text_config, model.config.vision_config
  hidden = {text.intermediate_size, text.vocab_size}
  heads = {text.num_attention_heads, text.num_key_value_heads}
  if hasattr(vision, 'intermediate_size'):
    hidden.add(vision.intermediate_size)
    heads.add(vision.num_attention_heads)
  else:
    hidden.add(int(vision.embed_dim * vision.mlp_ratio))
    heads.add(vision.num_heads)
  if value.shape[-1] in hidden and value.shape[-1] % parts == 0:
    return parts
  split = [n for n in value.shape[1:-1] if n in heads and n % parts == 0]
  return parts if split else 1


def local_rows(rows: Rows, setting: Setting) -> int:
  """Returns the rows that a device computes at a time, of padding too."""
  parts, micro = sharding.row_parts(setting.mesh), setting.micro_batches
  total = sharding.row_count(rows.rows, setting.mesh, micro)
  return total // (parts * micro)


def batch_bytes(model: Model, rows: Rows, setting: Setting) -> int:
  """Returns bytes of a batch on one device, with its rows of padding."""
  total = sharding.row_count(rows.rows, setting.mesh, setting.micro_batches)
  made = shapes.batch(model, rows._replace(rows=total))
  return layout.batch_bytes(made, setting.mesh)


def _packed(params):
  """The shapes of a packed mask."""
  return jax.eval_shape(
    lambda p: masks.pack(jax.tree.map(lambda x: x > 0, p)), params
  )


def _unread(model, rows, setting) -> int:
  """Bytes of the parameters that rows without pictures do not read."""
  if rows.room:
    return 0
  unread = {
    name: x
    for name, x in tree_lib.flatten(model.abstract_params).items()
    if tree_lib.component_of(name, model.components) != 'language'
  }
  return layout.tree_bytes(unread, model, setting.mesh)


def _itemsize(params) -> int:
  """Bytes of a parameter."""
  return jnp.dtype(jax.tree.leaves(params)[0].dtype).itemsize
