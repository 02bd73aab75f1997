"""Stacked layers, and image features in their slots."""

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmu_jax.models import layers
from mmu_jax.models import qwen2_vit
from mmu_jax.models import rotary as rotary_lib


@pytest.mark.parametrize('remat', layers.REMAT)
@pytest.mark.parametrize('num_layers', [None, 2, 0])
def test_scanned_layers_are_a_loop_over_them(num_layers, remat):
  make = lambda rngs: nnx.Linear(3, 3, rngs=rngs)
  stacked = layers.stack_layers(make, 4, nnx.Rngs(0))
  x = jnp.linspace(-1, 1, 6).reshape(1, 2, 3)
  apply = lambda layer, x, extra: (jnp.tanh(layer(x)), extra + 1)
  run = None if num_layers is None else jnp.arange(num_layers)
  extras = jnp.arange(4) if run is None else run
  got, found = layers.scan_layers(
    stacked, apply, x, extras, num_layers=num_layers, remat=remat
  )
  for i in range(len(extras)):
    x = jnp.tanh(x @ stacked.kernel[i] + stacked.bias[i])
  np.testing.assert_allclose(got, x, rtol=1e-6, atol=1e-6)
  assert found.tolist() == (extras + 1).tolist()


@pytest.mark.parametrize('width, out_width', [(3, 7), (7, 3), (4, 4)])
@pytest.mark.parametrize('shape', [(6,), (2, 5), (2, 4, 5)])
def test_a_linear_layer_has_the_gradients_of_jax(shape, width, out_width):
  rng = np.random.default_rng()
  with jax.enable_x64(True):
    sizes = width, out_width
    layer = layers.Linear(*sizes, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
    x = rng.normal(size=(*shape, width))
    weight, bias = rng.normal(size=sizes), rng.normal(size=out_width)
    layer.kernel[...], layer.bias[...] = weight, bias
    out = rng.normal(size=(*shape, out_width))
    made = nnx.split(layer)

    def ours(params, x):
      return jnp.sum(out * jnp.sin(nnx.merge(made[0], params)(x)))

    def plain(weight, bias, x):
      return jnp.sum(out * jnp.sin(x @ weight + bias))

    of_layer, of_x = jax.grad(ours, argnums=(0, 1))(made[1], x)
    want = jax.grad(plain, argnums=(0, 1, 2))(weight, bias, x)
    got = of_layer['kernel'][...], of_layer['bias'][...], of_x
    for a, b in zip(got, want, strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


def test_products_are_kept_and_nothing_else_between_linear_layers():
  """Two of width 50 and 7 in each of 4 layers; what lies between is made."""

  def make(rngs):
    linear = lambda i, o: layers.Linear(i, o, rngs=rngs)
    return nnx.List([linear(7, 50), linear(50, 7)])

  stacked = layers.stack_layers(make, 4, nnx.Rngs(0))
  definition, params = nnx.split(stacked)

  def run(params, remat):
    up_down = lambda pair, x, _: (x + pair[1](jnp.tanh(pair[0](x))), None)
    x = jnp.ones((3, 7))
    whole = nnx.merge(definition, params)
    return layers.scan_layers(whole, up_down, x, remat=remat)[0].sum()

  for remat, wide in {'none': 2, 'products': 1, 'full': 0}.items():
    f = lambda p, remat=remat: jax.vjp(lambda p: run(p, remat), p)[1]
    found = jax.tree.leaves(jax.eval_shape(f, params))
    assert sum(x.shape == (4, 3, 50) for x in found) == wide, remat


@pytest.mark.parametrize('remat', layers.REMAT)
@pytest.mark.parametrize('count', [0, 1, 3])
def test_some_layers_have_the_gradients_of_a_loop(count, remat):
  """The first by a scan and the next alone, in float64."""
  rng = np.random.default_rng()
  with jax.enable_x64(True):
    make = lambda rngs: layers.Linear(5, 5, param_dtype=jnp.float64, rngs=rngs)
    definition, params = nnx.split(layers.stack_layers(make, 4, nnx.Rngs(0)))
    params = jax.tree.map(lambda p: rng.normal(size=p.shape), params)
    x = rng.normal(size=(3, 5))

    def ours(params):
      stacked = nnx.merge(definition, params)
      apply = lambda layer, x, _: (jnp.tanh(layer(x)), None)
      out, _ = layers.scan_layers(
        stacked, apply, x, num_layers=count, remat=remat
      )
      return jnp.sum(jnp.tanh(layers.select_layer(stacked, count)(out)) ** 2)

    def loop(params):
      out = x
      for i in range(count + 1):
        out = jnp.tanh(out @ params['kernel'][i] + params['bias'][i])
      return jnp.sum(out**2)

    plain = {k: params[k][...] for k in ('kernel', 'bias')}
    want = jax.jit(jax.grad(loop))(plain)
    got = jax.jit(jax.grad(ours))(params)
    for name, grad in want.items():
      np.testing.assert_allclose(got[name][...], grad, rtol=1e-9, atol=1e-12)
      assert not np.any(grad[count + 1 :]) and np.any(grad[count])


FAR = 32768  # the last position of Qwen2-VL


def _far_cosines(width, theta):
  """Cosines at ``FAR`` by the rule of transformers, a step at a time."""
  ratios = [np.float32(i) / np.float32(width) for i in range(0, width, 2)]
  powers = [np.float32(float(theta) ** float(ratio)) for ratio in ratios]
  angles = [np.float32(FAR) * (np.float32(1) / power) for power in powers]
  return np.cos(np.float64(angles))


@pytest.mark.parametrize(
  'name, width, theta',
  [
    ('llama', 128, 1e4),
    ('llama', 64, 5e5),
    ('qwen2_vl', 128, 1e6),
    ('vision', 40, 1e4),
  ],
)
def test_compiled_rotary_is_exact_far_out(name, width, theta):
  """Frequencies that XLA made were a last bit off: up to 1.8e-3 here."""
  at = lambda *shape: jnp.full(shape, FAR)
  rotary = {
    'llama': lambda: rotary_lib.rotary(at(1, 1), width, theta),
    'qwen2_vl': lambda: rotary_lib.rotary(
      at(1, 1, 3), width, theta, (16, 24, 24)
    ),
    'vision': lambda: qwen2_vit.rotary_2d(at(1, 1, 2), 2 * width),
  }[name]
  want = _far_cosines(width, theta)
  want = np.tile(want, 4 if name == 'vision' else 2)
  for f in (rotary, jax.jit(rotary)):
    np.testing.assert_allclose(np.ravel(f()[0]), want, atol=2e-6)


def test_features_replace_the_tokens_of_their_slots():
  x = jnp.zeros((1, 4, 2))
  features = jnp.arange(6.0).reshape(1, 3, 2)
  placed = layers.fill_slots(x, features, jnp.array([[-1, 2, 0, -1]]))
  assert placed[0].tolist() == [[0, 0], [4, 5], [0, 1], [0, 0]]


def test_an_unknown_choice_lists_the_known_ones():
  with pytest.raises(
    ValueError, match="one of none, products, full, got 'some'"
  ):
    layers.check_computation('xla', 'some')
