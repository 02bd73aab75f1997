"""Frozen means the same bits, whatever the optimizer; projection; HF AdamW."""

import functools
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pages
import pytest
import toy

from mmu_jax import masks
from mmu_jax import transforms
from mmu_jax import tree as tree_lib
from mmu_jax.training import optimizer

# That XLA may optimize more is in test_traps.py, with all_optimizations.
pytestmark = pytest.mark.usefixtures('quick_compile')

GOLDEN = pathlib.Path(__file__).parent / 'golden' / 'hf_adamw_unit.npz'
STEPS = 20
OPTIMIZERS = {
  'sgd': functools.partial(optax.sgd, momentum=0.9, nesterov=True),
  'adam': optax.adam,
  'adamw': functools.partial(optax.adamw, weight_decay=0.1),
  'hf_adamw': functools.partial(transforms.hf_adamw, weight_decay=0.1),
  'adafactor': functools.partial(
    optax.adafactor, min_dim_size_to_factor=6, weight_decay_rate=0.1
  ),
  'lion': functools.partial(optax.lion, weight_decay=0.1),
}


def _chain(name, learning_rate=0.02):
  return optax.chain(
    transforms.mask_updates(),
    transforms.project_updates(),
    optax.clip_by_global_norm(1.0),
    OPTIMIZERS[name](learning_rate),
    transforms.mask_updates(),
  )


def _injected(name):
  chain = lambda learning_rate: _chain(name, learning_rate)
  return optax.inject_hyperparams(chain)(learning_rate=0.02)


def _finite(name):
  return optax.apply_if_finite(_chain(name), 5)


def _every_second(make):
  return lambda name: optax.MultiSteps(make(name), 2).gradient_transformation()


WRAPPERS = {
  'inject_hyperparams': _injected,
  'MultiSteps of apply_if_finite': _every_second(_finite),
  'plain': _chain,
  'MultiSteps': _every_second(_chain),
  'apply_if_finite': _finite,
}
CASES = [
  *((name, wrapper) for name in OPTIMIZERS for wrapper in list(WRAPPERS)[:2]),
  *(('adamw', wrapper) for wrapper in list(WRAPPERS)[2:]),
]


def _weights(seed):
  """Random weights of several ranks, in float32 and in bfloat16."""
  rng = np.random.default_rng(seed)
  draw = lambda dtype, **shapes: {
    name: jnp.asarray(rng.uniform(0.2, 1, s) * rng.choice([-1, 1], s), dtype)
    for name, s in shapes.items()
  }
  return {
    'single': draw(jnp.float32, kernel=(12, 10), layers=(2, 5, 9), one=()),
    'half': draw(jnp.bfloat16, kernel=(10, 12), bias=(21,)),
  }


def _gradients(params, seed):
  """Random gradients with a mean, so that every weight goes somewhere."""
  rng = np.random.default_rng(seed)
  draw = lambda x: jnp.asarray(
    np.sign(x) + rng.standard_normal(x.shape), x.dtype
  )
  return jax.tree.map(draw, params)


def _run(tx, params, mask):
  """Twenty steps under jit; parameters and state are given away each time."""

  @functools.partial(jax.jit, donate_argnums=(0, 1))
  def step(params, state, grads, against, mask):
    updates, state = tx.update(grads, state, params, mask=mask, against=against)
    return transforms.apply_updates(params, updates, mask), state

  start, params = params, jax.tree.map(jnp.copy, params)
  state = tx.init(params)
  for i in range(STEPS):
    grads, against = _gradients(start, i), _gradients(start, STEPS + i)
    params, state = step(params, state, grads, against, mask)
  return params


def _fragile_case(seed):
  """Weights with -0.0 and subnormal numbers among the frozen."""
  params = _weights(seed)
  mask = toy.random_mask(params, seed)
  params = toy.plant_fragile(params, mask, seed)
  found = sum(toy.is_fragile(x).sum() for x in jax.tree.leaves(params))
  assert found == 4 * 6  # in two leaves of each dtype
  return params, mask


