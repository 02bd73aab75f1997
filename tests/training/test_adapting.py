"""Runs of adapters: frozen bits, one change for each kind of turn, meshes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from mmu_jax import checkpoint
from mmu_jax import lora as lora_lib
from mmu_jax import methods
from mmu_jax import sharding
from mmu_jax import tree as tree_lib
from mmu_jax.distributed import preemption
from mmu_jax.training import loop
from mmu_jax.training import optimizer
from mmu_jax.training import step as step_lib

pytestmark = pytest.mark.usefixtures('quick_compile')
RULES = (
  (r'.*kernel', jax.sharding.PartitionSpec('fsdp', 'tensor')),
  (r'.*', jax.sharding.PartitionSpec()),
)


def _lora(params, **options):
  names = lora_lib.choose_targets(['all-linear'], params, {})
  return lora_lib.Lora(names, **{'rank': 4, 'alpha': 8.0} | options)


def _plan(params, method='ga_diff', lora=None, **changes):
  turns = methods.make(method)
  masked = any(turn.masked for turn in turns)
  splits = ('forget', 'retain')
  stream = lambda seed: lambda step: toy.batch(1000 * seed + step, rows=2)
  return loop.Plan(
    turns=turns,
    streams={k: stream(i) for i, k in enumerate(splits)},
    rates=dict.fromkeys(splits, lambda _: 1e-2),
    rounds=3,
    forward=toy.forward,
    tx=optimizer.build('adamw', eps=1e-3, weight_decay=0.1),
    mask=toy.random_mask(params, 1) if masked else None,
    lora=_lora(params) if lora is None else lora,
  )._replace(**changes)


def _fit(plan, params, folder, **options):
  start = lambda: jax.tree.map(jnp.array, params)
  return loop.fit(plan, params, start, folder, **options)


def _bits(tree):
  found = tree_lib.flatten(tree).items()
  return {k: np.asarray(x).view(np.uint32) for k, x in found}


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_frozen_weights_keep_their_bits_for_50_rounds(tmp_path, dtype):
  """Under weight decay and momentum, and from a base in bfloat16."""
  params = toy.params(2)
  lora = _lora(params, dtype=dtype)
  plan = _plan(params, 'mmunlearner_strict', lora, rounds=50)
  final = _bits(_fit(plan, params, tmp_path, save_every=100))
  moved = 0
  for name, was in _bits(params).items():
    on = np.asarray(tree_lib.flatten(plan.mask)[name])
    same = final[name] == was
    if name in lora.targets:
      assert same[~on].all() and same[on].mean() < 0.05
      moved += (~same).sum()
    else:
      assert same.all()
  assert moved > 50
  kept = checkpoint.restore(tmp_path / loop.FINAL, params).tree
  assert all((final[k] == x).all() for k, x in _bits(kept).items())


def test_the_adapters_beside_the_model_make_it(tmp_path):
  params = toy.params(3)
  plan = _plan(params, 'mmunlearner', rounds=5)
  probed = []
  look = lambda p: probed.append(toy.vector(p)) or {'x': 1.0}
  final = _fit(plan, params, tmp_path, probe=look, probe_every=5)
  like = lora_lib.new_adapters(
    jax.random.key(0), params, plan.lora, ('masked', 'free')
  )
  found = checkpoint.restore(tmp_path / loop.ADAPTERS, like)
  made = lora_lib.merge(params, found.tree, plan.mask, scale=2.0)
  np.testing.assert_allclose(toy.vector(made), toy.vector(final), atol=1e-6)
  assert found.note['lora']['rank'] == 4
  np.testing.assert_allclose(probed[0], toy.vector(params), atol=1e-7)
  np.testing.assert_allclose(probed[1], toy.vector(final), atol=1e-7)
  # The free change moves frozen weights too, the masked one moves others.
  for kind in ('masked', 'free'):
    alone = lora_lib.merge(
      params, {kind: found.tree[kind]}, plan.mask, scale=2.0
    )
    assert toy.relative_error(alone, params) > 1e-3
  moments = [x for x in tmp_path.iterdir() if x.name == loop.RUNNING]
  assert not moments


def test_a_turn_leaves_the_other_change_alone():
  params = toy.params(4)
  plan = _plan(params, 'mmunlearner')
  new = lora_lib.new_adapters(
    jax.random.key(0), params, plan.lora, ('masked', 'free')
  )
  new = toy.tree_like(new, 5)
  for turn, own in zip(plan.turns, ('masked', 'free')):
    state = step_lib.init(jax.tree.map(jnp.array, new), plan.tx)
    state, _ = step_lib.take_turn(
      state,
      toy.batch(6),
      0.1,
      plan.mask,
      base=params,
      scale=2.0,
      forward=toy.forward,
      turn=turn,
      tx=plan.tx,
    )
    was, now = _bits(new), _bits(state.params)
    for name in was:
      share = (was[name] == now[name]).mean()
      assert share < 0.1 if name.startswith(own) else share == 1


def test_the_first_step_is_the_gradient_of_the_merged_model():
  """SGD at a rate r moves the factors by -r times the dense formulas."""
  params = toy.params(7)
  lora, mask = _lora(params), toy.random_mask(params, 8)
  new = lora_lib.new_adapters(jax.random.key(2), params, lora, ('masked',))
  new = toy.tree_like(new, 9)
  (turn, _), tx = methods.mmunlearner_strict(), optimizer.build('sgd')
  made = toy.batch(10)
  state, _ = step_lib.take_turn(
    step_lib.init(jax.tree.map(jnp.array, new), tx),
    made,
    0.5,
    mask,
    None,
    None,
    jnp.inf,
    params,
    lora.scale,
    forward=toy.forward,
    turn=turn,
    tx=tx,
  )
  whole = lora_lib.merge(params, new, mask, scale=lora.scale)
  grads = tree_lib.flatten(jax.grad(toy.loss)(whole, made))
  was, now = tree_lib.flatten(new), tree_lib.flatten(state.params)
  on = tree_lib.flatten(mask)
  for name in lora.targets:
    a, b = (was[f'masked/{name}/{x}'] for x in 'AB')
    g = jnp.where(on[name], -grads[name], 0)  # ascent
    flip = lambda x: jnp.swapaxes(x, -1, -2)
    want = {'A': 2.0 * g @ flip(b), 'B': 2.0 * flip(a) @ g}
    for x, step in want.items():
      key = f'masked/{name}/{x}'
      got = np.asarray(was[key] - now[key])
      bound = 1e-5 * float(jnp.abs(step).max()) + 3e-7
      np.testing.assert_allclose(got, 0.5 * step, rtol=0, atol=bound)
      assert np.abs(got).max() > 1e-5


def test_without_a_reference_the_base_is_the_reference(tmp_path):
  params = toy.params(11)
  plan = _plan(params, 'kl_min')
  alone = _fit(plan, params, tmp_path / 'a')
  given = _fit(plan._replace(ref_params=params), params, tmp_path / 'b')
  assert toy.vector(alone).tobytes() == toy.vector(given).tobytes()
  other = plan._replace(ref_params=toy.perturb(params, 1, 0.3))
  assert toy.relative_error(_fit(other, params, tmp_path / 'c'), alone) > 1e-5


def test_micro_batches_change_rounding_alone(tmp_path):
  params = toy.params(12)
  plan = _plan(params, 'mmunlearner')
  one = _fit(plan, params, tmp_path / 'a')
  two = _fit(plan._replace(micro_batches=2), params, tmp_path / 'b')
  assert toy.relative_error(two, one) < 1e-6 < toy.relative_error(one, params)


def test_a_stopped_run_goes_on_on_another_mesh(tmp_path, monkeypatch):
  params = toy.params(13)

  def run(spec, folder):
    mesh = sharding.make_mesh(spec)

    def stream(seed):
      def batch(step):
        made = toy.batch(1000 * seed + step, rows=8)
        return sharding.place(jax.tree.map(np.asarray, made), mesh, 8)

      return batch

    plan = _plan(params, 'mmunlearner', rules=RULES, rounds=4)
    plan = plan._replace(streams={'forget': stream(1), 'retain': stream(2)})
    like = sharding.placed(params, RULES, mesh)
    places = sharding.shardings(params, RULES, mesh)
    start = lambda: jax.device_put(jax.tree.map(jnp.array, params), places)
    with jax.set_mesh(mesh):
      return toy.vector(loop.fit(plan, like, start, folder))

  whole = run('', tmp_path / 'whole')
  monkeypatch.setattr(preemption, 'requested', lambda step: step == 2)
  with pytest.raises(preemption.Preempted):
    run('', tmp_path / 'run')
  monkeypatch.undo()
  got = run('data=2,fsdp=2,tensor=2', tmp_path / 'run')
  np.testing.assert_allclose(got, whole, rtol=1e-5, atol=2e-6)
  assert np.abs(whole - toy.vector(params)).max() > 1e-3
