"""Losses against float64 NumPy, and the identities that they must satisfy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from mmu_jax import losses
from mmu_jax import objectives

pytestmark = pytest.mark.usefixtures('quick_compile')

FORWARD = toy.forward
B, L, V = 4, 9, 31


def _case(seed, scale=3.0, dtype=jnp.float32):
  """Random logits, reference logits, targets and weights with some zeros."""
  rng = np.random.default_rng(seed)
  draw = lambda: jnp.asarray(rng.normal(0, scale, (B, L, V)), dtype)
  targets = rng.integers(0, V, (B, L))
  weights = rng.uniform(0.2, 2, (B, L)) * (rng.random((B, L)) < 0.6)
  return draw(), draw(), targets, weights.astype(np.float32)


def _log_softmax(x):
  x = np.asarray(x, np.float64)
  x = x - x.max(axis=-1, keepdims=True)
  return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def _log_probs(logits, targets):
  b, l = np.indices(targets.shape)
  return _log_softmax(logits)[b, l, targets]


DTYPES = [jnp.float32, jnp.bfloat16, jnp.float16]


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('scale', [0.1, 3, 300])
def test_token_log_probs_equal_float64_for_every_dtype_of_the_logits(
  dtype, scale
):
  logits, _, targets, _ = _case(0, scale, dtype)
  got = losses.token_log_probs(logits, targets)
  assert got.dtype == jnp.float32 and got.shape == (B, L)
  want = _log_probs(logits, targets)
  # A difference of two float32 numbers as large as the logits.
  atol = 2e-7 * max(1, np.abs(np.asarray(logits, np.float64)).max())
  np.testing.assert_allclose(got, want, rtol=1e-6, atol=2 * atol)
  assert np.all(got <= atol)


@pytest.mark.parametrize('dtype', DTYPES)
def test_nll_is_the_weighted_mean_in_float64(dtype):
  logits, _, targets, weights = _case(1, dtype=dtype)
  got = losses.nll(logits, targets, weights)
  assert got.dtype == jnp.float32 and got.shape == ()
  want = -(_log_probs(logits, targets) * weights).sum() / weights.sum()
  assert float(got) == pytest.approx(want, rel=1e-6)


def test_nll_of_a_batch_without_weights_is_zero_and_so_is_its_gradient():
  logits, _, targets, weights = _case(2)
  f = jax.value_and_grad(lambda x: losses.nll(x, targets, 0 * weights))
  value, grad = f(logits)
  assert float(value) == 0
  assert np.all(np.asarray(grad) == 0)


def test_the_gradient_of_nll_is_softmax_minus_one_hot():
  logits, _, targets, weights = _case(3)
  grad = jax.grad(lambda x: losses.nll(x, targets, weights))(logits)
  want = np.exp(_log_softmax(logits)) - np.eye(V)[targets]
  want *= (weights / weights.sum(dtype=np.float64))[..., None]
  np.testing.assert_allclose(grad, want, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize('dtype', DTYPES)
def test_kl_divergence_equals_float64(dtype):
  logits, ref, _, weights = _case(4, dtype=dtype)
  got = losses.kl_divergence(logits, ref, weights)
  assert got.dtype == jnp.float32
  log_p, log_ref = _log_softmax(logits), _log_softmax(ref)
  kl = (np.exp(log_ref) * (log_ref - log_p)).sum(-1)
  want = (kl * weights).sum() / weights.sum(dtype=np.float64)
  assert float(got) == pytest.approx(want, rel=1e-5)


def test_kl_divergence_is_never_negative_and_zero_only_for_equal_models():
  for seed in range(20):
    logits, ref, _, weights = _case(seed, scale=1)
    near = ref + 1e-2 * logits
    assert float(losses.kl_divergence(logits, ref, weights)) > 0.1
    assert 0 < float(losses.kl_divergence(near, ref, weights)) < 1e-3
    assert float(losses.kl_divergence(ref, ref, weights)) == 0


@pytest.mark.parametrize('scale', [1, 10, 100])
@pytest.mark.parametrize('vocabulary', [31, 30000])
def test_the_slope_of_kl_is_rounding_at_the_reference(scale, vocabulary):
  """Not 0: the shares of the reference add up to 1 but for rounding."""
  rng = np.random.default_rng(5)
  ref = rng.normal(0, scale, (1, 4, vocabulary)).astype(np.float32)
  one = np.ones((1, 4), np.float32)
  slope = jax.grad(lambda x: 4 * losses.kl_divergence(x, ref, one))
  assert np.abs(slope(ref)).max() <= 2e-7
  assert np.abs(slope(np.roll(ref, 1, axis=-1))).max() > 1e-4


def test_kl_divergence_is_minimal_at_the_reference():
  _, ref, _, weights = _case(5)
  kl = lambda x: losses.kl_divergence(x, ref, weights)
  assert np.abs(jax.grad(kl)(ref)).max() <= 1e-7
  elsewhere = ref + 0.1 * _case(6)[0]
  assert np.abs(jax.grad(kl)(elsewhere)).max() > 1e-4


@pytest.mark.parametrize('loss', ['kl', 'npo'])
def test_no_gradient_flows_into_the_reference(loss):
  logits, ref, targets, weights = _case(7)

  def value(logits, ref):
    if loss == 'kl':
      return losses.kl_divergence(logits, ref, weights)
    nll = lambda x: -losses.token_log_probs(x, targets)
    return losses.npo(nll(logits), nll(ref), beta=0.1)

  to_model, to_ref = jax.grad(value, argnums=(0, 1))(logits, ref)
  assert np.all(np.asarray(to_ref) == 0)
  assert np.abs(to_model).max() > 1e-4


def _sums_by_hand(values, made):
  """For each row, the sum of every (document, branch) that has a weight."""
  rows = []
  for b in range(values.shape[0]):
    sums = {}
    for i in range(values.shape[1]):
      if made['weights'][b, i] > 0:
        key = made['documents'][b, i], made['branches'][b, i]
        sums[key] = sums.get(key, 0.0) + float(values[b, i])
    rows.append(list(sums.values()))
  return rows


@pytest.mark.parametrize('pictures', [True, False])
@pytest.mark.parametrize('packed', [True, False])
def test_sum_by_answer_gives_one_sum_for_each_answer(pictures, packed):
  made = toy.batch(8, rows=5, pictures=pictures, packed=packed, weighted=True)
  made = toy.pad(made, 8, rows=2, columns=3)
  values = np.random.default_rng(8).normal(size=made['tokens'].shape)
  values = values.astype(np.float32)
  total, real = losses.sum_by_answer(
    values, made['weights'], made['documents'], made['branches']
  )
  want = _sums_by_hand(values, made)
  assert [len(row) for row in want] == 5 * [1 + packed] + 2 * [0]
  for got, row in zip([t[r] for t, r in zip(total, real)], want):
    np.testing.assert_allclose(got, row, rtol=1e-6)


def test_npo_equals_float64():
  rng = np.random.default_rng(9)
  theta, ref = rng.gamma(2, 4, (2, 30)).astype(np.float32)
  where = rng.random(30) < 0.5
  got = losses.npo(theta, ref, beta=0.4, where=where)
  d = theta.astype(np.float64) - ref
  want = np.mean(2 / 0.4 * np.log1p(np.exp(-0.4 * d))[where])
  assert float(got) == pytest.approx(want, rel=1e-5)
  everywhere = losses.npo(theta, ref, beta=0.4)
  want = np.mean(2 / 0.4 * np.log1p(np.exp(-0.4 * d)))
  assert float(everywhere) == pytest.approx(want, rel=1e-5)


def test_npo_fades_as_the_model_forgets():
  ref = jnp.full(3, 2.0)
  slope = lambda nll: jax.grad(lambda x: losses.npo(x, ref, beta=0.5))(nll)
  # -2 sigmoid(-beta d) / 3 at d = 0, 4 and 40 nats of forgetting
  np.testing.assert_allclose(slope(ref), -1 / 3, rtol=1e-6)
  want = -2 / (1 + np.exp(2)) / 3
  np.testing.assert_allclose(slope(ref + 4), want, rtol=1e-5)
  assert np.all(np.abs(slope(ref + 40)) < 1e-8)


@pytest.mark.parametrize('beta', [0.0, -0.1])
def test_npo_without_a_temperature_says_what_is_usual(beta):
  with pytest.raises(ValueError, match=f'beta > 0, got {beta}.*0.1.*0.4'):
    losses.npo(jnp.ones(2), jnp.ones(2), beta=beta)


def test_bounded_ascent_is_what_is_missing_to_the_margin():
  """Against float64; from the margin on there is no gradient at all."""
  nll = np.random.default_rng().gamma(2, 6, 50).astype(np.float32)
  where = np.arange(50) % 3 > 0
  got, slope = jax.value_and_grad(losses.bounded_ascent)(nll, 12.0, where)
  missing = np.maximum(0, 12 - nll.astype(np.float64)) / 12
  assert float(got) == pytest.approx(missing[where].mean(), rel=1e-5)
  want = -1.0 * (where & (nll < 12)) / 12 / where.sum()
  np.testing.assert_allclose(slope, want, rtol=1e-5)
  assert float(losses.bounded_ascent(jnp.full(3, 12.0), 12.0)) == 0


@pytest.mark.parametrize('margin', [0.0, -1.0, float('nan')])
def test_bounded_ascent_without_a_margin_says_what_one_is(margin):
  with pytest.raises(ValueError, match=f'margin > 0 nats, got {margin}'):
    losses.bounded_ascent(jnp.ones(2), margin)


def test_arrays_of_other_shapes_are_refused():
  logits, ref, targets, weights = _case(10)
  with pytest.raises(AssertionError):
    losses.token_log_probs(logits, targets[:, 1:])
  with pytest.raises(AssertionError):
    losses.kl_divergence(logits, ref[:, 1:], weights)
  with pytest.raises(AssertionError):
    losses.npo(jnp.ones(2), jnp.ones((2, 1)), beta=0.1)


def _ascent_on_the_summed_nll(params, made):
  """Minus the mean over answers of the nll summed over an answer."""
  log_probs = losses.token_log_probs(FORWARD(params, made), made['targets'])
  counted = made['weights'] > 0
  keys = {
    (b, made['documents'][b, i], made['branches'][b, i])
    for b, i in zip(*np.nonzero(counted))
  }
  return jnp.sum(jnp.where(counted, log_probs, 0)) / len(keys)


BETAS = (2.0, 0.4, 1e-1, 1e-2, 1e-3, 1e-4)


@functools.cache
def _gradients():
  """NPO's gradient at every beta, stacked, and that of ascent; one program."""
  npos = [objectives.preference_against(beta) for beta in BETAS]

  def gradients(params, ref, made):
    values = lambda p: jnp.stack([f(FORWARD, p, ref, made) for f in npos])
    return jax.jacrev(values)(params)

  return jax.jit(gradients)


