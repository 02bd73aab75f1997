"""Estimates of memory agree with XLA, and with arithmetic on sizes."""

import dataclasses

import jax
import numpy as np
import plans
import pytest

from mmu_jax import models
from mmu_jax import sharding
from mmu_jax import tree as tree_lib
from mmu_jax.models.families import llava
from mmu_jax.planning import compiled
from mmu_jax.planning import memory

# Its peaks are those of all optimizations to a part in ten thousand.
pytestmark = pytest.mark.usefixtures('quick_compile')
ADAMW = dict(name='adamw', weight_decay=0.05, b2=0.98)
WITHIN = 0.1
slow = lambda *case: pytest.param(*case, marks=pytest.mark.slow)


def _agrees(program, on):
  found = compiled.compare(program, on)
  assert found.arguments == pytest.approx(found.xla_arguments, rel=1e-3)
  assert found.peak == pytest.approx(found.xla_peak, rel=WITHIN)


@pytest.mark.parametrize(
  'mesh, method, index, count, counted, options',
  [
    ('data=1', 'finetune', 0, 32, 0, ADAMW),
    ('fsdp=8', 'kl_min', 1, 12, 24, None),
    slow('fsdp=8', 'mmunlearner_projected', 0, 6, 0, None),
    slow('fsdp=4,tensor=2', 'npo', 0, 6, 24, None),
  ],
)
def test_a_turn_needs_what_xla_says(
  mesh, method, index, count, counted, options
):
  program = plans.turn(method, index, count, counted=counted, options=options)
  _agrees(program, plans.setting(mesh))


@pytest.mark.slow
def test_a_turn_on_two_batches_needs_what_xla_says():
  mixed = memory.Rows(34, 104, 1)
  program = plans.turn('counterfactual', count=6, beside=mixed)
  _agrees(program, plans.setting('fsdp=8'))


@pytest.mark.parametrize('remat', [slow('products'), 'full'])
def test_the_estimate_follows_the_remat_policy(remat):
  config = dataclasses.replace(plans.PEOPLE, remat=remat)
  _agrees(plans.turn('finetune', count=32), plans.setting(config=config))


@pytest.mark.slow
@pytest.mark.parametrize('method', ['ga_diff', 'mmunlearner_projected'])
def test_with_kept_products_small_shards_need_no_more_than_is_said(method):
  """XLA holds little of a layer at once; up to a fifth too much is said."""
  config = dataclasses.replace(plans.PEOPLE, remat='products')
  program = plans.turn(method, count=6)
  found = compiled.compare(program, plans.setting('fsdp=8', config=config))
  assert found.xla_peak <= 1.02 * found.peak <= 1.22 * found.xla_peak


@pytest.mark.slow
def test_micro_batches_need_what_xla_says():
  _agrees(plans.turn('finetune', count=32), plans.setting('data=1', 4))


def test_an_importance_needs_what_xla_says():
  _agrees(plans.importance(), plans.setting('fsdp=8'))


@pytest.mark.slow
def test_a_7b_turn_on_eight_devices_needs_what_xla_says():
  """Of the family that the smaller turns are not of."""
  config = models.MODELS['qwen2_vl'].config(dtype='bfloat16', remat='full')
  program = plans.turn('mmunlearner', 0, 8, 768, 1024, counted=64)
  _agrees(program, plans.setting('fsdp=8', config=config))


def test_a_device_holds_the_bytes_of_placed_arrays():
  model = plans.model()
  mesh = sharding.make_mesh('data=2,fsdp=2,tensor=2')
  rules = model.partition_rules
  places = sharding.shardings(model.abstract_params, rules, mesh)
  empty = lambda x: np.zeros(x.shape, x.dtype)
  params = jax.device_put(jax.tree.map(empty, model.abstract_params), places)
  device = jax.devices()[0]
  here = sum(
    shard.data.nbytes
    for leaf in jax.tree.leaves(params)
    for shard in leaf.addressable_shards
    if shard.device == device
  )
  assert plans.setting('data=2,fsdp=2,tensor=2').params == here


def test_adam_holds_two_moments_and_a_mask_is_bits():
  on = plans.setting()
  held = memory.need(plans.turn('mmunlearner'), on).held
  assert held['parameters'] == 4 * tree_lib.count(on.model.abstract_params)
  assert held['moments'] == pytest.approx(2 * held['parameters'], rel=1e-3)
  assert held['mask'] == pytest.approx(held['parameters'] / 32, rel=0.01)


