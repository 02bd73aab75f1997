"""Operations and bytes moved, by XLA's count and by arithmetic."""

import jax
import jax.numpy as jnp
import numpy as np
import plans
import pytest

from mmu_jax import objectives
from mmu_jax.models import clip_vit
from mmu_jax.models import llama
from mmu_jax.models.families import llava
from mmu_jax.planning import compiled
from mmu_jax.planning import memory
from mmu_jax.planning import roofline

# One layer in each stack: XLA counts the body of a loop once.
SHALLOW = llava.LlavaConfig(
  clip_vit.ClipVisionConfig(64, 256, 1, 2, 48, 12),
  llama.LlamaConfig(320, 128, 384, 1, 2, 2),
  vision_feature_layer=-1,
)


def _step(spec, count=8, method='finetune'):
  program = plans.turn(method, 0, count, 768)
  on = plans.setting(spec, config=plans.LLAVA_7B)
  return roofline.step_time(program, on, 'h100')


def test_a_scan_counts_as_often_as_it_runs():
  n, times = (int(x) for x in np.random.default_rng().integers(3, 9, 2))
  x = jnp.ones((n, n))
  loop = lambda x: jax.lax.scan(lambda c, _: (c @ c, None), x, length=times)
  assert roofline.count_flops(jax.make_jaxpr(loop)(x)) == times * 2 * n**3


def test_operations_are_those_that_xla_counts():
  on = plans.setting(config=SHALLOW)
  made = compiled.lower(plans.turn('finetune', 0, 8, 64), on).compile()
  found = 8 * roofline.row_flops(SHALLOW, objectives.descend, 64, 1)
  # XLA adds what is no matrix product, optimizer included.
  assert found == pytest.approx(made.cost_analysis()['flops'], rel=0.15)


def test_a_gradient_costs_six_for_each_weight_and_token_and_remat_two_more():
  none = plans.model(plans.LLAVA_7B, remat='none').config
  flops = [
    roofline.row_flops(config, objectives.descend, 768, 1)
    for config in (none, plans.LLAVA_7B)
  ]
  decoder = 768 * 6.74e9
  assert flops[0] == pytest.approx(6 * decoder, rel=0.1)
  assert 0.6 * 2 * decoder < flops[1] - flops[0] < 1.05 * 2 * decoder


def test_fsdp_moves_the_weights_three_times():
  on = plans.setting('fsdp=1024', config=plans.LLAVA_7B)
  weights = sum(
    leaf.size for leaf in on.leaves.values() if leaf.local < leaf.size
  )
  moved = _step('fsdp=1024', count=1024).moved
  assert moved == pytest.approx(3 * 2 * weights, rel=3e-3)
  assert _step('data=1').moved == 0


def test_a_reference_is_gathered_too_and_a_projection_does_all_twice():
  one, npo, two = (
    _step('fsdp=8', method=m)
    for m in ('mmunlearner', 'npo', 'mmunlearner_projected')
  )
  assert npo.moved == pytest.approx(one.moved * 4 / 3, rel=1e-3)
  assert two.flops == pytest.approx(2 * one.flops)
  assert two.moved == pytest.approx(2 * one.moved)


def test_a_turn_on_two_batches_computes_as_its_two_terms_do():
  """The ascent reads a reference, as npo does; beside it is a descent."""
  rows = dict(count=8, length=64)
  on = plans.setting(config=SHALLOW)
  flops = lambda *turn, **more: (
    roofline.step_time(plans.turn(*turn, **rows, **more), on, 'h100').flops
  )
  more = memory.Rows(24, 64, 1)
  got = flops('counterfactual', beside=more)
  assert got == pytest.approx(flops('npo') + 3 * flops('finetune'), rel=1e-6)


def test_tensor_parallelism_moves_activations_and_shares_the_operations():
  pure, split = _step('fsdp=8'), _step('fsdp=4,tensor=2')
  assert split.flops == pytest.approx(pure.flops, rel=0.02)
  # Inputs of 32 layers and 23 of the tower, of 2 rows, five times.
  inputs = 2 * 2 * (32 * 768 * 4096 + 23 * 577 * 1024)
  over_tensor = 2 * (1 / 2) * 5 * inputs
  gathered = pure.moved / 2 * (3 / 4) / (7 / 8)
  assert split.moved == pytest.approx(over_tensor + gathered, rel=0.02)


def test_a_ring_leaves_a_node_by_all_adapters_that_no_other_ring_needs():
  chip = roofline.CHIPS['h100']
  rings = ((8, 1), (64, 1), (64, 2), (64, 8))
  found = [roofline._speed(chip, *ring) / 1e9 for ring in rings]
  assert found == [450, 400, 200, 50]


def test_more_rows_on_a_device_turn_communication_into_compute():
  few, many = _step('fsdp=64', 64), _step('fsdp=64', 1024)
  assert few.move == many.move
  assert many.compute == pytest.approx(16 * few.compute)
  assert few.compute < few.move < many.compute