def _npo_errors(params, ref, made):
  """How far NPO's gradient is from that of ascent, for every beta."""
  stacked = _gradients()(params, ref, made)
  ascent = jax.jit(jax.grad(lambda p: _ascent_on_the_summed_nll(p, made)))
  want = ascent(params)
  return [
    toy.relative_error(jax.tree.map(lambda g, i=i: g[i], stacked), want)
    for i in range(len(BETAS))
  ]


@pytest.mark.parametrize('packed', [True, False])
def test_npo_at_the_reference_has_the_gradient_of_ascent(packed):
  params = toy.params(11)
  made = toy.pad(toy.batch(11, packed=packed), 11, rows=1, columns=4)
  assert max(_npo_errors(params, params, made)) < 1e-5


def test_npo_tends_to_ascent_as_beta_goes_to_zero():
  params, ref = toy.params(12), toy.perturb(toy.params(12), 12, 0.2)
  made = toy.pad(toy.batch(12), 12, rows=1, columns=4)
  errors = _npo_errors(params, ref, made)
  assert errors[2] > 0.01 and errors[-1] < 1e-3
  for larger, smaller in zip(errors[2:], errors[3:]):  # it is linear in beta
    assert smaller < larger / 5


LOSSES = {
  'descend': objectives.descend,
  'ascend': objectives.ascend,
  'descend_near_reference': objectives.descend_near_reference,
  'npo': objectives.preference_against(0.1),
}