def test_a_run_holds_mask_and_reference_in_turns_that_read_neither():
  bare, on = plans.turn('finetune'), plans.setting()
  peak = lambda p: memory.need(p, on).peak
  held = memory.need(bare, on).held['parameters']
  assert peak(bare._replace(reference=True)) - peak(bare) == held
  masked = peak(bare._replace(mask=True)) - peak(bare)
  assert masked == pytest.approx(held / 32, rel=0.01)


def test_a_reference_on_the_host_comes_back_for_the_turn_that_reads_it():
  forget, retain = (plans.turn('kl_min', i, reference=True) for i in (0, 1))
  there, waits = plans.setting(), plans.setting(offload=('reference',))
  needs = [memory.need(forget, on) for on in (there, waits)]
  assert needs[0].peak - needs[1].peak == needs[0].held['parameters']
  assert 'reference' not in needs[1].held
  read = memory.need(retain, waits)
  assert read.phases['head']['reference'] == needs[0].held['parameters']


@pytest.mark.parametrize('spec', ['data=8', 'fsdp=8', 'data=2,fsdp=4'])
def test_rows_are_divided_by_data_and_fsdp_and_padded(spec):
  on = plans.setting(spec)
  assert on.local_rows(plans.turn('finetune', count=12)) == 2
  few, many = (
    memory.need(plans.turn('finetune', count=n), on) for n in (8, 64)
  )
  assert many.held['batch'] == 8 * few.held['batch']
  assert many.phases['head']['logits'] == 8 * few.phases['head']['logits']
  whole = memory.need(plans.turn('finetune'), plans.setting())
  assert whole.held['batch'] == 8 * few.held['batch']


def test_logits_and_their_gradient_are_counted_in_the_head():
  need = memory.need(plans.turn('finetune'), plans.setting())
  one = 8 * 104 * 370 * 4  # rows, tokens, words, float32
  assert 2 * one <= need.phases['head']['logits'] <= 5 * one


def test_micro_batches_trade_activations_for_one_tree_of_sums():
  program = plans.turn('finetune', count=32)
  one, eight = (
    memory.need(program, plans.setting('data=1', n)).phases['layers']
    for n in (1, 8)
  )
  # Some values do not grow with the rows.
  want = pytest.approx(one['activations'] / 8, rel=0.05)
  assert eight['activations'] == want
  assert eight['gradients'] == 2 * one['gradients']


def test_rows_in_text_need_no_gradient_of_the_parameters_that_see():
  on = plans.setting()
  seen, read = (
    memory.need(plans.importance(room=room), on).phases['layers']['gradients']
    for room in (1, 0)
  )
  assert seen - read == on.unread > 0


def test_a_mask_is_made_with_a_bool_for_each_tie_and_each_weight():
  on, program = plans.setting(), memory.Program('mask', '', count=3)
  found = memory.need(program, on).largest
  assert found['ties and mask'] == 2 * tree_lib.count(on.model.abstract_params)


def test_a_cache_holds_keys_and_values_and_those_of_a_layer_twice():
  program = memory.Program('evaluate', '', memory.Rows(4, 100, 1), count=28)
  found = memory.need(program, plans.setting())
  entries = 2 * 4 * 4 * (100 + 28) * 128  # layers, rows, slots, width
  assert found.phases['new tokens']['cache'] == 4 * (entries + entries // 4)


def test_a_thousand_devices_share_a_model_that_none_of_them_has():
  whole, part = (
    plans.setting(f'fsdp={n}', config=plans.LLAVA_7B).params for n in (1, 1024)
  )
  assert whole / 1024 <= part < 1.3 * whole / 1024  # norms are whole


def test_a_new_family_needs_what_its_twin_needs(monkeypatch):
  @dataclasses.dataclass(frozen=True)
  class ThirdConfig(llava.LlavaConfig):
    """Sizes of a LLaVA under another name."""

  third = dataclasses.replace(llava.FAMILY, name='third', config=ThirdConfig)
  monkeypatch.setitem(models.MODELS, 'third', third)
  sizes = plans.PEOPLE
  twin = ThirdConfig(
    sizes.vision_config,
    sizes.text_config,
    vision_feature_layer=-1,
    remat=sizes.remat,
  )
  answers = memory.Program('evaluate', '', memory.Rows(4, 100, 1), count=28)
  for program in (plans.turn('npo'), plans.importance(), answers):
    for mesh in ('data=1', 'fsdp=4,tensor=2'):
      made = plans.setting(mesh, config=twin)
      assert made.model.family == 'third'
      want = memory.need(program, plans.setting(mesh))
      assert memory.need(program, made) == want
