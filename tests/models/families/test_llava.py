"""The model: where pictures go, which layers run, what remat and depth cost."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from mmu_jax import losses
from mmu_jax import models
from mmu_jax import objectives
from mmu_jax import tree as tree_lib

pytestmark = pytest.mark.usefixtures('quick_compile')
NUM_PATCHES = toy.IMAGE_TOKENS


def _variant(**changes):
  """The toy model with other options; ``vision`` and ``text`` are nested."""
  config = toy.llava().config
  vision = dataclasses.replace(
    config.vision_config, **changes.pop('vision', {})
  )
  text = dataclasses.replace(config.text_config, **changes.pop('text', {}))
  return models.build(
    dataclasses.replace(
      config, vision_config=vision, text_config=text, **changes
    )
  )


def _params(model, seed):
  """Random parameters, none zero; they are not compiled."""
  rng = np.random.default_rng(seed)
  return tree_lib.map_with_name(
    lambda name, x: rng.normal(
      float(name.endswith('scale')), 0.25, x.shape
    ).astype(np.float32),
    _shapes(model),
  )


def _shapes(model):
  return jax.eval_shape(model.init, jax.random.key(0))


@functools.cache
def _features(model):
  """Jitted: image tokens ``[B, N, D]`` of pixels ``[B, 3, 24, 24]``."""
  return jax.jit(
    lambda params, pixels: model.image_features(
      params, {'pixel_values': pixels[:, None]}
    )
  )


def _gradient(model):
  return jax.jit(
    jax.grad(
      lambda params, batch: losses.nll(
        model.forward(params, batch), batch['targets'], batch['weights']
      )
    )
  )


def test_image_features_go_to_their_slots():
  model = toy.llava()
  params, rng = _params(model, 0), np.random.default_rng(1)
  batch = toy.batch(2, rows=3)
  batch['pixel_values'] = rng.normal(
    size=(3, 2, 3, toy.IMAGE_SIZE, toy.IMAGE_SIZE)
  ).astype(np.float32)  # two pictures a row
  slots = rng.integers(-4, 2 * NUM_PATCHES, batch['tokens'].shape)
  batch['image_slots'] = np.maximum(slots, -1).astype(np.int32)
  # Layers that add nothing: logits are those of the embedding, normed.
  decoder = params['language_model']['model']
  decoder['layers']['self_attn']['o_proj']['kernel'][:] = 0
  decoder['layers']['mlp']['down_proj']['kernel'][:] = 0
  logits = jax.jit(model.forward)(params, batch)
  features = _features(model)(
    params, batch['pixel_values'].reshape(-1, *(3, 24, 24))
  )
  table, head = decoder['embed_tokens']['embedding'], params['language_model']
  for b, i in np.ndindex(*batch['tokens'].shape):
    picture, patch = divmod(int(batch['image_slots'][b, i]), NUM_PATCHES)
    want = table[batch['tokens'][b, i]]
    if batch['image_slots'][b, i] >= 0:
      want = features[2 * b + picture, patch]
    want = want / np.sqrt(np.mean(want**2) + 1e-5) * decoder['norm']['scale']
    want = want @ head['lm_head']['kernel']
    np.testing.assert_allclose(logits[b, i], want, rtol=2e-5, atol=2e-5)
  assert {-1, *range(2 * NUM_PATCHES)} == set(batch['image_slots'].ravel())


def test_logits_where_asked_for_are_those_of_every_position():
  model = toy.llava()
  params, batch = _params(model, 41), toy.batch(42, weighted=True)
  rows, length = batch['tokens'].shape
  at = np.random.default_rng(43).integers(0, length, (rows, 5))
  every = jax.jit(model.forward)(params, batch)
  some = jax.jit(model.forward)(params, batch, at=at)
  want = np.take_along_axis(np.asarray(every), at[..., None], axis=1)
  np.testing.assert_allclose(some, want, rtol=1e-5, atol=1e-5)
  gradient = jax.jit(
    jax.grad(lambda p, b: objectives.descend(model.forward, p, None, b))
  )
  here = toy.counted(batch, free=2)
  error = toy.relative_error(gradient(params, here), gradient(params, batch))
  assert error < 1e-5


def test_a_tied_model_is_one_whose_output_layer_is_the_embedding():
  model, tied = toy.llava(), _variant(tie_word_embeddings=True)
  params, batch = _params(tied, 51), toy.batch(52)
  decoder = params['language_model']
  assert list(decoder) == ['model']
  table = decoder['model']['embed_tokens']['embedding']
  head = {'lm_head': {'kernel': table.T}}
  twin = params | {'language_model': decoder | head}
  got = jax.jit(tied.forward)(params, batch)
  want = jax.jit(model.forward)(twin, batch)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
  # Its gradient is of both uses.
  loss = lambda m: jax.grad(
    lambda p: losses.nll(
      m.forward(p, batch), batch['targets'], batch['weights']
    )
  )
  grads = tree_lib.flatten(jax.jit(loss(tied))(params))
  apart = tree_lib.flatten(jax.jit(loss(model))(twin))
  name = 'language_model/model/embed_tokens/embedding'
  want = apart[name] + apart['language_model/lm_head/kernel'].T
  np.testing.assert_allclose(grads[name], want, rtol=1e-4, atol=1e-6)


def test_hidden_states_are_those_of_a_model_with_fewer_layers():
  model = toy.llava()
  params, batch = _params(model, 31), toy.batch(32)
  depth = model.config.text_config.num_hidden_layers
  assert depth > 1
  hidden = lambda k, m=model, p=params: jax.jit(
    functools.partial(m.forward, layer=k)
  )(p, batch)
  decoder = params['language_model']['model']
  embedded = np.asarray(hidden(0))
  features = _features(model)(params, batch['pixel_values'][:, 0])
  for b, i in np.ndindex(*batch['tokens'].shape):
    slot = int(batch['image_slots'][b, i])
    want = decoder['embed_tokens']['embedding'][batch['tokens'][b, i]]
    want = want if slot < 0 else features[b, slot]
    np.testing.assert_allclose(embedded[b, i], want, rtol=1e-5, atol=1e-5)
  shallow = _variant(text=dict(num_hidden_layers=1))
  first = {**params, 'language_model': {**params['language_model']}}
  first['language_model']['model'] = decoder | {
    'layers': jax.tree.map(lambda x: x[:1], decoder['layers'])
  }
  want = hidden(1, shallow, first)
  np.testing.assert_allclose(hidden(1), want, rtol=1e-5, atol=1e-5)
  assert toy.relative_error(hidden(depth), hidden(depth - 1)) > 0.1
  last = np.asarray(hidden(depth))
  last = last / np.sqrt(np.mean(last**2, -1, keepdims=True) + 1e-5)
  logits = (last * decoder['norm']['scale']) @ params['language_model'][
    'lm_head'
  ]['kernel']
  want = jax.jit(model.forward)(params, batch)
  np.testing.assert_allclose(logits, want, rtol=2e-4, atol=2e-4)
  with pytest.raises(ValueError, match=f'a layer is 0 to {depth}; got 9'):
    hidden(9)


def test_a_patch_feels_its_own_pixels():
  """With attention out of the way, patch n sees rows and columns of patch n."""
  model = _variant(vision_feature_layer=0)  # embeddings, then the projector
  params, rng = _params(model, 3), np.random.default_rng(4)
  pixels = rng.normal(size=(1, 3, 24, 24)).astype(np.float32)
  features = _features(model)
  before = features(params, pixels)[0]
  for n in range(NUM_PATCHES):
    row, column = divmod(n, 2)
    changed = pixels.copy()
    changed[..., row * 12 : row * 12 + 12, column * 12 : column * 12 + 12] += 1
    differs = np.any(features(params, changed)[0] != before, axis=-1)
    assert differs.tolist() == [i == n for i in range(NUM_PATCHES)]


def test_text_batches_need_no_picture():
  model = toy.llava()
  params = _params(model, 5)
  batch = toy.batch(6, pictures=False)
  assert batch['pixel_values'].shape[1] == 0
  unread = dict(batch, pixel_values=toy.batch(7)['pixel_values'])
  forward = jax.jit(model.forward)
  logits = forward(params, batch)
  assert logits.shape == (*batch['tokens'].shape, toy.VOCAB)
  assert np.isfinite(logits).all()
  np.testing.assert_allclose(forward(params, unread), logits, 1e-5, 1e-5)


def test_bfloat16_is_float32_up_to_its_rounding():
  model = toy.llava('bfloat16')
  params, batch = _params(model, 8), toy.batch(9)

  def loss(params):
    logits = model.forward(params, batch)
    weights = batch['weights']
    return losses.nll(logits, batch['targets'], weights), logits

  grads, logits = jax.jit(jax.grad(loss, has_aux=True))(params)
  assert logits.dtype == jnp.bfloat16
  exact = np.asarray(jax.jit(toy.llava().forward)(params, batch))
  real = batch['documents'] > 0
  error = np.asarray(logits, np.float32)[real] - exact[real]
  assert 1e-4 < np.linalg.norm(error) / np.linalg.norm(exact[real]) < 0.03
  assert {x.dtype for x in jax.tree.leaves(grads)} == {jnp.dtype('float32')}
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(grads))


def test_remat_gives_the_same_gradients():
  with jax.enable_x64(True):
    params = jax.tree.map(np.float64, _params(toy.llava(), 10))
    batch = toy.counted(toy.batch(11), free=2)
    grads, products = {}, {}
    for remat in ('none', 'products', 'full'):
      model = _variant(dtype='float64', remat=remat)
      loss = functools.partial(objectives.descend, model.forward)
      gradient = jax.jit(jax.grad(lambda p, b, loss=loss: loss(p, None, b)))
      program = gradient.trace(params, batch)
      products[remat] = str(program.jaxpr).count('dot_general')
      grads[remat] = tree_lib.flatten(gradient(params, batch))
    # Attention is computed again, or every product of a layer is.
    assert products['none'] < products['products'] < products['full']
    whole = np.linalg.norm(toy.vector(grads['none']))
    for remat in ('products', 'full'):
      for name, want in grads['none'].items():
        norm = np.linalg.norm(want)
        # Nothing depends on what is added to all keys: rounding alone.
        scale = whole if name.endswith('k_proj/bias') else norm
        assert np.linalg.norm(grads[remat][name] - want) <= 1e-6 * scale, name


@pytest.mark.parametrize('layer, runs', [(-1, 3), (-2, 2), (-4, 0), (2, 2)])
def test_the_projector_reads_the_layer_that_is_named(layer, runs):
  model = _variant(vision_feature_layer=layer, vision={'num_hidden_layers': 3})
  assert model.config.num_vision_layers == runs
  params = _params(model, 12)
  pixels = np.random.default_rng(13).normal(size=(2, 3, 24, 24))
  pixels = pixels.astype(np.float32)
  features = _features(model)
  base = features(params, pixels)
  for changed in range(3):
    tree = jax.tree.map(np.copy, params)
    kernel = tree['vision_tower']['vision_model']['encoder']['layers']['mlp'][
      'fc2'
    ]['kernel']
    kernel[changed] += 0.5
    differs = bool(np.any(features(tree, pixels) != base))
    assert differs == (changed < runs)


@pytest.mark.parametrize('layer', [-5, 4, 40])
def test_a_layer_that_the_tower_has_not_is_refused(layer):
  with pytest.raises(ValueError, match=f'-4 to 3 for 3 layers; got {layer}'):
    _variant(vision_feature_layer=layer, vision={'num_hidden_layers': 3})


@pytest.mark.parametrize('remat', ['none', 'full'])
def test_the_program_does_not_grow_with_depth(remat):
  sizes = []
  for depth in (2, 8):
    model = _variant(
      remat=remat,
      vision={'num_hidden_layers': depth},
      text={'num_hidden_layers': depth},
    )
    lowered = _gradient(model).lower(_shapes(model), toy.batch(16))
    sizes.append(len(lowered.as_text()))
  assert sizes[1] == pytest.approx(sizes[0], rel=0.05)


def test_every_parameter_has_one_component():
  model = toy.llava()
  found = {
    tree_lib.component_of(name, model.components)
    for name in tree_lib.flatten(_shapes(model))
  }
  assert found == {'vision', 'projector', 'language'}
