"""Gradients on a mesh are those of one device, for every parameter.

With one row a device, and with data, fsdp and tensor all at work, a compiler
that may choose has swapped rows on the way back: losses were right, and the
gradients of the vision tower were not.
"""

import itertools

import families
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmu_jax import models
from mmu_jax import objectives
from mmu_jax import sharding
from mmu_jax import tree as tree_lib

pytestmark = pytest.mark.usefixtures('quick_compile')
LENGTH, VOCAB = 40, 48
ALL = 'data=2,fsdp=2,tensor=2'
OTHERS = ('data=2,fsdp=4', 'fsdp=4,tensor=2')  # one of them with each family
CASES = [(family, ALL) for family in families.CASES]
CASES += zip(families.CASES, itertools.cycle(OTHERS))


def _batch(model, rows):
  """Rows with a picture each; the last one is padding."""
  rng = np.random.default_rng(rows)
  family, room = models.MODELS[model.family], families.CASES[model.family].room
  shapes = family.abstract_batch(model.config, rows, LENGTH, room)
  made = {  # of the family: places of patches, 1 or 2
    name: rng.integers(1, 3, x.shape).astype(x.dtype)
    for name, x in shapes.items()
  }
  for name in ('tokens', 'targets'):
    made[name] = rng.integers(0, VOCAB, (rows, LENGTH)).astype(np.int32)
  positions = np.moveaxis(made['positions'], 1, -1)
  positions[:] = np.arange(LENGTH)
  tokens = families.num_features(model, room)
  made['image_slots'][:] = -1
  made['image_slots'][:, 3 : 3 + tokens] = range(tokens)
  made['branches'][:] = 0
  made['documents'][:] = 1
  made['documents'][-1] = 0
  pixels = shapes['pixel_values'].shape
  made['pixel_values'] = rng.normal(size=pixels).astype(np.float32)
  weights = (rng.random((rows, LENGTH)) < 0.4) * made['documents']
  made['weights'] = weights.astype(np.float32)
  return made


def _gradients(model, batch, spec):
  """Every leaf of the gradient of the loss, on a mesh."""
  mesh, rules = sharding.make_mesh(spec), model.partition_rules
  places = sharding.shardings(model.abstract_params, rules, mesh)
  init = jax.jit(model.init, out_shardings=places)

  @jax.jit
  def gradient(params, batch):
    loss = lambda p: objectives.descend(model.forward, p, None, batch)
    return sharding.constrain(jax.grad(loss)(params), rules)

  with jax.set_mesh(mesh):
    placed = sharding.place(batch, mesh, len(batch['tokens']))
    found = gradient(init(jax.random.key(0)), placed)
  return {k: np.asarray(x) for k, x in tree_lib.flatten(found).items()}


@pytest.mark.parametrize('family, spec', CASES)
def test_gradients_are_those_of_one_device(family, spec):
  options = families.CASES[family].options
  model = models.from_options(family, VOCAB, **options)
  rows = sharding.row_parts(sharding.make_mesh(spec))
  batch = _batch(model, rows)
  want, got = (_gradients(model, batch, s) for s in ('', spec))
  largest = max(np.abs(x).max() for x in want.values())
  for name, x in want.items():
    assert jnp.isfinite(x).all()
    np.testing.assert_allclose(
      got[name], x, rtol=1e-3, atol=1e-6 * largest, err_msg=name
    )