def _share_moved(before, after, mask):
  """The share of salient entries whose bits changed."""
  inside = tree_lib.flatten(mask)
  changed = toy.moved(before, after)
  chosen = [x[np.asarray(inside[name])] for name, x in changed.items()]
  return np.concatenate([x.ravel() for x in chosen]).mean()


@pytest.mark.parametrize('norm', [0.5, 1.0, 3.0, np.nan, np.inf])
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('limit', [1.0, 0.3, np.inf])
def test_the_clip_has_the_bits_of_the_one_in_optax(limit, dtype, norm):
  rng = np.random.default_rng(8)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), dtype)
  grads = {'a': draw(3, 5), 'b': draw(7), 'c': jnp.zeros([], dtype)}
  size = norm / optax.tree.norm(grads)
  grads = jax.tree.map(lambda g: g * size.astype(dtype), grads)
  limit = jnp.asarray(limit, dtype)
  want, got = (
    jax.jit(lambda g, tx=tx: tx.update(g, tx.init(g))[0])(grads)
    for tx in (optax.clip_by_global_norm(limit), transforms.clip_updates(limit))
  )
  for a, b in zip(jax.tree.leaves(want), jax.tree.leaves(got)):
    np.testing.assert_array_equal(*(np.float32(x) for x in (a, b)))
    assert a.dtype == b.dtype


@pytest.mark.parametrize('name, wrapper', CASES)
def test_frozen_weights_keep_their_bits_and_salient_ones_move(name, wrapper):
  params, mask = _fragile_case(1)
  form = mask if wrapper == 'inject_hyperparams' else masks.pack(mask)
  after = _run(WRAPPERS[wrapper](name), params, form)
  assert toy.frozen_bits_kept(params, after, mask)
  assert _share_moved(params['single'], after['single'], mask['single']) > 0.99
  assert _share_moved(params['half'], after['half'], mask['half']) > 0.9
  assert np.all(np.isfinite(toy.vector(after)))


def test_a_bool_mask_and_its_packed_form_give_the_same_bits():
  params, mask = _fragile_case(2)
  a, b = (_run(_chain('adam'), params, m) for m in (mask, masks.pack(mask)))
  assert not any(x.any() for x in toy.moved(a, b).values())


def test_the_moments_of_frozen_weights_stay_zero():
  params, mask = _fragile_case(3)
  tx = _chain('adam')
  grads, state = _gradients(params, 3), tx.init(params)
  _, state = jax.jit(tx.update)(grads, state, mask=mask)
  adam = state[3][0]
  for moment in (adam.mu, adam.nu):
    flat = tree_lib.flatten(moment)
    for name, m in tree_lib.flatten(mask).items():
      assert np.all((np.asarray(flat[name], np.float32) != 0) == m), name


def test_the_clip_sees_only_what_is_trained():
  params = _weights(4)['single']
  mask, grads = toy.random_mask(params, 4), _gradients(params, 4)
  frozen_huge = jax.tree.map(lambda g, m: jnp.where(m, g, 1e6), grads, mask)
  tx = _chain('sgd', 1.0)
  a, b = (
    jax.jit(tx.update)(g, tx.init(params), params, mask=mask)[0]
    for g in (grads, frozen_huge)
  )
  assert not any(x.any() for x in toy.moved(a, b).values())
  assert np.linalg.norm(toy.vector(a)) > 1


def test_not_a_number_among_frozen_gradients_goes_nowhere():
  params = _weights(5)['single']
  mask, grads = toy.random_mask(params, 5), _gradients(params, 5)
  grads = jax.tree.map(lambda g, m: jnp.where(m, g, jnp.nan), grads, mask)
  alone = transforms.mask_updates().update(grads, (), mask=mask)[0]
  assert np.all((toy.vector(alone) != 0) == toy.vector(mask))
  assert np.all(np.isfinite(toy.vector(alone)))
  tx = _chain('adamw')
  state = tx.init(params)
  updates, _ = jax.jit(tx.update)(grads, state, params, mask=mask)
  after = transforms.apply_updates(params, updates, mask)
  assert np.all(np.isfinite(toy.vector(after)))


