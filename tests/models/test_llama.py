"""The decoder: its sizes, norms, windows and cache."""

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmu_jax import sharding
from mmu_jax.models import attention
from mmu_jax.models import llama

pytestmark = pytest.mark.usefixtures('quick_compile')


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
    attention.attention_mask(ones, 0 * ones),
    attention.within(*2 * [positions], 3),
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


def _states(model, tokens, **how):
  """Hidden states ``[B, L, D]``, or at some positions."""
  positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
  ones = jnp.ones(tokens.shape, int)
  seen = attention.attention_mask(ones, 0 * ones)
  near = attention.within(*2 * [positions], 3)
  x = model.embed(tokens)
  return model(x, positions, seen, near=near, **how)[0]


@pytest.mark.parametrize('remat', ['none', 'products', 'full'])
@pytest.mark.parametrize(
  'layers, run', [(1, None), (2, None), (3, None), (3, 0), (3, 1), (3, 2)]
)
def test_states_at_some_positions_are_the_same(layers, run, remat):
  """The last layer has a window of three tokens, or sees all, or is none."""
  rng = np.random.default_rng()
  model, tokens = _windowed(layers), rng.integers(0, 20, (2, 12))
  at = np.array([[11, 0, 7, 7], [5, 4, 9, 1]])
  how = dict(num_layers=run, remat=remat)
  get = nnx.jit(lambda model, at: _states(model, tokens, at=at, **how))
  want = nnx.jit(lambda model: _states(model, tokens, **how))(model)
  want = np.take_along_axis(np.asarray(want), at[..., None], axis=1)
  np.testing.assert_allclose(get(model, at), want, rtol=1e-5, atol=1e-5)


def test_the_last_layer_computes_little_where_few_states_are_read():
  """One layer: keys and values of 64 tokens, and the rest of a single one."""
  definition, state = nnx.split(_windowed(1))
  tokens = np.zeros((1, 64), int)

  def flops(at):
    run = lambda state: _states(nnx.merge(definition, state), tokens, at=at)
    return jax.jit(run).lower(state).cost_analysis()['flops']

  assert flops(np.array([[63]])) < 0.4 * flops(None)


@nnx.jit
def _step(model, token, i, cache):
  visible = jnp.arange(9)[None] <= i
  near = attention.within_visible(visible, 3)[:, None]
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


@pytest.mark.parametrize('qk_norm', [False, True])
def test_queries_and_keys_are_kept_as_they_are_read_and_rotated_once(qk_norm):
  """Two heads of width 10 and one: rotated, or as products for a norm."""
  model = _model(20, 16, 24, 3, 2, 1, head_dim=10, qk_norm=qk_norm)
  definition, state = nnx.split(model)
  tokens = np.zeros((2, 12), int)

  def backward(state):
    run = lambda state: _states(nnx.merge(definition, state), tokens).sum()
    return jax.vjp(run, state)[1]

  shapes = [x.shape for x in jax.tree.leaves(jax.eval_shape(backward, state))]
  kinds = (20,), (2, 10), (10,), (1, 10)  # queries; keys, beside the values
  found = [shapes.count((3, 2, 12, *kind)) for kind in kinds]
  assert found == ([1, 0, 2, 0] if qk_norm else [0, 1, 1, 1])
