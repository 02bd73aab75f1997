"""Objectives against float64, the paper's formula or one another."""

import functools

import jax
import numpy as np
import pytest
import toy

from mmu_jax import objectives

pytestmark = pytest.mark.usefixtures('quick_compile')

FORGET, RETAIN = toy.batch(1), toy.batch(2)


def _loss_and_gradient(loss, *arguments):
  """Of the perceptron, as one program."""
  loss = functools.partial(loss, toy.forward)
  return jax.jit(jax.value_and_grad(loss))(*arguments)


@pytest.mark.parametrize('alpha', [0.1, 2.0])
def test_a_weighted_ascent_is_so_many_times_the_ascent(alpha):
  params = toy.params(20)
  value, grad = _loss_and_gradient(objectives.ascend, params, None, FORGET)
  got, got_grad = _loss_and_gradient(
    objectives.ascend_by(alpha), params, None, FORGET
  )
  assert float(got) == pytest.approx(alpha * float(value), rel=1e-6)
  assert (
    toy.relative_error(got_grad, jax.tree.map(lambda g: alpha * g, grad)) < 1e-6
  )


def _log_softmax(x):
  x = np.asarray(x, np.float64)
  x = x - x.max(-1, keepdims=True)
  return x - np.log(np.exp(x).sum(-1, keepdims=True))


def test_the_published_kl_is_the_sum_over_rows_divided_by_the_rows():
  params, ref = toy.params(21), toy.perturb(toy.params(21), 21, 0.2)
  got, _ = _loss_and_gradient(
    objectives.descend_near_reference_everywhere, params, ref, RETAIN
  )
  nll, _ = _loss_and_gradient(objectives.descend, params, None, RETAIN)
  log_p, log_ref = (_log_softmax(toy.forward(p, RETAIN)) for p in (params, ref))
  kl = (np.exp(log_ref) * (log_ref - log_p)).sum((1, 2)).mean()
  assert float(got) == pytest.approx(float(nll) + kl, rel=1e-5)
  # So it grows with padding, which the mean over answers does not see.
  padded = toy.pad(RETAIN, 21, columns=8)
  more, _ = _loss_and_gradient(
    objectives.descend_near_reference_everywhere, params, ref, padded
  )
  assert float(more) > float(got) + 0.1 * kl


def test_the_published_npo_has_one_term_for_a_batch():
  params, ref = toy.params(22), toy.perturb(toy.params(22), 22, 0.2)
  nll, ascent = _loss_and_gradient(objectives.ascend, params, None, FORGET)
  ref_nll, _ = _loss_and_gradient(objectives.ascend, ref, None, FORGET)
  got, grad = _loss_and_gradient(
    objectives.batch_preference_against(0.4), params, ref, FORGET
  )
  forgotten = 0.4 * (float(ref_nll) - float(nll))  # beta (nll - nll_ref)
  want = 2 / 0.4 * np.log1p(np.exp(-forgotten))
  assert float(got) == pytest.approx(want, rel=1e-5)
  # The same direction as ascent, for every answer alike.
  slope = 2 / (1 + np.exp(forgotten))
  want = jax.tree.map(lambda g: slope * g, ascent)
  assert toy.relative_error(grad, want) < 1e-5


def _by_answer(values, made):
  """Sums of the tokens that count, for each answer of a batch."""
  found = {}
  for at in np.argwhere(made['weights'] > 0):
    b, i = at
    key = b, made['documents'][b, i], made['branches'][b, i]
    found[key] = found.get(key, 0) + values[b, i]
  return np.array([*found.values()])


def _average(values, made):
  """Mean over answers, each with the mean weight of its tokens."""
  tokens = _by_answer(np.ones(made['weights'].shape), made)
  weights = _by_answer(made['weights'], made) / tokens
  assert np.ptp(weights) > 0.1
  return np.average(values, weights=weights)


def _nll(params, made):
  """Of every token, in float64."""
  log_p = _log_softmax(toy.forward(params, made))
  targets = np.asarray(made['targets'])[..., None]
  return -np.take_along_axis(log_p, targets, -1)[..., 0]


