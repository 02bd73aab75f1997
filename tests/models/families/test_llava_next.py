"""LLaVA-NeXT: which features its tokens see, and which folders it reads."""

import functools
import json

import families
import folders
import hub_folder
import jax
import numpy as np
import pytest
import transformers

from mmu_jax import models
from mmu_jax import tree as tree_lib
from mmu_jax.data.batches.encoder import Encoder
from mmu_jax.data.encoding import tiles as tiles_lib
from mmu_jax.data.row import Picture
from mmu_jax.data.row import Row
from mmu_jax.models.families import llava_next
from mmu_jax.models.hub import config as hub_config
from mmu_jax.models.hub import loading

pytestmark = pytest.mark.usefixtures('quick_compile')
VOCAB, FAMILY = 200, llava_next.FAMILY
CASE = families.CASES['llava_next']


def _model(**changes):
  return models.from_options('llava_next', VOCAB, **CASE.options, **changes)


def _params(model, seed):
  """Random parameters, none zero; they are not compiled."""
  rng = np.random.default_rng(seed)
  return tree_lib.map_with_name(
    lambda name, x: rng.normal(
      float(name.endswith('scale')), 0.25, x.shape
    ).astype(np.float32),
    model.abstract_params,
  )


@functools.cache
def _features(model):
  return jax.jit(
    lambda params, pixels: model.image_features(
      params, {'pixel_values': pixels}
    )
  )


def test_the_end_of_a_row_comes_first_and_then_the_tiles():
  """Each tile is seen as a picture of LLaVA-1.5 is."""
  model = _model()
  options = {k: v for k, v in CASE.options.items() if 'grid' not in k}
  plain = models.from_options('llava', VOCAB, **options)
  params, rng = _params(model, 0), np.random.default_rng(1)
  pixels = rng.normal(size=(2, 5, 3, 24, 24)).astype(np.float32)
  found = np.asarray(_features(model)(params, pixels))
  assert found.shape == (2, 1 + 5 * 4, 32)
  for row in found:
    np.testing.assert_array_equal(row[0], params['image_newline'])
  bare = {k: x for k, x in params.items() if k != 'image_newline'}
  want = np.asarray(_features(plain)(bare, pixels))
  np.testing.assert_allclose(found[:, 1:], want, rtol=1e-5, atol=1e-5)


def test_a_picture_goes_from_its_file_to_the_embeddings(tmp_path):
  """Every token of a packed row has the feature worked out by hand."""
  processor = folders.load(tmp_path, 'llava_next')
  vision = CASE.options['vision_config'] | dict(image_size=30, patch_size=10)
  tiles = [[30, 60], [60, 30], [60, 60], [90, 30]]
  options = CASE.options | dict(
    vision_config=vision, image_grid_pinpoints=tiles
  )
  model = models.from_options('llava_next', VOCAB, **options)
  loading.check_processor(model, processor)
  params = _params(model, 2)
  encoder = Encoder(processor)
  pictures = [
    Picture(f'p{i}', folders.picture(i, *size))
    for i, size in enumerate([(40, 20), (20, 90)])
  ]
  rows = [
    Row(f'{p.key}/{i}', f'Who is {i}?', 'A chef.', '', p)
    for p in pictures
    for i in range(2)
  ]
  examples = [encoder.example(row) for row in rows]
  made = [encoder.document(examples[i : i + 2]) for i in (0, 2)]
  room = encoder.room([p for _, shown in made for p in shown])
  batch = encoder.batch([made], 200, encoder.pixel_shape(room + 2))
  forward = jax.jit(functools.partial(model.forward, layer=0))
  hidden = np.asarray(forward(params, batch))[0]
  patches = _features(model)(params, batch['pixel_values'])[0, 1:]
  want, tile = [], 0
  for picture in pictures:
    image = encoder.image(picture)
    own = patches[9 * tile :]
    for slot in image.slots:
      want.append(params['image_newline'] if slot < 0 else own[slot])
    tile += len(image.pixel_values)
  is_image = batch['tokens'][0] == processor.image_token_id
  np.testing.assert_allclose(hidden[is_image], want, rtol=1e-5, atol=1e-5)
  table = params['language_model']['model']['embed_tokens']['embedding']
  text = table[batch['tokens'][0][~is_image]]
  np.testing.assert_allclose(hidden[~is_image], text, rtol=1e-6, atol=1e-6)
  assert (np.array([x[0] for x in want]) == params['image_newline'][0]).any()