def test_without_extra_arguments_the_transformations_are_the_identity():
  grads = _gradients(_weights(6), 6)
  for tx in (
    transforms.mask_updates(),
    transforms.project_updates(),
    transforms.project_updates('always'),
  ):
    for extra in ({}, {'mask': None, 'against': None}, {'value': 1.0}):
      updates, _ = tx.update(grads, tx.init(grads), **extra)
      assert all(
        a is b for a, b in zip(jax.tree.leaves(updates), jax.tree.leaves(grads))
      )


def test_apply_updates_without_a_mask_is_that_of_optax():
  params, updates = _weights(7), _gradients(_weights(7), 7)
  ours = transforms.apply_updates(params, updates)
  theirs = optax.apply_updates(params, updates)
  assert not any(x.any() for x in toy.moved(ours, theirs).values())
  # float32 updates of bfloat16 weights keep the dtype of the weights
  updates = jax.tree.map(lambda u: u.astype(jnp.float32), updates)
  half = transforms.apply_updates(params, updates)['half']
  assert {x.dtype for x in jax.tree.leaves(half)} == {jnp.dtype('bfloat16')}


@pytest.mark.parametrize('zero', [0.0, -0.0])
def test_an_update_of_zero_keeps_the_exact_bits(zero):
  p = np.array([-0.0, 1e-39, -3e-40, 2.0], np.float32)
  u = np.full(4, zero, np.float32)
  after = jax.jit(transforms.apply_updates)({'w': p}, {'w': u})['w']
  assert np.asarray(after).tobytes() == p.tobytes()
  broken = transforms.apply_updates(jnp.float32(2), jnp.float32(np.nan))
  assert np.isnan(broken)  # no zero


def test_apply_updates_refuses_updates_of_other_parameters():
  params = _weights(8)
  with pytest.raises(ValueError, match='updates must have .* 2 .*half.* miss'):
    transforms.apply_updates(params, {'single': params['single']})


def _inner(a, b):
  return float(toy.vector(a) @ toy.vector(b))


def _norms(a, b):
  return float(np.linalg.norm(toy.vector(a)) * np.linalg.norm(toy.vector(b)))


def _conflict(seed, dtype, sign):
  """A gradient and a retain gradient whose inner product has a sign."""
  like = _weights(0)['single' if dtype == jnp.float32 else 'half']
  r, noise = toy.tree_like(like, seed), toy.tree_like(like, seed + 1)
  g = jax.tree.map(lambda r, n: (sign * 0.3 * r + n).astype(dtype), r, noise)
  return g, r


PRECISION = {jnp.float32: 1e-6, jnp.bfloat16: 2.0**-8}
DTYPES = list(PRECISION)


def _project(when, g, r, mask=None):
  tx = transforms.project_updates(when)
  return jax.jit(
    lambda g, r, m: tx.update(g, tx.init(g), against=r, mask=m)[0]
  )(g, r, mask)


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('seed', [0, 2])
def test_after_projection_nothing_works_against_the_other_gradient(seed, dtype):
  g, r = _conflict(seed, dtype, -1)
  assert _inner(g, r) < -0.1 * _norms(g, r)
  got = _project('conflict', g, r)
  assert abs(_inner(got, r)) <= PRECISION[dtype] * _norms(got, r)
  vg, vr = toy.vector(g), toy.vector(r)
  want = vg - (vg @ vr) / (vr @ vr) * vr
  rel = np.linalg.norm(toy.vector(got) - want) / np.linalg.norm(want)
  assert rel < PRECISION[dtype]
  assert {x.dtype for x in jax.tree.leaves(got)} == {jnp.dtype(dtype)}


def test_the_inner_products_of_half_precision_trees_are_in_float32():
  like = {'a': jnp.ones((100, 100), jnp.bfloat16)}
  tx = transforms.project_updates()
  for seed in range(4):
    r, g = toy.tree_like(like, seed), toy.tree_like(like, seed + 50)
    g = jax.tree.map(lambda g, r: (g - 3 * r).astype(r.dtype), g, r)
    # Not compiled: XLA may keep more bits than a type has.
    got, _ = tx.update(g, tx.init(g), against=r)
    # Rounding 10,000 entries to 8 bits: 2^-9 / sqrt(10,000) = 2e-5 each way.
    # A product rounded itself would leave up to 2^-9 * 3 = 6e-3.
    assert abs(_inner(got, r)) < 1e-4 * _norms(got, r)


