"""The decoder: rotary positions, and which token sees which."""

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmu_jax import sharding
from mmu_jax.models import llama

pytestmark = pytest.mark.usefixtures('quick_compile')


def test_rotary_is_a_complex_rotation_in_float64():
  rng = np.random.default_rng(14)
  positions = np.concatenate([np.arange(40), rng.integers(40, 4096, 24)])
  positions = positions.reshape(2, 32)
  x = rng.normal(size=(2, 32, 3, 16)).astype(np.float32)
  cos, sin = llama.rotary(jnp.asarray(positions), 16, 10000.0)
  got = llama.rotate(jnp.asarray(x), cos, sin)
  frequencies = 10000.0 ** (-np.arange(8) / 8)  # [head_dim / 2]
  angles = positions[..., None, None] * frequencies  # [B, L, 1, head_dim / 2]
  turned = (x[..., :8] + 1j * x[..., 8:]) * np.exp(1j * angles)
  want = np.concatenate([turned.real, turned.imag], axis=-1)
  # An angle in float32 is off by 2^-23 of itself.
  allowed = 2.0**-22 * (1 + positions[..., None, None]) * np.abs(x).max()
  assert np.all(np.abs(got - want) <= 2 * allowed)


def test_scores_depend_on_distance_alone():
  rng = np.random.default_rng(15)
  q, k = jnp.asarray(rng.normal(size=(2, 1, 1, 1, 16)), jnp.float32)

  def score(i, j):
    turn = lambda x, p: llama.rotate(
      x, *llama.rotary(jnp.array([[p]]), 16, 10000.0)
    )
    return float(jnp.vdot(turn(q, i), turn(k, j)))

  assert score(9, 2) == pytest.approx(score(19, 12), abs=1e-5)
  assert abs(score(9, 2) - score(9, 3)) > 1e-2


def test_tokens_see_their_document_their_branch_and_what_branches_share():
  documents = jnp.array([[1, 1, 1, 2, 2, 0]])
  branches = jnp.array([[0, 1, 2, 0, 0, 0]])
  seen = llama.attention_mask(documents, branches)[0].astype(int)
  assert seen.tolist() == [
    [1, 0, 0, 0, 0, 0],
    [1, 1, 0, 0, 0, 0],
    [1, 0, 1, 0, 0, 0],
    [0, 0, 0, 1, 0, 0],
    [0, 0, 0, 1, 1, 0],
    [1, 0, 0, 1, 1, 0],  # padding: seen by nobody, sees what branches share
  ]


def test_heads_must_divide_the_width():
  with pytest.raises(ValueError, match='multiple of num_attention_heads'):
    llama.LlamaConfig(hidden_size=30, num_attention_heads=4)


def test_a_width_of_heads_is_a_size_of_its_own():
  """Equal sizes are equal configs, however they are given."""
  given = llama.LlamaConfig(
    hidden_size=96, num_attention_heads=32, head_dim=128
  )
  assert (given.hidden_size, given.head_dim) == (96, 128)
  assert llama.LlamaConfig() == llama.LlamaConfig(head_dim=128)
  with pytest.raises(ValueError, match='pairs to rotate; got 3'):
    llama.LlamaConfig(head_dim=3)


def test_a_factor_stretches_positions():
  positions = jnp.arange(50)[None]
  slow = llama.rotary(8 * positions, 16, 1e6, factor=8)
  for got, want in zip(slow, llama.rotary(positions, 16, 1e6)):
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)


def test_interleaved_sections_take_turns_and_the_rest_is_time():
  axes = llama.mrope_axes((24, 20, 20), True)
  assert np.bincount(axes).tolist() == [24, 20, 20]
  assert axes[:7].tolist() == [0, 1, 2, 0, 1, 2, 0]
  assert np.flatnonzero(axes == 0).tolist() == [
    *range(0, 60, 3),
    *range(60, 64),
  ]
  positions = jnp.array([[[100, 10, 1]]])
  cos, _ = llama.rotary(positions, 16, 1e4, (4, 2, 2), interleaved=True)
  at = np.array([100, 10, 1, 100, 10, 1, 100, 100])
  want = np.cos(at * 10000.0 ** (-np.arange(8) / 8))
  np.testing.assert_allclose(cos[0, 0, 0, :8], want, rtol=0, atol=1e-5)