@pytest.mark.parametrize('share, spared', [(0.3, 1.0), (0.7, 1.0), (0.5, 0.4)])
def test_counterfactual_is_bounded_ascent_beside_a_cross_entropy(share, spared):
  """Against float64 on fresh inputs; the margin lies among the answers."""
  seed = int(np.random.default_rng().integers(10_000))
  params, ref = toy.params(seed), toy.params(seed + 1)
  forget, mixed = (toy.batch(seed + i, rows=6, weighted=True) for i in (2, 3))
  said = np.exp(-_nll(ref, forget))
  weighed = _nll(params, forget) * (1 - spared * said)
  nll = _by_answer(weighed, forget)
  margin = float(np.quantile(nll, share))
  loss = objectives.counterfactual_ascent(margin, 0.3, spared)
  batch = {**forget, 'beside': mixed}
  ascent, kept = jax.jit(functools.partial(loss, toy.forward))(
    params, ref, batch
  )
  want = 0.3 * _average(np.maximum(0, margin - nll), forget) / margin
  assert float(ascent) == pytest.approx(want, rel=1e-4), seed
  want = np.average(_nll(params, mixed), weights=mixed['weights'])
  assert float(kept) == pytest.approx(want, rel=1e-5), seed
  # No gradient goes to the reference, and none to an answer that is forgotten.
  through = lambda p, r: loss(toy.forward, p, r, batch)[0]
  _, to_ref = jax.jit(jax.grad(through, (0, 1)))(params, ref)
  assert not np.any(toy.vector(to_ref)), seed
  least = 0.99 * float(nll.min())
  loss = objectives.counterfactual_ascent(least, 0.3, spared)
  through = lambda p: loss(toy.forward, p, ref, batch)[0]
  assert not np.any(toy.vector(jax.jit(jax.grad(through))(params))), seed


def _pair():
  """Fresh parameters, a reference, and a batch; their seed."""
  seed = int(np.random.default_rng().integers(10_000))
  batch = toy.batch(seed + 2, rows=6, weighted=True)
  return toy.params(seed), toy.params(seed + 1), batch, seed


def _value(loss, *arguments):
  return jax.jit(functools.partial(loss, toy.forward))(*arguments)


def _log_sigmoid(x):
  return -np.log1p(np.exp(-x))


def test_simnpo_is_a_sigmoid_of_the_nll_per_token():
  params, _, batch, seed = _pair()
  nll = _by_answer(_nll(params, batch), batch)
  tokens = _by_answer(np.ones(batch['weights'].shape), batch)
  got = _value(objectives.simple_preference_against(2.5, 1.0), params, 0, batch)
  want = -2 / 2.5 * _average(_log_sigmoid(2.5 * nll / tokens - 1.0), batch)
  assert float(got) == pytest.approx(want, rel=1e-5), seed
  assert np.unique(tokens).size > 1  # lengths differ


def test_dpo_prefers_the_answer_in_the_same_place_of_the_batch_beside():
  params, ref, worse, seed = _pair()
  better = dict(worse, targets=np.roll(worse['targets'], 1, axis=1))
  better = toy.pad(better, seed, columns=8)  # its answers may be longer
  gain = lambda b: _by_answer(_nll(ref, b) - _nll(params, b), b)
  fading = _log_sigmoid(0.1 * (gain(better) - gain(worse)))
  want = -2 / 0.1 * _average(fading, worse)
  batch = {**worse, 'beside': better}
  got = _value(objectives.preference_for_beside(0.1), params, ref, batch)
  assert float(got) == pytest.approx(want, rel=1e-5), seed
  swapped = {**better, 'beside': worse}
  other = _value(objectives.preference_for_beside(0.1), params, ref, swapped)
  assert abs(float(other) - want) > 1e-3, seed


