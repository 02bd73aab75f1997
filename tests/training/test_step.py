"""One turn: its descent, its reference in the host's memory, its refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from mmu_jax import masks
from mmu_jax import methods
from mmu_jax.training import optimizer
from mmu_jax.training import step as step_lib

pytestmark = pytest.mark.usefixtures('quick_compile')


def _take(name, ref_params=None, rate=0.1):
  turn, tx = methods.make(name)[-1], optimizer.build('sgd')
  return step_lib.take_turn(
    step_lib.init(toy.params(0), tx),
    toy.batch(0),
    rate,
    None,
    ref_params,
    forward=toy.forward,
    turn=turn,
    tx=tx,
  )


def test_the_update_norm_of_sgd_is_the_rate_times_the_clipped_gradient():
  for rate in (0.1, 0.2):
    _, measured = _take('finetune', rate=rate)
    clipped = min(float(measured['grad_norm']), 1.0)
    assert float(measured['update_norm']) == pytest.approx(
      rate * clipped, rel=1e-5
    )


def test_a_reference_in_the_memory_of_the_host_gives_the_same_bits():
  ref = toy.perturb(toy.params(0), 1, 0.2)
  moved = step_lib.to_host(ref)
  kinds = {x.sharding.memory_kind for x in jax.tree.leaves(moved)}
  assert kinds == {step_lib.HOST}
  (got, _), (want, _) = (_take('kl_min', r) for r in (moved, ref))
  np.testing.assert_array_equal(toy.vector(got.params), toy.vector(want.params))


def test_a_turn_needs_at_least_one_micro_batch():
  with pytest.raises(ValueError, match='a number >= 1, got 0'):
    step_lib.check_turn(methods.make('finetune')[0], 0)


def _deep(params, batch):
  """Layers whose activations are small beside their weights."""
  for w in params.values():
    batch = jnp.tanh(batch @ w)
  return batch


def _squares(forward, params, ref_params, batch):
  del ref_params
  return jnp.sum(forward(params, batch) ** 2)


@pytest.mark.parametrize('masked', [False, True])
@pytest.mark.parametrize('schedule', ['DEFAULT', 'MEMORY_OPTIMIZED'])
def test_a_step_of_adam_has_one_tree_beside_its_state(schedule, masked):
  """Updates take the place of gradients, in whatever order XLA runs them."""
  params = {f'w{i:02}': jnp.ones((64, 64)) for i in range(24)}
  tx = optimizer.build('adamw', weight_decay=0.1)
  mask = masks.pack(jax.tree.map(lambda x: x > 0, params))
  lowered = step_lib.take_turn.lower(
    jax.eval_shape(lambda p: step_lib.TrainState(p, tx.init(p)), params),
    jnp.ones((4, 64)),
    0.1,
    mask if masked else None,
    clip_norm=1.0,
    forward=_deep,
    turn=methods.Turn('train', _squares, masked=masked),
    tx=tx,
  )
  option = {'xla_cpu_scheduler_type': f'CPU_SCHEDULER_TYPE_{schedule}'}
  found = lowered.compile(option).memory_analysis().temp_size_in_bytes
  assert found < 1.2 * sum(x.nbytes for x in params.values())


def test_a_gradient_that_is_not_a_number_shows_in_the_step():
  """Though it is of frozen weights: the state of such a run is not kept."""
  params = {'w': jnp.array([1.0, jnp.nan]), 'v': jnp.ones(2)}
  tx = optimizer.build('sgd')
  _, measured = step_lib.take_turn(
    step_lib.TrainState(params, tx.init(params)),
    jnp.ones(2),
    0.1,
    {'w': jnp.array([True, False]), 'v': jnp.array([True, True])},
    forward=lambda p, x: p['w'] * x + p['v'],
    turn=methods.Turn('forget', _squares, masked=True),
    tx=tx,
  )
  assert np.isnan(measured['grad_norm']) and np.isnan(measured['update_norm'])