def test_an_offset_norm_adds_to_its_weight():
  rng = np.random.default_rng(16)
  x, weight = rng.normal(size=(3, 8)), rng.normal(size=8).astype(np.float32)
  plain = nnx.RMSNorm(8, epsilon=1e-3, rngs=nnx.Rngs(0))
  plain.scale[...] = 1 + weight
  norm = llama.OffsetNorm(8, 1e-3, 1.0, 'float32')
  fresh = norm(jnp.float32(x))
  norm.scale[...] = jnp.asarray(weight)
  np.testing.assert_allclose(norm(x), plain(x), rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(fresh * (1 + weight), norm(x), rtol=1e-5)


def _model(*sizes, dtype='float32', **options):
  """A decoder and random parameters, which are not compiled."""
  config = llama.LlamaConfig(*sizes, **options)
  make = lambda: llama.LlamaModel(config, dtype, nnx.Rngs(0))
  definition, state = nnx.split(nnx.eval_shape(make))
  rng = np.random.default_rng(19)
  params = jax.tree.map(lambda x: rng.normal(size=x.shape) / 3, state)
  params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
  return nnx.merge(definition, params)


def _windowed(layers):
  """Every third layer sees all, the others three tokens."""
  sizes = (20, 16, 24, layers, 2, 1)
  return _model(*sizes, sliding_window=3, sliding_window_pattern=3)


@nnx.jit
def _run(model, tokens):
  positions = jnp.arange(tokens.shape[1])[None]
  ones = jnp.ones(tokens.shape, int)
  mask, near = (
    llama.attention_mask(ones, 0 * ones),
    llama.within(*2 * [positions], 3),
  )
  return model(model.embed(tokens), positions, mask, near=near)[0][0]


@pytest.mark.parametrize('layers, reach', [(1, 2), (2, 4), (3, 11)])
def test_a_layer_sees_its_window_and_every_third_sees_all(layers, reach):
  model = _windowed(layers)
  tokens = np.random.default_rng(17).integers(0, 10, (1, 12))
  before, after = (
    _run(model, tokens + 10 * (np.arange(12) == i)) for i in (-1, 0)
  )
  moved = np.abs(before - after).max(-1) > 1e-6
  assert moved.tolist() == [i <= reach for i in range(12)]


@nnx.jit
def _step(model, token, i, cache):
  visible = jnp.arange(9)[None] <= i
  near = llama.within_visible(visible, 3)[:, None]
  at = jnp.full((1, 1), i)
  x = model.embed(token[None, None])
  return model(x, at, visible[:, None], cache, i, near=near)


def test_a_token_is_written_into_its_cache_in_place():
  """Beside the cache, a step needs the keys and values of one layer alone."""
  depth = 6
  model = _model(20, 16, 24, depth, 2, 2)
  cache = llama.make_cache(model.config, 4, 1024, 'float32')
  definition, params = nnx.split(model)

  def step(params, x, slot, cache):
    seen = jnp.ones((4, 1, 1024), bool)
    run = nnx.merge(definition, params)
    return run(x, jnp.full((4, 1), slot), seen, cache, slot)

  x = jnp.ones((4, 1, 16))
  made = jax.jit(step, donate_argnums=3).lower(params, x, 1000, cache).compile()
  used, size = made.memory_analysis(), sum(leaf.nbytes for leaf in cache)
  assert used.alias_size_in_bytes >= size
  assert used.temp_size_in_bytes < 1.3 * size / depth


def test_windows_of_a_cache_are_those_of_positions():
  model = _windowed(4)
  tokens = np.random.default_rng(18).integers(0, 20, (1, 9))
  whole = _run(model, tokens)
  cache = llama.make_cache(model.config, 1, 9, 'float32')
  for i, token in enumerate(tokens[0]):
    one, cache = _step(model, token, i, cache)
    np.testing.assert_allclose(one[0, 0], whole[i], rtol=0, atol=1e-5)


def test_the_tokens_of_an_image_see_each_other():
  documents, images = jnp.ones((1, 6), int), jnp.array([[-1, 0, 0, -1, 1, 1]])
  seen = llama.attention_mask(documents, 0 * documents, images)[0]
  both_ways = np.tril(np.ones((6, 6), bool))
  both_ways[1, 2] = both_ways[4, 5] = True
  np.testing.assert_array_equal(seen, both_ways)


def test_embeddings_are_scaled_in_the_dtype_of_the_computation():
  sizes, tokens = (9, 40, 8, 1, 2, 1), jnp.arange(9)
  for dtype, scale in (('float32', 40**0.5), ('bfloat16', 6.3125)):
    model = _model(*sizes, dtype=dtype, scale_embeddings=True)
    plain, got = model.embed_tokens(tokens), model.embed(tokens)
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, plain * jnp.asarray(scale, dtype))


def test_a_cache_goes_where_its_rules_say_on_a_mesh():
  config = llama.LlamaConfig(50, 16, 24, 2, 4, 2)
  mesh = sharding.make_mesh('data=2,fsdp=2,tensor=2')

  def make(new):
    cache = llama.make_cache(config, 8, 6, 'float32')
    return llama.write_tokens(cache, new, 2 * new, jnp.int32(1), 3)

  new = np.random.default_rng(0).normal(size=(8, 1, 2, 4)).astype(np.float32)
  with jax.set_mesh(mesh):
    cache = jax.jit(make)(new)
  for times, x in enumerate(cache, 1):
    want = np.zeros((2, 8, 6, 2, 4), np.float32)
    want[1, :, 3] = times * new[:, 0]
    np.testing.assert_array_equal(x, want)
    spec = (None, ('data', 'fsdp'), None, 'tensor')
    assert tuple(x.sharding.spec)[:4] == spec
