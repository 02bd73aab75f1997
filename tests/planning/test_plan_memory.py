"""Estimates of memory agree with XLA, JAX, and what sizes say."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from mmu_jax import methods
from mmu_jax import models
from mmu_jax import sharding
from mmu_jax.models import clip_vit
from mmu_jax.models import llama
from mmu_jax.models import llava
from mmu_jax.planning import activations
from mmu_jax.planning import compiled
from mmu_jax.planning import layout
from mmu_jax.planning import memory
from mmu_jax.planning import shapes
from mmu_jax.planning.shapes import Rows

# The model of the config people; its data gives 370 words and 104 tokens.
PEOPLE = llava.LlavaConfig(
  clip_vit.ClipVisionConfig(96, 384, 3, 2, 48, 12),
  llama.LlamaConfig(370, 128, 344, 4, 2, 2),
  vision_feature_layer=-1,
)
ADAMW = dict(name='adamw', weight_decay=0.05, b2=0.98)
HF_ADAMW = dict(name='hf_adamw')
WITHIN = 0.1


def _error(mesh, name, index, rows, options=HF_ADAMW, remat='none', parts=1):
  """The relative error of an estimated peak, against XLA's."""
  model = models.build(dataclasses.replace(PEOPLE, remat=remat))
  turn = methods.make(name)[index]
  setting = memory.Setting(layout.parse(mesh), parts, compiler=memory.CPU)
  need = memory.of_turn(model, turn, rows, setting, options)
  made = compiled.turn(
    model, turn, rows, sharding.make_mesh(mesh), options, parts
  )
  found = compiled.memory(made)
  assert need.arguments == pytest.approx(found.arguments, rel=1e-3)
  return (need.arguments + need.temporaries) / found.peak - 1


slow = lambda *case: pytest.param(*case, marks=pytest.mark.slow)


@pytest.mark.parametrize(
  'mesh, name, index, rows, options',
  [
    ('data=1', 'finetune', 0, 32, ADAMW),
    ('fsdp=8', 'kl_min', 1, 12, HF_ADAMW),
    slow('fsdp=8', 'finetune', 0, 32, ADAMW),
    slow('data=1', 'kl_min', 1, 12, HF_ADAMW),
    slow('data=1', 'mmunlearner', 0, 6, HF_ADAMW),
    slow('fsdp=8', 'mmunlearner', 0, 6, HF_ADAMW),
    slow('fsdp=8', 'npo', 0, 6, HF_ADAMW),
  ],
)
def test_a_turn_of_the_small_model_needs_what_xla_says(
  mesh, name, index, rows, options
):
  assert abs(_error(mesh, name, index, Rows(rows, 104, 1), options)) < WITHIN


@pytest.mark.parametrize('remat', [slow('dots'), 'full'])
def test_the_estimate_follows_the_remat_policy(remat):
  error = _error('data=1', 'finetune', 0, Rows(32, 104, 1), remat=remat)
  assert abs(error) < WITHIN


@pytest.mark.parametrize('mesh', [slow('data=1'), 'fsdp=8'])
def test_an_importance_of_the_small_model_needs_what_xla_says(mesh):
  model, rows = models.build(PEOPLE), Rows(16, 104, 1)
  setting = memory.Setting(layout.parse(mesh), compiler=memory.CPU)
  need = memory.of_importance(model, rows, setting)
  found = compiled.memory(
    compiled.importance(model, rows, sharding.make_mesh(mesh))
  )
  assert need.arguments == pytest.approx(found.arguments, rel=1e-3)
  assert need.peak == pytest.approx(found.peak, rel=WITHIN)


@pytest.mark.slow
@pytest.mark.parametrize('family', ['llava', 'qwen2_vl'])
def test_a_7b_turn_on_eight_devices_needs_what_xla_says(family):
  config = models.MODELS[family].config(dtype='bfloat16', remat='full')
  model = models.build(config)
  rows = Rows(8, 768, 1 if family == 'llava' else 1024)
  setting = memory.Setting(layout.parse('fsdp=8'), compiler=memory.CPU)
  turn = methods.make('mmunlearner')[0]
  need = memory.of_turn(model, turn, rows, setting, HF_ADAMW)
  made = compiled.turn(
    model, turn, rows, sharding.make_mesh('fsdp=8'), HF_ADAMW
  )
  found = compiled.memory(made)
  assert need.arguments == pytest.approx(found.arguments, rel=1e-3)
  assert need.peak == pytest.approx(found.peak, rel=WITHIN)


