"""One turn: its descent, its reference in the host's memory, its refusals."""

import jax
import numpy as np
import pytest
import toy

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