def _values(forward, params, ref, made):
  """Every loss of the methods."""
  return jnp.stack([f(forward, params, ref, made) for f in LOSSES.values()])


@functools.cache
def _values_and_gradient():
  """Every loss of the perceptron, and the gradient of a sum of them."""
  shares = jnp.array([1.3, 0.4, 1.0, 0.7])  # of which none cancels another

  def total(params, ref, made):
    values = _values(FORWARD, params, ref, made)
    return values @ shares, values

  return jax.jit(jax.grad(total, has_aux=True))


def _padded(made):
  return toy.pad(made, 13, rows=1, columns=5)


def test_no_loss_of_any_method_sees_padding():
  params, ref = toy.params(13), toy.params(14)
  made = toy.batch(13, weighted=True)
  grad, values = _values_and_gradient()(params, ref, made)
  padded_grad, padded_values = _values_and_gradient()(
    params, ref, _padded(made)
  )
  np.testing.assert_allclose(padded_values, values, rtol=2e-6)
  assert toy.relative_error(padded_grad, grad) < 2e-6
  assert np.abs(values).min() > 0.1  # there is something to be seen


def test_no_loss_of_the_whole_model_sees_padding():
  params, ref = toy.llava_params(13), toy.llava_params(14)
  f = jax.jit(functools.partial(_values, toy.llava().forward))
  made = toy.batch(13, rows=2, weighted=True)
  values = f(params, ref, made)
  np.testing.assert_allclose(f(params, ref, _padded(made)), values, rtol=2e-6)
  assert np.abs(values).min() > 0.1


