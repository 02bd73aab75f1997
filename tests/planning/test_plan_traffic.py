"""Operations and bytes moved are those of XLA's program, and of arithmetic."""

import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmu_jax import methods
from mmu_jax import models
from mmu_jax import sharding
from mmu_jax.models import clip_vit
from mmu_jax.models import llama
from mmu_jax.models import llava
from mmu_jax.planning import chips
from mmu_jax.planning import compiled
from mmu_jax.planning import flops
from mmu_jax.planning import layout
from mmu_jax.planning import scaling
from mmu_jax.planning import traffic
from mmu_jax.planning.memory import Setting
from mmu_jax.planning.shapes import Rows

# One layer in each stack: XLA counts the body of a loop once.
SHALLOW = llava.LlavaConfig(
  clip_vit.ClipVisionConfig(64, 256, 1, 2, 48, 12),
  llama.LlamaConfig(320, 128, 384, 1, 2, 2),
  vision_feature_layer=-1,
)


def test_a_scan_counts_as_often_as_it_runs():
  n, times = (int(x) for x in np.random.default_rng().integers(3, 9, 2))
  x = jnp.ones((n, n))
  loop = lambda x: jax.lax.scan(lambda c, _: (c @ c, None), x, length=times)
  assert flops.count(jax.make_jaxpr(loop)(x)) == times * 2 * n**3


def test_operations_are_those_that_xla_counts():
  rows = Rows(8, 64, 1)
  model = models.build(SHALLOW)
  made = compiled.turn(
    model,
    methods.finetune()[0],
    rows,
    sharding.make_mesh('data=1'),
    dict(name='hf_adamw'),
  )
  found = flops.of_loss(SHALLOW, methods.descend, rows.length, rows.room)
  # XLA adds what is no matrix product, optimizer included.
  assert rows.rows * found.total == pytest.approx(
    made.cost_analysis()['flops'], rel=0.15
  )


def test_backward_is_twice_forward_and_full_remat_computes_again():
  config = llava.LlavaConfig(dtype='bfloat16', remat='full')
  found = flops.of_loss(config, methods.descend, 768, 1)
  assert found.backward == pytest.approx(2 * found.forward, rel=0.03)
  # All but the output layer, and the last product of each layer.
  assert 0.6 < found.again / found.forward < 1
  text = 768 * 2 * 6.74e9  # two for each weight of the decoder and token
  assert found.forward == pytest.approx(text, rel=0.1)


def test_gathered_weights_are_those_of_xlas_program():
  model = models.build(SHALLOW)
  rows, spec = Rows(8, 64, 1), 'fsdp=8'
  made = compiled.turn(
    model,
    methods.finetune()[0],
    rows,
    sharding.make_mesh(spec),
    dict(name='hf_adamw'),
  )
  kernels = [
    leaf
    for leaf in layout.leaves(model, layout.parse(spec)).values()
    if leaf.fsdp > 1
  ]
  want = sorted({leaf.gathered for leaf in kernels})
  got = [
    _size(m)
    for m in re.findall(r'= f32\[([\d,]+)\]\S* all-gather', made.as_text())
  ]
  found = sum(n in want for n in got)
  # Every kernel is gathered for forward; backward does so again but where
  # XLA sees, with loops of one layer, that it has it.
  assert len(kernels) * 0.8 <= found <= 2 * len(kernels)


def _size(text):
  return math.prod(int(n) for n in text.split(','))


def test_what_fsdp_moves_is_three_times_the_weights():
  model = models.build(llava.LlavaConfig(dtype='bfloat16', remat='full'))
  on = layout.mesh(fsdp=1024)
  turn = methods.finetune()[0]
  found = traffic.of_turn(model, turn, Rows(1024, 768, 1), Setting(on))
  weights = 2 * sum(
    leaf.size for leaf in layout.leaves(model, on).values() if leaf.fsdp > 1
  )
  moved = found.gather_forward + found.gather_backward + found.scatter
  assert moved == pytest.approx(3 * weights, rel=2e-3)
  assert found.tensor == 0


def test_weak_scaling_computes_the_same_on_every_device():
  model = models.build(llava.LlavaConfig(dtype='bfloat16', remat='full'))
  points = scaling.points(
    model, methods.finetune()[0], Rows(4, 768, 1), chips.CHIPS['h100']
  )
  assert len({round(p.traffic.flops) for p in points}) == 1
  tokens = scaling.least_tokens(points[-1], Rows(4, 768, 1))
  # So many rows as take 1.3 times and 0.7 times as long as moving.
  for share, bound in ((1.3, 'compute'), (0.7, 'communication')):
    rows = Rows(1, round(share * tokens), 1)
    last = scaling.points(
      model, methods.finetune()[0], rows, chips.CHIPS['h100']
    )[-1]
    assert last.devices == 1024 and last.times.bound == bound


def test_times_within_a_tenth_are_called_equal():
  judged = [traffic.Times(1.0, move).bound for move in (0.8, 0.95, 1.1, 1.2)]
  assert judged == ['compute', 'equal', 'equal', 'communication']


def test_a_ring_leaves_a_node_by_all_adapters_that_no_other_ring_needs():
  chip = chips.CHIPS['h100']
  whole = traffic.Traffic(0, 0, 1e9, 0, 0, 0)
  summed = traffic.Traffic(0, 0, 0, 1e9, 0, 0)
  seconds = lambda moved, spec: (
    traffic.times(moved, chip, layout.parse(spec)).move
  )
  assert seconds(whole, 'fsdp=8') == pytest.approx(1e9 / 450e9)
  # Eight adapters of 50 GB/s for one ring, for two, and for eight.
  assert seconds(whole, 'fsdp=64') == pytest.approx(1e9 / 400e9)
  assert seconds(whole, 'fsdp=32,tensor=2') == pytest.approx(1e9 / 200e9)
  assert seconds(summed, 'data=8,fsdp=8') == pytest.approx(1e9 / 50e9)
  assert seconds(summed, 'data=64') == pytest.approx(1e9 / 400e9)


def _on(rows, *meshes):
  """The traffic of a turn of LLaVA-7B on some meshes."""
  model = models.build(llava.LlavaConfig(dtype='bfloat16', remat='full'))
  turn = methods.finetune()[0]
  return (
    traffic.of_turn(model, turn, rows, Setting(layout.parse(spec)))
    for spec in meshes
  )


def test_an_axis_that_divides_nothing_neither_helps_nor_moves():
  one, three = _on(Rows(8, 640, 1), 'fsdp=8', 'fsdp=8,tensor=3')
  assert three.tensor == 0 and three.flops == pytest.approx(one.flops, rel=0.02)


def test_tensor_parallelism_moves_activations_and_fewer_weights():
  config = llava.LlavaConfig(dtype='bfloat16', remat='full')
  rows, turn = Rows(8, 768, 1), methods.finetune()[0]
  pure, split = _on(rows, 'fsdp=8', 'fsdp=4,tensor=2')
  assert split.scatter < pure.scatter and split.tensor > 0
  assert split.flops == pytest.approx(pure.flops)
  none = dataclasses.replace(config, remat='none')
  kept = traffic.of_turn(
    models.build(none), turn, rows, Setting(layout.parse('fsdp=4,tensor=2'))
  )
  assert kept.tensor == pytest.approx(split.tensor * 4 / 5)
