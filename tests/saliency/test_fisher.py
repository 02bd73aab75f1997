"""Importance against finite differences in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from mmu_jax import saliency as saliency_lib
from mmu_jax import tree as tree_lib

pytestmark = pytest.mark.usefixtures('quick_compile')


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


@pytest.mark.parametrize(
  'batches, granularity, message',
  [
    ([], 'batch', 'at least one batch, got none. Is the split empty'),
    (None, 'token', "granularity is 'batch' or 'example', got 'token'"),
  ],
)
def test_an_error_states_the_rule_the_value_and_what_to_do(
  batches, granularity, message
):
  with pytest.raises(ValueError, match=message):
    importance(
      toy.params(0), _batches(6) if batches is None else batches, granularity
    )


@pytest.mark.parametrize('granularity', ['batch', 'example'])
@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_an_importance_that_is_not_finite_names_its_leaf(granularity, bad):
  made = toy.batch(7)
  made['pixel_values'][1] = bad
  with pytest.raises(
    FloatingPointError, match="must be finite; .* leaves are not.*'.*/.*Look"
  ):
    importance(toy.params(7), [made], granularity)