def test_a_batch_that_is_all_padding_has_no_loss_and_no_gradient():
  params, ref = toy.params(15), toy.params(16)
  made = toy.batch(15)
  made['weights'] *= 0
  grad, values = _values_and_gradient()(params, ref, made)
  assert np.all(np.asarray(values) == 0)
  assert np.all(toy.vector(grad) == 0)


def test_ascent_is_minus_descent_and_the_joint_loss_is_its_sum():
  params, ref = toy.params(17), toy.params(18)
  made = toy.batch(17, weighted=True)
  _, values = _values_and_gradient()(params, ref, made)
  down, up, near, _ = map(float, values)
  assert up == -down
  kl = losses.kl_divergence(
    FORWARD(params, made), FORWARD(ref, made), made['weights']
  )
  assert near == pytest.approx(down + float(kl), rel=1e-6)
  assert float(kl) > 0.1


def test_the_logit_margin_is_the_log_odds_and_does_not_fade():
  """Against float64; where p is .9999 its gradient is as large as ever."""
  rng = np.random.default_rng()
  logits = 3 * rng.normal(size=(3, 5, 7))
  targets, weights = rng.integers(7, size=(3, 5)), rng.random((3, 5))
  p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  p = np.take_along_axis(p, targets[..., None], -1)[..., 0]
  want = np.average(np.log(p / (1 - p)), weights=weights)
  got = losses.logit_margin(jnp.asarray(logits), targets, weights)
  assert float(got) == pytest.approx(want, rel=1e-4)
  sure = 10.0 * jax.nn.one_hot(targets, 7)
  slope = lambda loss: jax.grad(lambda x: loss(x, targets, weights))(sure)
  margin, nll = slope(losses.logit_margin), slope(losses.nll)
  assert np.linalg.norm(margin) > 1000 * np.linalg.norm(nll)
