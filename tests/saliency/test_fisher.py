"""Importance against finite differences in float64; saliency and its masks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from mmu_jax import saliency as saliency_lib
from mmu_jax import tree as tree_lib

pytestmark = pytest.mark.usefixtures('quick_compile')

RULES = toy.COMPONENTS
EPS = saliency_lib.EPS


def importance(params, batches, granularity='batch'):
  return saliency_lib.importance(
    toy.loss, params, batches, granularity=granularity
  )


def _batches(seed, n=3, rows=4, **options):
  options = dict(packed=False, weighted=True) | options
  return [toy.batch(100 * seed + i, rows, **options) for i in range(n)]


def _float64_loss(p, made):
  """The perceptron's cross-entropy in float64 NumPy, written again."""
  vision, language = p['vision_tower'], p['language_model']
  x = language['embed_tokens'][made['tokens']]
  b, _, c, h, w = made['pixel_values'].shape
  n = toy.PATCH_SIZE
  colours = np.zeros((b, c, h // n, w // n))
  for i in range(h // n):
    for j in range(w // n):
      patch = np.s_[:, 0, :, n * i : n * (i + 1), n * j : n * (j + 1)]
      patch = made['pixel_values'][patch].astype(np.float64)
      colours[:, :, i, j] = patch.mean((2, 3))
  seen = np.tanh(colours.reshape(b, -1) @ vision['kernel'] + vision['bias'])
  x = x + (seen @ p['multi_modal_projector']['kernel'])[:, None]
  for i in range(2):
    layer = language['layers']
    x = x + np.tanh(x @ layer['kernel'][i] + layer['bias'][i])
  logits = (x * language['norm']) @ language['lm_head']
  logits = logits * language['temperature']
  top = logits.max(-1)
  log_z = top + np.log(np.exp(logits - top[..., None]).sum(-1))
  chosen = np.take_along_axis(logits, made['targets'][..., None], -1)[..., 0]
  weights = made['weights'].astype(np.float64)
  return ((log_z - chosen) * weights).sum() / weights.sum()


def _finite_differences(params, made, h=1e-4):
  """The gradient by central differences of fourth order, all 786 entries."""
  p = jax.tree.map(lambda x: np.array(x, np.float64), params)

  def slope(x):
    grad = np.zeros(x.shape)
    for index in np.ndindex(x.shape):
      old, values = x[index], []
      for step in (-2, -1, 1, 2):
        x[index] = old + step * h
        values.append(_float64_loss(p, made))
      x[index] = old
      grad[index] = np.dot(values, [1, -8, 8, -1]) / (12 * h)
    return grad

  return jax.tree.map(slope, p)


@functools.cache
def _reference_gradients():
  """Parameters, two batches of two rows, and each row's float64 gradient."""
  params = toy.params(0)
  batches = _batches(1, n=2, rows=2)
  grads = [
    [_finite_differences(params, toy.take(b, [i])) for i in range(2)]
    for b in batches
  ]
  return params, batches, grads


def _batch_mean(made, grads):
  """The gradient of a batch's loss from those of its rows' losses."""
  share = made['weights'].sum(1, dtype=np.float64)
  share /= share.sum()
  mean = lambda *leaves: sum(w * g for w, g in zip(share, leaves))
  return jax.tree.map(mean, *grads)


def _mean_square(grads):
  return jax.tree.map(
    lambda *leaves: np.mean(np.square(leaves), axis=0), *grads
  )


def _assert_close(got, want, rtol=1e-5):
  """Entry by entry, to what float32 can tell of the leaf's largest."""
  for name, x in tree_lib.flatten(got).items():
    want_x = tree_lib.flatten(want)[name]
    assert x.dtype == jnp.float32 and x.shape == want_x.shape
    np.testing.assert_allclose(
      x, want_x, rtol=rtol, atol=1e-6 * np.max(want_x), err_msg=name
    )


def test_importance_per_batch_is_the_squared_gradient_of_its_mean_loss():
  params, batches, grads = _reference_gradients()
  want = _mean_square([_batch_mean(b, g) for b, g in zip(batches, grads)])
  assert toy.relative_error(importance(params, batches), want) < 1e-5
  _assert_close(importance(params, batches), want)


def test_importance_per_example_is_the_mean_of_the_squared_gradients():
  params, batches, grads = _reference_gradients()
  want = _mean_square([g for rows in grads for g in rows])
  got = importance(params, batches, 'example')
  assert toy.relative_error(got, want) < 1e-5
  _assert_close(got, want)


def test_the_two_importances_differ_by_more_than_scale():
  params, batches, _ = _reference_gradients()
  per_batch = toy.vector(importance(params, batches))
  per_example = toy.vector(importance(params, batches, 'example'))
  used = per_example > 0
  ratio = per_batch[used] / per_example[used]
  assert np.quantile(ratio, 0.9) > 4 * np.quantile(ratio, 0.1)


def test_for_batches_of_one_row_the_two_importances_agree():
  params = toy.params(1)
  ones = _batches(2, n=4, rows=1)
  a, b = importance(params, ones), importance(params, ones, 'example')
  assert toy.relative_error(a, b) < 1e-6
  assert np.all((toy.vector(a) == 0) == (toy.vector(b) == 0))


def test_per_example_importance_does_not_depend_on_the_batch_size():
  params = toy.params(2)
  four = toy.batch(3, rows=4, packed=False, weighted=True)
  got = [
    importance(
      params,
      [toy.take(four, np.s_[i : i + n]) for i in range(0, 4, n)],
      'example',
    )
    for n in (1, 2, 4)
  ]
  assert toy.relative_error(got[1], got[0]) < 1e-6
  assert toy.relative_error(got[2], got[0]) < 1e-6


@pytest.mark.parametrize('granularity', ['batch', 'example'])
def test_padding_rows_and_columns_do_not_count(granularity):
  params = toy.params(3)
  batches = _batches(4, n=2)
  padded = [toy.pad(b, i, rows=2, columns=3) for i, b in enumerate(batches)]
  want = importance(params, batches, granularity)
  got = importance(params, padded, granularity)
  assert toy.relative_error(got, want) < 1e-6


def test_the_mean_is_over_rows_and_not_over_batches():
  params = toy.params(4)
  full, last = _batches(5, n=2)
  alone = [importance(params, [b], 'example') for b in (full, last)]
  last['weights'][1:] = 0  # a last batch with one row
  alone[1] = importance(params, [toy.take(last, [0])], 'example')
  want = jax.tree.map(lambda a, b: (4 * a + b) / 5, *alone)
  got = importance(params, [full, last], 'example')
  assert toy.relative_error(got, want) < 1e-6


def test_in_the_whole_model_only_what_is_never_run_is_dead():
  found = toy.llava_importance()
  dead = tree_lib.flatten(saliency_lib.dead(found, found))
  tower = 'vision_tower/vision_model'
  unused = {
    f'{tower}/post_layernorm/scale',
    f'{tower}/post_layernorm/bias',
    'language_model/model/embed_tokens/embedding',
  }
  for name, x in dead.items():
    if name.startswith(f'{tower}/encoder/layers/'):
      assert np.all(x[1]), name  # the last layer is not run
      # Softmax does not see a bias of the keys.
      assert np.all(x[0]) == name.endswith('k_proj/bias'), name
    elif name in unused:
      assert np.any(x)
    else:
      assert not np.any(x), name
  tokens = np.asarray(dead['language_model/model/embed_tokens/embedding'])
  assert np.all(tokens.all(1) == tokens.any(1))  # a token occurs or does not


def _nothing():
  return importance(toy.params(0), iter([]))


def _unknown():
  return importance(toy.params(0), _batches(6), 'token')


def _two_choices():
  scores = {'w': jnp.ones(3)}
  return saliency_lib.mask_from_saliency(scores, threshold=1.0, density=0.5)


def _no_choice():
  return saliency_lib.mask_from_saliency({'w': jnp.ones(3)})


def _too_dense():
  return saliency_lib.mask_from_saliency({'w': jnp.ones(3)}, density=1.2)


def _nothing_in_scope():
  return saliency_lib.mask_from_saliency(
    {'w': jnp.ones(3)}, density=0.5, scope=lambda name: False
  )


def _no_preserve():
  return saliency_lib.saliency(toy.params(0), [])


@pytest.mark.parametrize(
  'wrong, message',
  [
    (_nothing, 'at least one batch, got none. Is the split empty'),
    (_unknown, "granularity is 'batch' or 'example', got 'token'"),
    (_two_choices, 'either threshold or density, got threshold=1.0, densi'),
    (_no_choice, 'either threshold or density, got threshold=None, densi'),
    (_too_dense, r'density is a share in \(0, 1\], got 1.2'),
    (_nothing_in_scope, 'no entry is in scope, so none can be salient'),
    (_no_preserve, 'at least one preserve importance'),
  ],
)
def test_an_error_states_the_rule_the_value_and_what_to_do(wrong, message):
  with pytest.raises(ValueError, match=message):
    wrong()


@pytest.mark.parametrize('granularity', ['batch', 'example'])
@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_an_importance_that_is_not_finite_names_its_leaf(granularity, bad):
  made = toy.batch(7)
  made['pixel_values'][1] = bad
  with pytest.raises(
    FloatingPointError, match="must be finite; .* leaves are not.*'.*/.*Look"
  ):
    importance(toy.params(7), [made], granularity)


@pytest.mark.parametrize('normalize', [None, RULES])
def test_the_saliency_of_a_set_with_itself_is_one_everywhere(normalize):
  params = toy.params(8)
  found = importance(params, _batches(8))
  dead = saliency_lib.dead(found, found)
  assert 100 < toy.vector(dead).sum() < 700  # tokens that never occurred
  for preserve in (found, [found], [found, found]):
    scores = saliency_lib.saliency(found, preserve, normalize=normalize)
    assert np.all(toy.vector(scores) == 1)


@pytest.mark.parametrize('eps', [1e-15, 1e-3])
def test_saliency_is_the_ratio_to_the_largest_preserve_importance(eps):
  f, a, b = _three_importances()
  got = saliency_lib.saliency(f, [a, b], eps=eps)
  top = np.maximum(toy.vector(a), toy.vector(b))
  want = (toy.vector(f) + eps) / (top + eps)
  np.testing.assert_allclose(toy.vector(got), want, rtol=1e-6)


def _normalized(tree):
  """Each entry over the mean of its component, in float64."""
  flat = tree_lib.flatten(tree)
  made = {}
  for rule in RULES.values():
    inside = {n: np.float64(x) for n, x in flat.items() if n.startswith(rule)}
    mean = np.mean(np.concatenate([x.ravel() for x in inside.values()]))
    made |= {n: x / mean for n, x in inside.items()}
  return made


def _three_importances():
  """Three random importances of very different sizes."""
  scale = lambda tree, c: jax.tree.map(lambda x: c * x, tree)
  make = lambda seed: toy.tree_like(toy.params(0), seed, sign=False)
  return make(1), scale(make(2), 1e3), scale(make(3), 1e-2)


def test_normalised_saliency_compares_shares_and_not_sizes():
  f, a, b = _three_importances()
  got = saliency_lib.saliency(f, [a, b], normalize=RULES)
  share_f, share_a, share_b = map(_normalized, (f, a, b))
  for name, x in tree_lib.flatten(got).items():
    want = (share_f[name] + EPS) / (
      np.maximum(share_a[name], share_b[name]) + EPS
    )
    np.testing.assert_allclose(x, want, rtol=1e-5)
  scaled = jax.tree.map(lambda x: 1e4 * x, f)
  again = saliency_lib.saliency(scaled, [a, b], normalize=RULES)
  assert toy.relative_error(again, got) < 1e-6


def test_a_component_that_is_never_used_stays_without_importance():
  f, a, _ = _three_importances()
  a['vision_tower'] = jax.tree.map(jnp.zeros_like, a['vision_tower'])
  got = saliency_lib.saliency(f, a, normalize=RULES)
  assert np.all(np.isfinite(toy.vector(got)))
  assert np.all(toy.vector(got['vision_tower']) > 1e6)


def test_saliency_of_other_trees_is_an_error():
  f, a, _ = _three_importances()
  del a['language_model']['norm']
  with pytest.raises(ValueError, match='preserve importance.*1 .*norm.* miss'):
    saliency_lib.saliency(f, [f, a])


def test_dead_is_below_eps_in_every_set_and_not_at_it():
  tree = lambda *x: {'w': jnp.asarray(x, jnp.float32)}
  dead = lambda *trees: saliency_lib.dead(*trees, eps=1.0)['w'].tolist()
  f, p = tree(0.5, 0.5, 1.0, 2.0), tree(0.9, 1.0, 0.5, 2.0)
  assert dead(f, p) == [True, False, False, False]
  assert dead(f, [f, p]) == [True, False, False, False]
  assert dead(f, f) == [True, True, False, False]


@pytest.mark.parametrize('threshold', [0.5, 1.0, 2.0])
def test_a_threshold_marks_the_scores_that_reach_it(threshold):
  scores = toy.tree_like(toy.params(0), 30, sign=False)
  scores['language_model']['norm'] = jnp.full(toy.WIDTH, threshold)
  got = saliency_lib.mask_from_saliency(scores, threshold=threshold)
  np.testing.assert_array_equal(
    toy.vector(got), toy.vector(scores) >= threshold
  )
  assert all(x.dtype == bool for x in jax.tree.leaves(got))
  assert np.all(got['language_model']['norm'])


@pytest.mark.parametrize('density', [1e-4, 0.1, 0.37, 0.9, 1.0])
def test_a_density_marks_that_share_of_the_highest_scores(density):
  scores = toy.tree_like(toy.params(0), 31, sign=False)
  got = toy.vector(saliency_lib.mask_from_saliency(scores, density=density))
  values = toy.vector(scores)
  assert got.sum() == max(round(density * 786), 1)
  assert values[got == 1].min() >= values[got == 0].max(initial=0)


def test_equal_scores_at_the_border_of_a_density_are_all_taken():
  scores = {'w': jnp.array([3.0, 2.0, 2.0, 2.0, 1.0])}
  got = saliency_lib.mask_from_saliency(scores, density=0.4)
  assert got['w'].tolist() == [True, True, True, True, False]


@pytest.mark.parametrize('choice', [{'threshold': 0.3}, {'density': 0.5}])
def test_leaves_out_of_scope_and_ties_are_frozen_and_not_forgotten(choice):
  scores = toy.tree_like(toy.params(0), 32, sign=False)
  ties = toy.random_mask(scores, 32)
  inside = lambda name: 'kernel' in name
  got = tree_lib.flatten(
    saliency_lib.mask_from_saliency(scores, ties=ties, scope=inside, **choice)
  )
  assert list(got) == list(tree_lib.flatten(scores))  # every leaf is covered
  for name, x in got.items():
    if inside(name):
      assert not np.any(x & tree_lib.flatten(ties)[name])
      assert np.any(x)
    else:
      assert not np.any(x)
  if 'density' in choice:  # a share of what is in scope
    free = [
      ~np.asarray(t) for n, t in tree_lib.flatten(ties).items() if inside(n)
    ]
    total = sum(f.sum() for f in free)
    assert sum(int(jnp.sum(x)) for x in got.values()) == round(total / 2)


def test_ties_of_another_tree_are_an_error():
  scores = toy.tree_like(toy.params(0), 33)
  with pytest.raises(ValueError, match='ties must have the leaves of the sco'):
    saliency_lib.mask_from_saliency(scores, threshold=1.0, ties={'w': scores})


def _saliency_mask(params, forget, preserve, granularity):
  f, p = (importance(params, x, granularity) for x in (forget, preserve))
  scores = saliency_lib.saliency(f, p)
  ties = saliency_lib.dead(f, p)
  mask = saliency_lib.mask_from_saliency(scores, threshold=1.0, ties=ties)
  return toy.vector(mask), np.abs(np.log(toy.vector(scores)))


@pytest.mark.parametrize('granularity', ['batch', 'example'])
@pytest.mark.parametrize('change', ['padding', 'order'])
def test_the_mask_does_not_see_padding_or_the_order_of_batches(
  granularity, change
):
  params = toy.params(40)
  forget, preserve = _batches(41, n=4), _batches(42, n=4)
  mask, log_ratio = _saliency_mask(params, forget, preserve, granularity)
  if change == 'padding':
    alter = lambda made: [toy.pad(b, 43, rows=2, columns=3) for b in made]
  else:
    alter = lambda made: [made[i] for i in (2, 0, 3, 1)]
  again, _ = _saliency_mask(params, alter(forget), alter(preserve), granularity)
  near_ties = (log_ratio < 1e-4) & (log_ratio > 0)
  assert near_ties.sum() <= 2  # of 786
  np.testing.assert_array_equal(again[~near_ties], mask[~near_ties])
  assert 0.1 < mask.mean() < 0.9


def test_the_mean_of_more_entries_than_an_int32_counts():
  """As in the language model of a 7B model, of 6.7 billion weights."""
  shapes = {'w': jax.ShapeDtypeStruct((2, 2**31), jnp.float32)}
  means = lambda tree: saliency_lib.component_means(tree, {'language': '.*'})
  assert jax.eval_shape(means, shapes)['language'].shape == ()
