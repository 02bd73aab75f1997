"""Tokens see what they would see alone, by every way to compute it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmu_jax.models import attention


def test_tokens_see_their_document_their_branch_and_what_branches_share():
  documents = jnp.array([[1, 1, 1, 2, 2, 0]])
  branches = jnp.array([[0, 1, 2, 0, 0, 0]])
  seen = attention.attention_mask(documents, branches)[0].astype(int)
  assert seen.tolist() == [
    [1, 0, 0, 0, 0, 0],
    [1, 1, 0, 0, 0, 0],
    [1, 0, 1, 0, 0, 0],
    [0, 0, 0, 1, 0, 0],
    [0, 0, 0, 1, 1, 0],
    [1, 0, 0, 1, 1, 0],  # padding: seen by nobody, sees what branches share
  ]


def test_the_tokens_of_an_image_see_each_other():
  documents, images = jnp.ones((1, 6), int), jnp.array([[-1, 0, 0, -1, 1, 1]])
  seen = attention.attention_mask(documents, 0 * documents, images)[0]
  both_ways = np.tril(np.ones((6, 6), bool))
  both_ways[1, 2] = both_ways[4, 5] = True
  np.testing.assert_array_equal(seen, both_ways)


def _drawn(length, heads=4, kv_heads=2, keys=None):
  rng = np.random.default_rng()
  draw = lambda n, h: jnp.asarray(rng.normal(size=(2, n, h, 8)), jnp.float32)
  return (
    draw(length, heads),
    draw(keys or length, kv_heads),
    draw(keys or length, kv_heads),
  )


def _packed_mask(length):
  """Documents with branches, and padding behind them."""
  rng = np.random.default_rng()
  documents = np.sort(rng.integers(1, 4, (2, length)))
  documents[:, -length // 10 :] = 0
  branches = np.sort(rng.integers(0, 5, (2, length)))
  return attention.attention_mask(jnp.array(documents), jnp.array(branches))


def _exact(query, key, value, mask):
  """Attention in float64."""
  query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
  key, value = (np.repeat(x, 2, axis=2) for x in (key, value))
  scores = np.einsum('blhd,bshd->bhls', query, key) / np.sqrt(8)
  if mask is not None:
    scores = np.where(mask, scores, -np.inf)
  weights = np.exp(scores - scores.max(-1, keepdims=True))
  weights /= weights.sum(-1, keepdims=True)
  return np.einsum('bhls,bshd->blhd', weights, value)


@pytest.mark.parametrize('way, length', [('xla', 90), ('blocks', 700)])
@pytest.mark.parametrize('kind', ['packed', 'both ways', 'longer keys'])
def test_attention_and_its_gradients_are_exact(way, length, kind):
  """The output is compared with numpy in float64, gradients with JAX's own."""
  drawn = _drawn(length, keys=length + 40 if kind == 'longer keys' else None)
  mask = None if kind == 'both ways' else _packed_mask(length)[:, None]
  if kind == 'longer keys':
    mask = jnp.pad(mask, ((0, 0), (0, 0), (0, 0), (0, 40)))
  weights = jnp.asarray(np.random.default_rng().normal(size=drawn[0].shape))
  ours = functools.partial(
    attention.attend, causal=kind != 'both ways', implementation=way
  )

  def value(attend, *qkv):
    out = attend(*qkv, mask=mask)
    return jnp.vdot(out, weights), out

  gradient = jax.value_and_grad(value, argnums=(1, 2, 3), has_aux=True)
  of = lambda attend: jax.jit(gradient, static_argnums=0)(attend, *drawn)
  (_, out), grads = of(ours)
  _, want = of(jax.nn.dot_product_attention)
  np.testing.assert_allclose(out, _exact(*drawn, mask), atol=2e-6)
  for got, other in zip(grads, want):
    assert float(jnp.abs(other).max()) > 0.1
    np.testing.assert_allclose(got, other, atol=2e-6 * jnp.abs(other).max())


@pytest.mark.parametrize('way, length', [('xla', 9), ('blocks', 600)])
def test_a_query_that_sees_nothing_averages_all_values(way, length):
  """As padding on the left; its gradients are those of an average, too."""
  query, key, value = _drawn(length, heads=2)
  mask = jnp.ones((2, 1, length, length), bool).at[:, :, 3].set(False)
  of = lambda *x: attention.attend(*x, mask, implementation=way)[:, 3]
  out, back = jax.vjp(of, query, key, value)
  np.testing.assert_allclose(out, value.mean(1), atol=1e-6)
  of_query, of_key, of_value = back(jnp.ones_like(out))
  assert not of_query.any() and not of_key.any()
  np.testing.assert_allclose(of_value, 1 / length, rtol=1e-5)


@pytest.mark.parametrize('way, length', [('xla', 60), ('blocks', 600)])
def test_bfloat16_costs_little_more_than_in_jax(way, length):
  """By the norm of what is off, beside the same numbers in float32.

  The output is kept rounded, as fused attention keeps it: 1.4 times as much in
  the gradients of queries and keys, and as much in the others.
  """
  ours = functools.partial(attention.attend, implementation=way)
  drawn = [x.astype(jnp.bfloat16) for x in _drawn(length)]
  whole = [x.astype(jnp.float32) for x in drawn]
  mask = _packed_mask(length)[:, None]

  def results(attend, *qkv):
    out, back = jax.vjp(lambda *x: attend(*x, mask=mask), *qkv)
    return out, *back(
      jnp.cos(jnp.arange(out.size)).reshape(out.shape).astype(out.dtype)
    )

  exact = results(jax.nn.dot_product_attention, *whole)
  mine, jaxs = (
    [float(jnp.linalg.norm(got - want)) for got, want in zip(found, exact)]
    for found in (
      results(ours, *drawn),
      results(jax.nn.dot_product_attention, *drawn),
    )
  )
  assert all(0 < off < 1.7 * other for off, other in zip(mine, jaxs))


def test_the_scale_is_taken():
  drawn = _drawn(20)
  given = dict(scale=0.7, implementation='xla')
  np.testing.assert_allclose(
    attention.attend(*drawn, **given),
    jax.nn.dot_product_attention(*drawn, **given),
    atol=1e-6,
  )


def test_auto_takes_blocks_for_long_rows_and_they_read_no_later_keys():
  """A key that the mask hides by mistake alone would be seen by xla."""
  query, key, value = _drawn(1100)
  everything = jnp.ones((2, 1, 1100, 1100), bool)
  last = lambda way: attention.attend(
    query, key, value, everything, causal=True, implementation=way
  )
  size = attention.block_size(1100)
  assert size == 256 and attention.resolved('auto', 1100) == 'blocks'
  first = attention.attend(
    query[:, :size], key[:, :size], value[:, :size], implementation='xla'
  )
  np.testing.assert_allclose(last('auto')[:, :size], first, atol=1e-6)
  assert float(jnp.abs(last('xla')[:, :size] - first).max()) > 0.01