def test_undial_is_at_rest_where_the_answers_are_lowered_by_its_strength():
  params, ref, batch, seed = _pair()
  loss = objectives.distil_without_answers(3.0)
  lowered = lambda p, b: (
    toy.forward(p, b) - 3.0 * jax.nn.one_hot(b['targets'], toy.VOCAB)
  )
  z = np.asarray(lowered(ref, batch), np.float64)
  wanted = np.exp(_log_softmax(z))
  each = -(wanted * _log_softmax(toy.forward(params, batch))).sum(-1)
  want = np.average(each, weights=batch['weights'])
  got = _value(loss, params, ref, batch)
  assert float(got) == pytest.approx(want, rel=1e-5), seed

  at_ref = lambda x: loss(
    lambda p, b: toy.forward(ref, b) + (x if p == 'new' else 0),
    'new',
    'old',
    batch,
  )
  rest = -3.0 * jax.nn.one_hot(batch['targets'], toy.VOCAB)
  slope = jax.jit(jax.grad(at_ref))
  assert np.abs(slope(rest)).max() < 1e-6 < np.abs(slope(0 * rest)).max(), seed


@pytest.mark.parametrize('power', [0.0, 1.0])
def test_known_answers_are_ascended_first(power):
  params, _, batch, seed = _pair()
  nll = _by_answer(_nll(params, batch), batch)
  got = _value(objectives.ascend_where_known(power), params, None, batch)
  want = -_average(np.maximum(nll, 1) ** -power * nll, batch)
  assert float(got) == pytest.approx(want, rel=1e-5), seed


def test_joint_terms_are_an_ascent_and_a_descent():
  params, _, batch, seed = _pair()
  beside = toy.batch(seed + 3, rows=4)
  got = _value(
    objectives.ascent_beside(0.5), params, None, {**batch, 'beside': beside}
  )
  want = [
    sign * np.average(_nll(params, b), weights=b['weights'])
    for sign, b in ((-0.5, batch), (1, beside))
  ]
  np.testing.assert_allclose(got, want, rtol=1e-5, err_msg=str(seed))


@pytest.mark.parametrize('layer', [0, 1])
def test_misdirected_states_have_one_direction_and_a_length(layer):
  params, ref, batch, seed = _pair()
  beside = toy.batch(seed + 3, rows=4)
  loss = objectives.misdirect(layer, 2.0, 10.0)
  away, kept = _value(loss, params, ref, {**batch, 'beside': beside})
  states = lambda p, b: np.asarray(toy.forward(p, b, layer=layer), np.float64)
  way = np.asarray(jax.random.normal(jax.random.key(0), (toy.WIDTH,)))
  way = way / np.linalg.norm(way)

  def far(batch, steered):
    old, real = states(ref, batch), batch['documents'] > 0
    size = np.linalg.norm(old, axis=-1, keepdims=True)
    target = 2.0 * size * way if steered else old
    gap = np.square(states(params, batch) - target).sum(-1) / size[..., 0] ** 2
    return gap[real].mean()

  assert float(away) == pytest.approx(far(batch, True), rel=1e-4), seed
  assert float(kept) == pytest.approx(10 * far(beside, False), rel=1e-4), seed


@pytest.mark.parametrize('scale', [0.5, 2.0])
def test_mirrored_descent_is_finetuning_seen_from_the_other_side(scale):
  """The negated model after SGD steps is vanilla minus the task vector."""
  tuned, ref, batch, seed = _pair()
  del tuned
  mirrored = lambda p: objectives.descend_mirrored(scale)(
    toy.forward, p, ref, batch
  )
  plain = lambda p: objectives.descend(toy.forward, p, None, batch)
  negated = finetuned = ref
  for _ in range(3):
    step = jax.jit(jax.grad(plain))(finetuned)
    finetuned = jax.tree.map(lambda p, g: p - 0.01 * g, finetuned, step)
    # d/dp of the mirrored loss is -1/scale of the gradient there.
    step = jax.jit(jax.grad(mirrored))(negated)
    negated = jax.tree.map(lambda p, g: p - 0.01 * scale**2 * g, negated, step)
  change = toy.vector(negated) - toy.vector(ref)
  want = -scale * (toy.vector(finetuned) - toy.vector(ref))
  assert np.linalg.norm(change - want) < 1e-3 * np.linalg.norm(want), seed