@pytest.mark.parametrize('dtype', DTYPES)
def test_gradients_that_agree_are_left_bit_for_bit(dtype):
  g, r = _conflict(4, dtype, 1)
  assert _inner(g, r) > 0.1 * _norms(g, r)
  changed = toy.moved(_project('conflict', g, r), g)
  assert not any(x.any() for x in changed.values())


@pytest.mark.parametrize('sign', [-1, 1])
@pytest.mark.parametrize('dtype', DTYPES)
def test_always_projects_to_a_right_angle(dtype, sign):
  g, r = _conflict(6, dtype, sign)
  got = _project('always', g, r)
  assert abs(_inner(got, r)) <= PRECISION[dtype] * _norms(got, r)
  assert _inner(got, g) > 0  # what is left of g still descends


@pytest.mark.parametrize('packed', [False, True])
def test_a_projection_with_a_mask_stays_within_it(packed):
  g, r = _conflict(8, jnp.float32, -1)
  mask = toy.random_mask(g, 8)
  g = jax.tree.map(lambda x, m: jnp.where(m, x, 0), g, mask)
  got = _project('conflict', g, r, masks.pack(mask) if packed else mask)
  assert np.all(toy.vector(got)[toy.vector(mask) == 0] == 0)
  assert abs(_inner(got, r)) <= 1e-6 * _norms(got, r)
  assert toy.relative_error(got, g) > 0.1


def test_projection_off_a_gradient_of_zeros_is_the_identity():
  g, r = _conflict(10, jnp.float32, -1)
  got = _project('always', g, jax.tree.map(jnp.zeros_like, r))
  assert not any(x.any() for x in toy.moved(got, g).values())


def test_projection_states_its_choices_and_compares_the_trees():
  with pytest.raises(ValueError, match="'conflict' or 'always', got 'never'"):
    transforms.project_updates('never')
  g, r = _conflict(11, jnp.float32, -1)
  del r['layers']
  with pytest.raises(ValueError, match='against= must .* 1 .*layers.* missing'):
    _project('conflict', g, r)


def _golden():
  with np.load(GOLDEN) as file:
    return {name: file[name] for name in file}


def _replay(make, golden, **options):
  """Parameters after each of the six golden steps."""
  tx = optax.inject_hyperparams(make)(learning_rate=0.0, **options)
  params = jnp.asarray(golden['p0'])
  state, path = tx.init(params), []
  for grad, rate in zip(golden['grads'], golden['lrs']):
    state.hyperparams['learning_rate'] = jnp.float32(rate)
    updates, state = tx.update(jnp.asarray(grad), state, params)
    params = transforms.apply_updates(params, updates)
    path.append(params)
  return np.array(path)


REPLAYS = {
  'hf_adamw_eps1e-6_wd0': (transforms.hf_adamw, {}),
  'hf_adamw_eps1e-6_wd0.01': (transforms.hf_adamw, {'weight_decay': 0.01}),
  'torch_adamw_eps1e-6_wd0': (optax.adamw, {'eps': 1e-6, 'weight_decay': 0.0}),
  'torch_adamw_default_eps1e-8_wd0.01': (
    optax.adamw,
    {'eps': 1e-8, 'weight_decay': 0.01},
  ),
}


@pytest.mark.parametrize('name', REPLAYS)
def test_optimizers_replay_the_arrays_of_torch(name):
  make, options = REPLAYS[name]
  golden = _golden()
  got = _replay(make, golden, **options)
  # Two units in the last place of the largest parameter, 1.4.
  np.testing.assert_allclose(got, golden[name], rtol=0, atol=2.4e-7)


