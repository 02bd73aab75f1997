"""Gradients on a mesh are those of one device, for every parameter.

With one row a device, and with data, fsdp and tensor all at work, a compiler
that may choose has swapped rows on the way back: losses were right, and the
gradients of the vision tower were not.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmu_jax import methods
from mmu_jax import models
from mmu_jax import sharding
from mmu_jax import tree as tree_lib

pytestmark = pytest.mark.usefixtures('quick_compile')
LENGTH, VOCAB = 40, 48
MESHES = ('data=2,fsdp=4', 'fsdp=4,tensor=2', 'data=2,fsdp=2,tensor=2')
WIDTH = dict(
  hidden_size=32,
  intermediate_size=32,
  num_hidden_layers=2,
  num_attention_heads=2,
)
LLAVA = dict(
  vision_config=WIDTH | dict(image_size=48, patch_size=12),
  text_config=WIDTH | dict(num_key_value_heads=2),
  vision_feature_layer=-1,
)
QWEN2_VL = dict(
  vision_config=dict(
    depth=2, embed_dim=32, hidden_size=32, num_heads=2, patch_size=4
  ),
  text_config=WIDTH | dict(num_key_value_heads=2, mrope_section=(2, 3, 3)),
)
OPTIONS = {'llava': LLAVA, 'qwen2_vl': QWEN2_VL}


def _batch(family, rows, model):
  """Rows with a picture each; the last one is padding."""
  rng = np.random.default_rng(rows)
  shape = (rows, LENGTH)
  slots = np.full(shape, -1)
  tokens = 16 if family == 'llava' else 4
  slots[:, 3 : 3 + tokens] = range(tokens)
  documents = np.ones(shape)
  documents[-1] = 0
  weights = (rng.random(shape) < 0.4) * documents
  positions = np.broadcast_to(np.arange(LENGTH), shape)
  ints = dict(
    tokens=rng.integers(0, VOCAB, shape),
    positions=positions,
    documents=documents,
    branches=np.zeros(shape),
    image_slots=slots,
    targets=rng.integers(0, VOCAB, shape),
  )
  made = {k: x.astype(np.int32) for k, x in ints.items()}
  made['weights'] = weights.astype(np.float32)
  pixels = (1, 3, 48, 48)
  if family == 'qwen2_vl':
    pixels = (16, model.config.vision_config.patch_dim)
    where = np.stack(np.meshgrid(range(4), range(4), indexing='ij'), -1)
    made['positions'] = np.repeat(made['positions'][..., None], 3, -1)
    made['patch_images'] = np.ones((rows, 16), np.int32)
    made['patch_positions'] = np.broadcast_to(
      where.reshape(16, 2), (rows, 16, 2)
    ).astype(np.int32)
  made['pixel_values'] = rng.normal(size=(rows, *pixels)).astype(np.float32)
  return made


def _gradients(model, batch, spec):
  """Every leaf of the gradient of the loss, on a mesh."""
  mesh, rules = sharding.make_mesh(spec), model.partition_rules
  places = sharding.shardings(model.abstract_params, rules, mesh)
  init = jax.jit(model.init, out_shardings=places)

  @jax.jit
  def gradient(params, batch):
    loss = lambda p: methods.descend(model.forward, p, None, batch)
    return sharding.constrain(jax.grad(loss)(params), rules)

  with jax.set_mesh(mesh):
    placed = sharding.place(batch, mesh, len(batch['tokens']))
    found = gradient(init(jax.random.key(0)), placed)
  return {k: np.asarray(x) for k, x in tree_lib.flatten(found).items()}


@pytest.fixture(scope='module', params=OPTIONS)
def model(request):
  return models.from_options(request.param, VOCAB, **OPTIONS[request.param])


@pytest.mark.parametrize('spec', MESHES)
def test_gradients_are_those_of_one_device(model, spec):
  rows = sharding.row_parts(sharding.make_mesh(spec))
  batch = _batch(model.family, rows, model)
  want, got = (_gradients(model, batch, s) for s in ('', spec))
  largest = max(np.abs(x).max() for x in want.values())
  for name, x in want.items():
    assert jnp.isfinite(x).all()
    np.testing.assert_allclose(
      got[name], x, rtol=1e-3, atol=1e-6 * largest, err_msg=name
    )
