"""One chain for every run, and schedules that begin and end where they say."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy

from mmu_jax.training import optimizer

pytestmark = pytest.mark.usefixtures('quick_compile')


@pytest.mark.parametrize(
  'name, at_half, at_end',
  [('constant', 0.3, 0.3), ('linear', 0.15, 0.0), ('cosine', 0.15, 0.0)],
)
def test_schedules_begin_at_their_peak_and_end_where_they_should(
  name, at_half, at_end
):
  rate = optimizer.schedule(name, 0.3, steps=40)
  assert float(rate(0)) == pytest.approx(0.3)
  assert float(rate(20)) == pytest.approx(at_half)
  assert float(rate(40)) == pytest.approx(at_end, abs=1e-7)
  values = [float(rate(i)) for i in range(41)]
  assert values == sorted(values, reverse=True)


@pytest.mark.parametrize('name', ['constant', 'linear', 'cosine'])
def test_warmup_rises_to_the_peak_and_leaves_the_rest(name):
  rate = optimizer.schedule(name, 0.3, steps=50, warmup=10)
  rise = [float(rate(i)) for i in range(11)]
  assert rise[0] == pytest.approx(0.03)  # the first round is not wasted
  assert rise[10] == pytest.approx(0.3)
  assert (np.diff(rise) > 0).all()
  rest = optimizer.schedule(name, 0.3, steps=40)
  for i in (0, 1, 20, 40):
    assert float(rate(10 + i)) == pytest.approx(float(rest(i)), abs=1e-7)


def test_unknown_names_are_clear_errors():
  with pytest.raises(ValueError, match="unknown schedule 'step'; known: const"):
    optimizer.schedule('step', 0.1, steps=5)
  with pytest.raises(ValueError, match="unknown optimizer 'adam'; known: hf_"):
    optimizer.build('adam')


@pytest.mark.parametrize('peak', [0.0, -1e-4])
def test_a_rate_must_be_positive(peak):
  with pytest.raises(ValueError, match=f'positive, got {peak}'):
    optimizer.schedule('constant', peak, steps=5)


def test_equal_arguments_give_one_chain():
  first = optimizer.build('adamw', weight_decay=0.05, b2=0.98)
  assert optimizer.build('adamw', weight_decay=0.05, b2=0.98) is first
  assert optimizer.build('adamw', weight_decay=0.06, b2=0.98) is not first
  assert optimizer.build('adamw', weight_decay=0.05, clip_norm=2.0) is not first


def _update(tx, params, grads, rate, **extra):
  state = tx.init(params)
  rates = state.hyperparams | {'learning_rate': jnp.float32(rate)}
  state = state._replace(hyperparams=rates)
  return tx.update(grads, state, params, **extra)[0]


@pytest.mark.parametrize('name', sorted(optimizer.OPTIMIZERS))
def test_every_optimizer_takes_the_rate_of_the_turn(name):
  params, grads = toy.params(0), toy.tree_like(toy.params(0), 1)
  tx = optimizer.build(name)
  once = _update(tx, params, grads, 1e-3)
  twice = _update(tx, params, grads, 2e-3)
  doubled = jax.tree.map(lambda u: 2 * u, once)
  assert toy.relative_error(twice, doubled) < 1e-5
  assert np.vdot(toy.vector(once), toy.vector(grads)) < 0  # downhill


@pytest.mark.parametrize('name', sorted(optimizer.OPTIMIZERS))
def test_no_optimizer_moves_what_is_frozen(name):
  params, grads = toy.params(2), toy.tree_like(toy.params(2), 3)
  mask = toy.random_mask(params, 4)
  options = {} if name == 'sgd' else {'weight_decay': 0.1}
  if name == 'adafactor':
    options = {'weight_decay_rate': 0.1}
  tx = optimizer.build(name, **options)
  updates = _update(tx, params, grads, 1e-2, mask=mask)
  outside = jax.tree.map(lambda u, m: jnp.where(m, 0, u), updates, mask)
  inside = jax.tree.map(lambda u, m: jnp.where(m, u, 0), updates, mask)
  assert not toy.vector(outside).any()
  assert np.count_nonzero(toy.vector(inside)) > 100


def test_the_gradient_is_clipped_after_the_mask():
  """Frozen weights use up none of the norm: sgd shows the clipped gradient."""
  params, grads = toy.params(5), toy.tree_like(toy.params(5), 6)
  mask = toy.random_mask(params, 7, 0.3)
  tx = optimizer.build('sgd', clip_norm=0.5)
  updates = _update(tx, params, grads, 1.0, mask=mask)
  assert float(optax.tree.norm(updates)) == pytest.approx(0.5, rel=1e-5)
  masked = jax.tree.map(lambda g, m: jnp.where(m, g, 0), grads, mask)
  want = jax.tree.map(lambda g: -0.5 * g / optax.tree.norm(masked), masked)
  assert toy.relative_error(updates, want) < 1e-6


def test_small_gradients_are_not_clipped():
  params = toy.params(8)
  grads = jax.tree.map(lambda x: 1e-3 * x, toy.tree_like(params, 9))
  updates = _update(optimizer.build('sgd'), params, grads, 1.0)
  assert toy.relative_error(updates, jax.tree.map(jnp.negative, grads)) < 1e-6


@pytest.mark.parametrize('where', ['build', 'turn'])
def test_without_a_clip_the_gradient_is_what_it_was(where):
  params, grads = toy.params(10), toy.tree_like(toy.params(10), 11)
  tx = optimizer.build('sgd', clip_norm=jnp.inf if where == 'build' else 0.1)
  state = tx.init(params)
  step = {'learning_rate': jnp.float32(1.0)}
  if where == 'turn':
    step['clip_norm'] = jnp.float32(jnp.inf)
  state = state._replace(hyperparams=state.hyperparams | step)
  updates, _ = tx.update(grads, state, params)
  assert toy.relative_error(updates, jax.tree.map(jnp.negative, grads)) < 1e-6


def test_the_published_chain_clips_with_what_is_then_masked():
  params, grads = toy.params(12), toy.tree_like(toy.params(12), 13)
  mask = toy.random_mask(params, 14, 0.3)
  tx = optimizer.build(
    'sgd', clip_norm=0.5, chain=('project', 'clip', 'mask', 'optimizer')
  )
  updates = _update(tx, params, grads, 1.0, mask=mask)
  norm = optax.tree.norm(grads)
  want = jax.tree.map(
    lambda g, m: jnp.where(m, -0.5 * g / norm, 0), grads, mask
  )
  assert toy.relative_error(updates, want) < 1e-6
  assert float(optax.tree.norm(updates)) < 0.35  # about 0.5 sqrt(0.3)


@pytest.mark.parametrize(
  'chain',
  [
    ('project', 'clip', 'optimizer'),  # nothing is masked
    ('mask', 'clip', 'optimizer'),  # a turn would not be projected
    ('mask', 'project', 'clip'),
    ('mask', 'project', 'clip', 'optimizer', 'optimizer'),
    ('mask', 'project', 'clip', 'optimizer', 'noise'),
  ],
)
def test_a_chain_that_lacks_or_repeats_a_link_is_refused(chain):
  message = "'optimizer' once .* would change every"
  with pytest.raises(ValueError, match=message):
    optimizer.build(chain=chain)