def test_hf_adamw_is_another_optimizer_than_adamw():
  golden = _golden()
  theirs = golden['torch_adamw_eps1e-6_wd0'] - golden['p0']
  ours = _replay(transforms.hf_adamw, golden) - golden['p0']
  first = ours[0] / theirs[0]
  # The gradients of step 0 rise from 3e-8 to 2. Adam's first step is
  # lr |g| / (|g| + eps); here eps is 31.6 times larger.
  g = np.abs(golden['grads'][0].astype(np.float64))
  want = (g + 1e-6) / (g + 1e-6 / np.sqrt(1e-3))
  np.testing.assert_allclose(first, want, rtol=0.1)
  assert first[0] < 0.05 and first[-1] > 0.999


def test_hf_adamw_equals_its_formula_in_float64():
  rng = np.random.default_rng(12)
  p = rng.normal(size=50).astype(np.float32)
  m, v, want = np.zeros(50), np.zeros(50), p.astype(np.float64)
  rates = optax.linear_schedule(1e-2, 1e-3, 9)
  tx = transforms.hf_adamw(rates, b1=0.8, b2=0.95, eps=1e-3, weight_decay=0.1)
  params, state = jnp.asarray(p), tx.init(jnp.asarray(p))
  for t in range(10):
    g = rng.normal(0, 10.0 ** rng.integers(-4, 1, 50)).astype(np.float32)
    updates, state = tx.update(jnp.asarray(g), state, params)
    params = transforms.apply_updates(params, updates)
    lr = 1e-2 + t / 9 * (1e-3 - 1e-2)
    m, v = 0.8 * m + 0.2 * g, 0.95 * v + 0.05 * np.square(g, dtype=np.float64)
    size = np.sqrt(1 - 0.95 ** (t + 1)) / (1 - 0.8 ** (t + 1))
    want = (1 - lr * 0.1) * (want - lr * size * m / (np.sqrt(v) + 1e-3))
  np.testing.assert_allclose(params, want, rtol=1e-6, atol=1e-6)


def test_weight_decay_without_parameters_says_what_to_pass():
  grads = _weights(13)['single']
  tx = transforms.hf_adamw(1e-3, weight_decay=0.1)
  with pytest.raises(ValueError, match='weight_decay > 0 needs params: call'):
    tx.update(grads, tx.init(grads))
  plain = transforms.hf_adamw(1e-3)
  updates, _ = plain.update(grads, plain.init(grads))
  assert np.all(toy.vector(updates) != 0)


def test_the_moments_and_updates_of_hf_adamw_keep_the_dtypes_of_the_weights():
  params = _weights(14)
  tx = transforms.hf_adamw(1e-2, weight_decay=0.1)
  updates, state = tx.update(_gradients(params, 14), tx.init(params), params)
  dtypes = lambda tree: [x.dtype for x in jax.tree.leaves(tree)]
  for tree in (updates, state.mu, state.nu):
    assert dtypes(tree) == dtypes(params)


def _labels(params):
  return jax.tree.map(lambda x: 'matrix' if x.ndim > 1 else 'rest', params)


def _by_kind(*around, **options):
  inner = lambda tx: optax.chain(*around, tx, *around)
  return optax.partition(
    {'matrix': inner(optax.adamw(0.02)), 'rest': inner(optax.sgd(0.02))},
    _labels,
    **options,
  )


COMPOSED = {
  'around partition': optax.chain(
    transforms.mask_updates(), _by_kind(), transforms.mask_updates()
  ),
  'within partition': _by_kind(
    transforms.mask_updates(), mask_compatible_extra_args=True
  ),
  'around masked': optax.chain(
    transforms.mask_updates(),
    optax.masked(
      optax.trace(0.9), lambda p: jax.tree.map(lambda x: x.ndim > 1, p)
    ),
    transforms.mask_updates(),
    optax.scale(-0.02),
  ),
  'within masked': optax.chain(
    *(
      optax.masked(
        optax.chain(transforms.mask_updates(), optax.scale(-0.02)),
        lambda p, want=want: jax.tree.map(lambda x: (x.ndim > 1) == want, p),
        mask_compatible_extra_args=True,
      )
      for want in (True, False)
    )
  ),
}