def test_arguments_are_the_bytes_of_placed_arrays():
  model = models.build(PEOPLE)
  mesh = sharding.make_mesh('data=2,fsdp=2,tensor=2')
  params = jax.jit(
    model.init,
    out_shardings=sharding.shardings(
      model.abstract_params, model.partition_rules, mesh
    ),
  )(jax.random.key(np.random.default_rng().integers(1000)))
  device = jax.devices()[0]
  here = sum(
    shard.data.nbytes
    for leaf in jax.tree.leaves(params)
    for shard in leaf.addressable_shards
    if shard.device == device
  )
  on = layout.parse('data=2,fsdp=2,tensor=2')
  assert layout.tree_bytes(model.abstract_params, model, on) == here


def test_kept_values_grow_with_the_rows_as_the_residuals_of_jax_do():
  model = models.build(PEOPLE)
  rng = np.random.default_rng()
  count, length = int(rng.integers(2, 6)), int(rng.integers(20, 40))
  batch = shapes.batch(model, Rows(count, length, 1))
  loss = functools.partial(methods.descend, model.forward)

  def residuals(params, batch):
    return jax.vjp(lambda p: loss(p, None, batch), params)[1]

  own = {x.shape for x in jax.tree.leaves(model.abstract_params)}
  leaves = jax.tree.leaves(
    jax.eval_shape(residuals, model.abstract_params, batch)
  )
  want = sum(shapes.num_bytes(x) for x in leaves if x.shape not in own)
  kept = activations.kept(PEOPLE, methods.descend, length, 1, 'none')
  got = sum(v.size * v.itemsize * (count if v.by_row else 1) for v in kept)
  assert got == pytest.approx(want, rel=0.01)


def test_stronger_policies_keep_less():
  sizes = [
    sum(
      v.size * v.itemsize
      for v in activations.kept(PEOPLE, methods.descend, 104, 1, remat)
    )
    for remat in ('none', 'dots', 'full')
  ]
  assert sizes[0] > 2 * sizes[1] > 4 * sizes[2]


def test_a_thousand_devices_share_a_model_that_none_of_them_has():
  model = models.build(llava.LlavaConfig())
  whole = layout.tree_bytes(model.abstract_params, model, layout.mesh())
  part = layout.tree_bytes(model.abstract_params, model, layout.mesh(fsdp=1024))
  assert whole / 1024 <= part < 1.3 * whole / 1024  # norms are whole


def test_a_reference_that_waits_on_the_host_needs_nothing_in_other_turns():
  model, rows = models.build(PEOPLE), Rows(8, 104, 1)
  turn = methods.make('kl_min')[0]  # the forget turn reads no reference
  needs = [
    memory.of_turn(
      model,
      turn,
      rows,
      memory.Setting(layout.mesh(), offload=offload),
      HF_ADAMW,
      reference=True,
    )
    for offload in ((), ('reference',))
  ]
  assert needs[0].peak - needs[1].peak == needs[0].held['parameters']


def test_micro_batches_trade_activations_for_one_tree_of_sums():
  model, rows = models.build(PEOPLE), Rows(32, 104, 1)
  turn = methods.finetune()[0]
  one, eight = (
    memory.of_turn(
      model, turn, rows, memory.Setting(layout.mesh(), n), HF_ADAMW
    )
    for n in (1, 8)
  )
  layers = [need.phases['layers'] for need in (one, eight)]
  # But for what does not grow with the rows.
  assert layers[1]['activations'] == pytest.approx(
    layers[0]['activations'] / 8, rel=0.05
  )
  assert layers[1]['gradients'] == 2 * layers[0]['gradients']


@pytest.mark.parametrize('spec', ['fsdp=-1', 'fsdp', 'rows=2', 'fsdp=0'])
def test_a_mesh_without_sizes_is_refused(spec):
  with pytest.raises(ValueError, match='written like data=2,fsdp=4'):
    layout.parse(spec)
