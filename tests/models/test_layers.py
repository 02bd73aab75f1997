"""Stacked layers, and image features in their slots."""

from flax import nnx
import jax.numpy as jnp
import numpy as np
import pytest

from mmu_jax.models import layers


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


def test_features_replace_the_tokens_of_their_slots():
  x = jnp.zeros((1, 4, 2))
  features = jnp.arange(6.0).reshape(1, 3, 2)
  placed = layers.fill_slots(x, features, jnp.array([[-1, 2, 0, -1]]))
  assert placed[0].tolist() == [[0, 0], [4, 5], [0, 1], [0, 0]]


def test_an_unknown_choice_lists_the_known_ones():
  with pytest.raises(ValueError, match="one of none, dots, full, got 'some'"):
    layers.check_computation('xla', 'some')