@pytest.mark.parametrize('packed', [False, True])
@pytest.mark.parametrize('name', COMPOSED)
def test_the_mask_passes_through_partition_and_masked(name, packed):
  params, mask = _fragile_case(15)
  form = masks.pack(mask) if packed else mask
  tx = COMPOSED[name]
  updates, _ = jax.jit(tx.update)(
    _gradients(params, 15), tx.init(params), params, mask=form
  )
  flat = tree_lib.flatten(updates)
  for leaf, m in tree_lib.flatten(mask).items():
    assert np.all((np.asarray(flat[leaf], np.float32) != 0) == m), leaf


def test_a_partition_that_hides_leaves_from_the_mask_is_refused():
  params, mask = _fragile_case(16)
  tx = _by_kind(transforms.mask_updates())  # without mask_compatible_...
  for form in (mask, masks.pack(mask)):
    with pytest.raises(ValueError, match='mask_compatible_extra_args=True'):
      jax.jit(tx.update).trace(params, tx.init(params), params, mask=form)


_FREE = {'w': False, 'b': False}
# Wrappers of optax around a transformation, by their names in docs/python.md.
WITHIN = {
  'chain': optax.chain,
  'named_chain': lambda tx: optax.named_chain(('inner', tx)),
  'inject_hyperparams': lambda tx: optax.inject_hyperparams(
    lambda scale: optax.chain(optax.scale(scale), tx)
  )(1.0),
  'MultiSteps': lambda tx: optax.MultiSteps(tx, 1).gradient_transformation(),
  'apply_if_finite': lambda tx: optax.apply_if_finite(tx, 3),
  'masked': lambda tx: optax.masked(tx, True),
  'partition': lambda tx: optax.partition(
    {'all': tx}, dict.fromkeys(_FREE, 'all')
  ),
  'conditionally_mask': lambda tx: optax.conditionally_mask(tx, lambda i: True),
  'conditionally_transform': lambda tx: optax.conditionally_transform(
    tx, lambda i: True
  ),
  'selective_transform': lambda tx: optax.selective_transform(
    tx, freeze_mask=_FREE
  ),
  'contrib.mechanize': optax.contrib.mechanize,
  'contrib.schedule_free': lambda tx: optax.contrib.schedule_free(tx, 0.1),
  'lookahead': lambda tx: optax.lookahead(tx, 2, 0.5),
  'contrib.split_real_and_imaginary': optax.contrib.split_real_and_imaginary,
  'contrib.sam': lambda tx: optax.contrib.sam(tx, optax.sgd(0.1)),
  'flatten': optax.flatten,
}
DROPPED = {'lookahead', 'MultiSteps', 'contrib.split_real_and_imaginary'}
ROUNDED = {'contrib.schedule_free'}  # frozen weights move by a last bit
REFUSED = {'contrib.sam': TypeError, 'flatten': ValueError}


@pytest.mark.parametrize('name', WITHIN)
def test_what_the_wrappers_of_optax_do_with_a_mask_inside(name):
  """Some drop it, silently within a chain: it must stand around them."""
  rng = np.random.default_rng(18)
  leaf = lambda n: jnp.asarray(rng.uniform(1, 2, n), jnp.float32)
  draw = lambda: {'w': leaf(5), 'b': leaf(3)}
  params, grads = draw(), draw()
  mask = {'w': jnp.arange(5) % 2 == 0, 'b': jnp.array([True, False, False])}
  at = params
  if name == 'lookahead':
    at = optax.LookaheadParams.init_synced(params)
  inner = optax.chain(optax.sgd(0.1), transforms.mask_updates())
  tx = optax.chain(WITHIN[name](inner))

  def moved():
    updates, _ = tx.update(grads, tx.init(at), at, mask=mask)
    updates = getattr(updates, 'fast', updates)
    return jax.tree.map(lambda u: u != 0, updates)

  if name in REFUSED:
    with pytest.raises(REFUSED[name]):
      moved()
  else:
    kept = jax.tree.map(lambda a, b: bool(jnp.all(a == b)), moved(), mask)
    assert all(kept.values()) == (name not in DROPPED | ROUNDED)