def test_a_processor_with_other_tiles_is_refused(tmp_path):
  vision = CASE.options['vision_config'] | dict(image_size=30, patch_size=10)
  more = [[30, 60], [60, 30], [60, 60], [30, 90]]
  options = CASE.options | dict(vision_config=vision, image_grid_pinpoints=more)
  model = models.from_options('llava_next', VOCAB, **options)
  with pytest.raises(ValueError, match=r'\(90, 30\).* the model .*\(30, 90\)'):
    loading.check_processor(model, folders.load(tmp_path, 'llava_next'))


@pytest.mark.parametrize(
  'changes, words',
  [
    ({'image_grid_pinpoints': ((24, 36),)}, r'24 pixels; got \(\(24, 36\),\)'),
    ({'image_grid_pinpoints': ()}, 'whole tiles'),
    ({'vision_feature_select_strategy': 'full'}, 'a class token has no place'),
  ],
)
def test_sizes_that_do_not_fit_are_refused(changes, words):
  with pytest.raises(ValueError, match=words):
    models.from_options('llava_next', VOCAB, **(CASE.options | changes))


@pytest.mark.parametrize('room', [3, 4, 5])
def test_no_picture_has_more_tokens_than_a_plan_takes(room):
  config = llava_next.LlavaNextConfig()
  most = FAMILY.image_tokens(config, room)
  rng, seen = np.random.default_rng(room), []
  for height, width in rng.integers(20, 1500, (600, 2)).tolist() + [[672, 672]]:
    found = tiles_lib.tile(
      height, width, sizes=config.image_grid_pinpoints, edge=336, side=24
    )
    if found.num_tiles == room:
      seen.append(found.num_tokens)
  assert 0.95 * most < max(seen) <= most
  assert FAMILY.image_tokens(config, 0) == 0
  assert FAMILY.widths(config)['picture'] == 5
  assert FAMILY.image_tokens(config, 5) == 2928


def _read(tmp_path, **changes):
  raw = hub_folder.config('llava_next', **changes)
  (tmp_path / 'config.json').write_text(json.dumps(raw))
  return hub_config.read_config(tmp_path)


def test_absent_fields_have_the_defaults_of_transformers(tmp_path):
  """Of Mistral they are others than of Llama."""
  for kind, more in (('llama', {}), ('mistral', {'sliding_window': None})):
    raw = {
      'model_type': 'llava_next',
      'text_config': {'model_type': kind, **more},
      'vision_config': {'image_size': 336, 'patch_size': 14},
    }
    (tmp_path / 'config.json').write_text(json.dumps(raw))
    ours = hub_config.read_config(tmp_path)
    theirs = transformers.AutoConfig.from_pretrained(tmp_path)
    names = (
      'vocab_size hidden_size intermediate_size num_hidden_layers '
      'num_attention_heads num_key_value_heads rms_norm_eps'
    ).split()
    assert {n: getattr(ours.text_config, n) for n in names} == {
      n: getattr(theirs.text_config, n) for n in names
    }
    rope = theirs.text_config.rope_parameters['rope_theta']
    assert ours.text_config.rope_theta == rope
    points = tuple(map(tuple, theirs.image_grid_pinpoints))
    assert ours.image_grid_pinpoints == points == llava_next.PINPOINTS
    layer = theirs.vision_feature_layer
    assert (ours.vision_feature_layer, ours.dtype) == (layer, 'float32')


@pytest.mark.parametrize(
  'changes, words',
  [
    ({'text_config': {'model_type': 'granite'}}, "'mistral' .*; got 'granite'"),
    ({'text_config': {'model_type': [None]}}, r"'mistral' .*; got \[None\]"),
    ({'text_config': {'model_type': 'mistral'}}, 'got 4096, or nothing'),
    ({'text_config': {'sliding_window': 64}}, 'null.*; got 64'),
    ({'vision_feature_layer': [-2, 5]}, 'vision_feature_layer is a whole'),
    ({'vision_feature_select_strategy': 'full'}, 'a class token has no place'),
    ({'image_grid_pinpoints': [[24, 50]]}, 'whole tiles of .*, 24 pixels'),
    ({'image_grid_pinpoints': [24, 48]}, 'is a list of .height, width., pixel'),
    ({'image_grid_pinpoints': 'anyres'}, "pixels .*; got 'anyres'"),
    ({'multimodal_projector_bias': False}, 'must be True, got False'),
  ],
)
def test_a_config_that_we_have_not_is_refused(changes, words, tmp_path):
  with pytest.raises(ValueError, match=f'config.json: .*{words}'):
    _read(tmp_path, **changes)
