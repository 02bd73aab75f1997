"""Qwen3-VL: images enter several layers of the decoder, and turns are taken."""

import dataclasses

import families
import hub_folder
import jax
import numpy as np
import pytest

from mmu_jax import models
from mmu_jax import tree as tree_lib
from mmu_jax.models.families import qwen3_vl

pytestmark = pytest.mark.usefixtures('quick_compile')
CASE = families.CASES['qwen3_vl']


def _batch(model, rng):
  """One row: three tokens, the picture, three tokens."""
  family = models.MODELS['qwen3_vl']
  batch = family.abstract_batch(model.config, 1, 10, CASE.room)
  made = {k: np.ones(x.shape, x.dtype) for k, x in batch.items()}
  made['tokens'][:] = rng.integers(0, 48, 10)
  made['branches'][:] = 0
  made['positions'][:] = np.arange(10)[:, None]
  made['image_slots'][:] = [-1, -1, -1, 0, 1, 2, 3, -1, -1, -1]
  made['patch_positions'][0] = np.argwhere(np.ones((4, 4)))
  made['pixel_values'] = rng.normal(size=made['pixel_values'].shape)
  return made | {'pixel_values': np.float32(made['pixel_values'])}


def test_each_merger_is_felt_from_its_layer_on():
  """After layer 0 nothing was added; merger k counts after layer k + 1."""
  model = models.from_options('qwen3_vl', 48, **CASE.options)
  rng = np.random.default_rng(1)
  params, batch = model.init(jax.random.key(0)), _batch(model, rng)
  states = jax.jit(
    lambda p: [model.forward(p, batch, layer=k)[0] for k in range(3)]
  )
  before = states(params)
  for number in (0, 1):
    leaf = f'model/visual/deepstack_merger_list/{number}/linear_fc2/bias'
    moved = tree_lib.map_with_name(
      lambda name, x, leaf=leaf: x + (name == leaf), params
    )
    for k, (old, new) in enumerate(zip(before, states(moved))):
      image, text = np.abs(new - old)[3:7], np.abs(new - old)[:3]
      assert (image.max() > 0.5) == (k > number)
      assert text.max() == 0  # earlier tokens see no picture


def test_the_position_table_is_stretched_over_each_image():
  """Two images of a row, of other sizes, have corners of the table."""
  model = models.from_options('qwen3_vl', 48, **CASE.options)
  small, large = np.argwhere(np.ones((2, 2))), np.argwhere(np.ones((2, 6)))
  images = np.repeat([1, 2], [4, 12])[None]
  places = np.concatenate([small, large])[None]
  from mmu_jax.models import qwen3_vit

  same = images[:, :, None] == images[:, None]
  taps, weights = qwen3_vit.table_taps(places, same, 4)
  table = np.arange(16.0).reshape(4, 4)
  read = (table.ravel()[taps] * weights).sum(-1)[0]
  np.testing.assert_allclose(read[:4], [0, 3, 12, 15], atol=1e-5)
  rows = [[0, 0.6, 1.2, 1.8, 2.4, 3], np.arange(6) * 0.6 + 12]
  np.testing.assert_allclose(read[4:], np.ravel(rows), atol=1e-5)
  assert model.config.vision_config.side == 4


@pytest.mark.parametrize(
  'changes, words',
  [
    (dict(num_position_embeddings=50), 'square of a whole number, got 50'),
    (dict(deepstack_visual_indexes=(8, 30)), r'below 27; got \(8, 30\)'),
    (dict(deepstack_visual_indexes=(16, 8)), 'in rising order'),
    (dict(out_hidden_size=24), "is the decoder's; got 24 and 4096"),
  ],
)
def test_sizes_that_do_not_fit_are_refused(changes, words):
  config = qwen3_vl.Qwen3VLConfig()
  with pytest.raises(ValueError, match=words):
    vision = dataclasses.replace(config.vision_config, **changes)
    dataclasses.replace(config, vision_config=vision)


def test_sections_one_after_the_other_are_refused():
  rope = {'rope_scaling': {'mrope_interleaved': False}}
  raw = hub_folder.config('qwen3_vl', text_config=rope)
  with pytest.raises(ValueError, match='mrope_interleaved must be True'):
    models.MODELS['qwen3_vl'].read_config(raw, {})