def test_the_page_lists_what_the_wrappers_do():
  text = ' '.join(pages.read('docs/python.md').split())
  rows = {
    'passed on': set(WITHIN) - DROPPED - ROUNDED - set(REFUSED),
    'passed on, but frozen weights drift by rounding': ROUNDED,
    'dropped without a word': DROPPED,
    'refused': set(REFUSED),
  }
  for title, names in rows.items():
    (cell,) = re.findall(rf'\| {title} \| (.*?) \|', text)
    assert set(re.findall(r'`([\w.]+)`', cell)) == names, title


def test_the_mask_is_an_argument_of_the_program_and_not_a_constant_in_it():
  rng = np.random.default_rng(17)
  params = {'w': jnp.asarray(rng.normal(size=(1024, 1024)), jnp.float32)}
  mask = {'w': jnp.asarray(rng.random((1024, 1024)) < 0.5)}
  tx = _chain('adamw')

  def step(params, state, mask):
    updates, state = tx.update(params, state, params, mask=mask)
    return transforms.apply_updates(params, updates, mask), state

  state = tx.init(params)
  size = lambda f, *args: len(jax.jit(f).lower(*args).as_text())
  assert size(step, params, state, mask) < 100_000
  assert size(step, params, state, masks.pack(mask)) < 100_000
  closed_over = lambda params, state: step(params, state, mask)
  assert size(closed_over, params, state) > 1_000_000


def test_the_rate_of_the_chain_is_set_from_outside_and_equal_chains_are_one():
  build = functools.partial(optimizer.build, 'adamw', weight_decay=0.1)
  assert build(clip_norm=0.5) is build(clip_norm=0.5)
  assert build(clip_norm=0.5) is not build(clip_norm=0.6)
  tx, params = build(), _weights(18)['single']
  state = tx.init(params)
  still, _ = tx.update(params, state, params)
  assert np.all(toy.vector(still) == 0)  # the rate is 0 until it is set
  state.hyperparams['learning_rate'] = jnp.float32(0.1)
  updates, _ = tx.update(params, state, params)
  # Adam's first step is the sign of the gradient, here of the weight.
  want = -0.1 * (np.sign(toy.vector(params)) + 0.1 * toy.vector(params))
  np.testing.assert_allclose(toy.vector(updates), want, rtol=1e-4)


@pytest.mark.parametrize('name', optimizer.OPTIMIZERS)
def test_every_optimizer_of_the_registry_moves_only_what_is_salient(name):
  tx, params = optimizer.build(name), _weights(19)['single']
  mask, state = toy.random_mask(params, 19), tx.init(params)
  state.hyperparams['learning_rate'] = jnp.float32(0.1)
  update, grads = jax.jit(tx.update), _gradients(params, 19)
  _, state = update(grads, state, params)  # gives momentum to all
  updates, _ = update(grads, state, params, mask=mask)
  np.testing.assert_array_equal(toy.vector(updates) != 0, toy.vector(mask) > 0)


def test_an_unknown_optimizer_or_schedule_lists_the_known_ones():
  with pytest.raises(ValueError, match="'adm'; known: hf_adamw, adamw, sgd"):
    optimizer.build('adm')
  with pytest.raises(ValueError, match="'step'; known: constant, linear, cos"):
    optimizer.schedule('step', 1.0, steps=3)
  with pytest.raises(ValueError, match='rate must be positive, got 0'):
    optimizer.schedule('linear', 0, steps=3)


def test_a_schedule_rises_to_its_peak_and_falls_as_it_is_named():
  rates = lambda name, **o: np.array(
    [float(optimizer.schedule(name, 0.5, steps=12, **o)(i)) for i in range(13)]
  )
  np.testing.assert_allclose(rates('constant'), 0.5)
  want = 0.5 * (1 - np.arange(13) / 12)
  np.testing.assert_allclose(rates('linear'), want, rtol=1e-6)
  want = 0.25 * (1 + np.cos(np.pi * np.arange(13) / 12))
  np.testing.assert_allclose(rates('cosine'), want, rtol=1e-6, atol=1e-8)
  for name in ('constant', 'linear', 'cosine'):
    got = rates(name, warmup=4)
    assert 0 < got[0] < 0.2 and np.all(np.diff(got[:5]) > 0)
    assert got[4] == got.max() == 0.5
    assert got[12] == pytest.approx(0.5 * (name == 'constant'), abs=1e-8)
