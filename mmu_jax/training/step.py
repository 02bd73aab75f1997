"""One turn: a loss, its gradient, the chain, an exact apply."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mmu_jax import gradients
from mmu_jax import lora
from mmu_jax import masks
from mmu_jax import sharding
from mmu_jax import transforms
from mmu_jax.errors import UserError
from mmu_jax.methods import Turn
from mmu_jax.objectives import answer_weight
from mmu_jax.objectives import descend
from mmu_jax.sharding import Rules
from mmu_jax.typing import Batch
from mmu_jax.typing import Forward
from mmu_jax.typing import Mask
from mmu_jax.typing import Params

HOST = 'pinned_host'  # the memory of a machine that its devices read


class TrainState(NamedTuple):
  """Parameters and optimizer state of a run, from turn to turn."""

  params: Params
  opt_state: optax.OptState


@functools.partial(
  jax.jit, static_argnames=('tx', 'rules'), donate_argnames='params'
)
def init(
  params: Params, tx: optax.GradientTransformationExtraArgs, rules: Rules = ()
) -> TrainState:
  """Starts a run; the buffers of the parameters are given away, not copied.

  Args:
    params: the starting parameters; not to be used afterwards.
    tx: optimizer, made by ``optimizer.build``.
    rules: a tuple of partition rules; on the mesh that is set, the optimizer's
      moments go where the parameters are.
  """
  return sharding.constrain(TrainState(params, tx.init(params)), rules)


def evaluated(state: TrainState, mask: Mask = None) -> Params:
  """Returns the parameters of a state to evaluate and to keep.

  With a schedule-free optimizer (``optax.contrib.schedule_free``) they are not
  the ones that it steps from, but the mean that it keeps beside them. With any
  other optimizer they are the parameters of the state.

  Args:
    state: state of a run.
    mask: bool or packed tree of the weights that any turn may change; None for
      all. The others keep their bits, as a mean of equal numbers may not.

  Raises:
    ValueError: if there are several schedule-free optimizers.
  """
  is_free = lambda x: isinstance(x, optax.contrib.ScheduleFreeState)
  inner = jax.tree.leaves(state.opt_state, is_leaf=is_free)
  found = [x for x in inner if is_free(x)]
  if not found:
    return state.params
  if len(found) > 1:
    raise UserError(
      'a run has at most one schedule-free optimizer, whose mean is '
      f'kept; got {len(found)}. Put schedule_free around all of them.'
    )
  mean = optax.contrib.schedule_free_eval_params(found[0], state.params)
  mean = jax.tree.map(lambda x, p: x.astype(p.dtype), mean, state.params)
  if mask is None:
    return mean
  mask = masks.unpack(mask, state.params)
  return jax.tree.map(jnp.where, mask, mean, state.params)


def abstract_state(
  params: Params,
  tx: optax.GradientTransformationExtraArgs,
  rules: Rules = (),
  mesh: jax.sharding.Mesh | None = None,
) -> TrainState:
  """Returns the shapes of a state, and its places, to restore one into.

  Args:
    params: arrays, or their shapes and dtypes.
    tx: optimizer, made by ``optimizer.build``.
    rules: partition rules; none for no places.
    mesh: None for the mesh that is set, if one is.
  """
  state = jax.eval_shape(lambda p: TrainState(p, tx.init(p)), params)
  mesh = jax.sharding.get_mesh() if mesh is None else mesh
  if mesh.empty or not rules:
    return state
  return sharding.placed(state, rules, mesh)


def check_turn(turn: Turn, micro_batches: int) -> None:
  """Raises, before compiling, if a turn cannot be taken in micro-batches.

  Raises:
    ValueError: if the number is below 1, or the loss is not a mean over tokens
      or answers; two of the published ones are not.
  """
  name = f'the loss of the turn on {turn.split!r}'
  gradients.check_micro_batches(turn.measure, micro_batches, name)


def to_host(tree: Any) -> Any:
  """Moves arrays to the memory of their devices' hosts; ``None`` stays.

  For reference parameters, which a turn reads once: ``take_turn`` brings them
  back leaf by leaf. On a mesh every host keeps the parts of its own devices.

  Args:
    tree: pytree of arrays; the caller frees their buffers on the devices.

  Example:
    >>> to_host(jnp.ones(2)).sharding.memory_kind
    'pinned_host'
  """
  return jax.tree.map(
    lambda x: jax.device_put(x, x.sharding.with_memory_kind(HOST)), tree
  )


def from_host(tree: Any, rules: Rules = ()) -> Any:
  """Brings arrays from a host to its devices, by the rules; traced."""
  space = jax.memory.Space

  def bring(x):
    there = jax.typeof(x).memory_space == space.Host
    return jax.device_put(x, space.Device) if there else x

  return sharding.constrain(jax.tree.map(bring, tree), rules)


@functools.partial(
  jax.jit,
  static_argnames=('forward', 'turn', 'tx', 'rules', 'micro_batches'),
  donate_argnums=0,
)
def take_turn(
  state: TrainState,
  batch: Batch,
  learning_rate: jax.Array | float,
  mask: Mask = None,
  ref_params: Params = None,
  against: Batch | None = None,
  clip_norm: jax.Array | float | None = None,
  base: Params = None,
  scale: jax.Array | float = 1.0,
  *,
  forward: Forward,
  turn: Turn,
  tx: optax.GradientTransformationExtraArgs,
  rules: Rules = (),
  micro_batches: int = 1,
) -> tuple[TrainState, dict[str, jax.Array]]:
  """Takes one optimizer step on one split.

  Args:
    state: parameters and optimizer state; donated.
    batch: a batch of the turn's split; with ``turn.beside`` it has the batch
      of that split as its entry ``'beside'``.
    learning_rate: rate of this step.
    mask: bool or packed tree; used if the turn is masked.
    ref_params: frozen parameters for KL and NPO, on the devices or from
      ``to_host``; None for the base, if there is one.
    against: a batch of ``turn.project``, whose cross-entropy the step must not
      work against.
    clip_norm: largest gradient norm of this step, inf for none; None keeps the
      norm in the state.
    base: frozen parameters, where the state's parameters are adapters of them
      (``mmu_jax.lora``): the mask acts on the merged weights, and the turn
      trains its own kind of change.
    scale: factor of the adapters.
    forward: the model.
    turn: the turn to take.
    tx: optimizer, made by ``optimizer.build``.
    rules: a tuple of partition rules of the parameters: on the mesh that is
      set, they place gradients and state, so that one program serves every
      turn of a kind.
    micro_batches: number of parts of each batch, one after the other, see
      ``gradients.value_and_grad``; divides the rows.

  Returns:
    The new state, and float32 scalars: ``loss``, ``grad_norm`` (before mask,
    projection and clip) and ``update_norm`` (after all); ``beside_loss``, the
    last term, of a loss of two batches that returns its terms.

  Raises:
    ValueError: before compiling, from ``check_turn``, or if the rows cannot be
      shared by the micro-batches.
  """
  check_turn(turn, micro_batches)
  gradient = functools.partial(
    gradients.value_and_grad, parts=micro_batches, rules=rules
  )
  ref_params = base if ref_params is None else from_host(ref_params, rules)
  mask = mask if turn.masked or base is not None else None
  whole = lambda params: params
  if base is not None:
    whole = functools.partial(
      lora.merge, base, mask=mask, scale=scale, rules=rules
    )
    mask = lora.trained(state.params, turn.masked)
  loss = lambda p, part: turn.loss(forward, whole(p), ref_params, part)
  value, grads = gradient(loss, state.params, batch, measure=turn.measure)
  retain_grads = None
  if turn.project is not None:
    retain_loss = lambda p, part: descend(forward, whole(p), None, part)
    _, retain_grads = gradient(
      retain_loss, state.params, against, measure=answer_weight
    )
  step = {'learning_rate': learning_rate, 'clip_norm': clip_norm}
  hyperparams = state.opt_state.hyperparams | {
    k: jnp.asarray(v, jnp.float32) for k, v in step.items() if v is not None
  }
  # The clip reads the norm of the whole gradient, if only to be NaN where that
  # is: otherwise XLA may measure it last, and keep two gradients until then.
  grad_norm = optax.tree.norm(grads)
  hyperparams['clip_norm'] = jnp.where(
    jnp.isnan(grad_norm), jnp.nan, hyperparams['clip_norm']
  )
  updates, opt_state = tx.update(
    grads,
    state.opt_state._replace(hyperparams=hyperparams),
    state.params,
    mask=mask,
    against=retain_grads,
  )
  # No mask here: where it froze a weight the update is 0, which keeps its bits.
  params = transforms.apply_updates(state.params, updates)
  measured = {
    'loss': jax.tree.reduce(jnp.add, value),
    'grad_norm': grad_norm,
    'update_norm': optax.tree.norm(updates),
  }
  if turn.beside and isinstance(value, tuple):
    measured['beside_loss'] = value[-1]
  state = sharding.constrain(TrainState(params, opt_state), rules)
  return state, sharding.replicate(measured)
