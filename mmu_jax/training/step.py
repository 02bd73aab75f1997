"""One turn: a loss, its gradient, the chain, an exact apply."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from mmu_jax import transforms
from mmu_jax.methods import descend
from mmu_jax.methods import Turn
from mmu_jax.typing import Batch, Forward, Mask, Params


class TrainState(NamedTuple):
  """What a run carries from turn to turn."""

  params: Params
  opt_state: optax.OptState


def init(
    params: Params, tx: optax.GradientTransformationExtraArgs
) -> TrainState:
  """Starts a run from a copy of parameters: turns give their buffers away."""
  params = jax.tree.map(jnp.copy, params)
  return TrainState(params, tx.init(params))


@functools.partial(
    jax.jit, static_argnames=('forward', 'turn', 'tx'), donate_argnums=0
)
def take_turn(
    state: TrainState,
    batch: Batch,
    learning_rate: jax.Array | float,
    mask: Mask = None,
    ref_params: Params = None,
    against: Batch | None = None,
    clip_norm: jax.Array | float | None = None,
    *,
    forward: Forward,
    turn: Turn,
    tx: optax.GradientTransformationExtraArgs,
) -> tuple[TrainState, dict[str, jax.Array]]:
  """Takes one optimizer step on one split.

  Args:
    state: parameters and optimizer state; donated.
    batch: of the turn's split.
    learning_rate: of this step.
    mask: bool or packed; used if the turn is masked.
    ref_params: frozen parameters for KL and NPO.
    against: a batch of ``turn.project``, whose cross-entropy the step must not
      work against.
    clip_norm: of this step, inf for none; None leaves what the state has.
    forward: the model.
    turn: what to do.
    tx: from ``optimizer.build``.

  Returns:
    The new state, and float32 scalars: ``loss``, ``grad_norm`` (before mask,
    projection and clip) and ``update_norm`` (after all).
  """
  loss = functools.partial(turn.loss, forward)
  value, grads = jax.value_and_grad(loss)(state.params, ref_params, batch)
  retain_grads = None
  if turn.project is not None:
    retain_loss = functools.partial(descend, forward)
    retain_grads = jax.grad(retain_loss)(state.params, None, against)
  mask = mask if turn.masked else None
  step = {'learning_rate': learning_rate, 'clip_norm': clip_norm}
  hyperparams = state.opt_state.hyperparams | {
      k: jnp.asarray(v, jnp.float32) for k, v in step.items() if v is not None
  }
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
      'loss': value,
      'grad_norm': optax.tree.norm(grads),
      'update_norm': optax.tree.norm(updates),
  }
  return TrainState(params, opt_state), measured
