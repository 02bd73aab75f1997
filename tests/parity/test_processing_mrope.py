"""Positions of Qwen2-VL against those of transformers, in PyTorch."""

import inspect

import numpy as np
import pytest

from mmu_jax.data.encoding import patches
from mmu_jax.data.encoding.patches import Grid

torch = pytest.importorskip('torch', reason='PyTorch is not installed')

IMAGE, VIDEO, START, END = 101, 102, 103, 104


@pytest.fixture(scope='module')
def model():
  """Without weights that matter: the positions come from ids and grids."""
  import transformers

  tiny = dict(
    hidden_size=16,
    intermediate_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
    vocab_size=128,
    rope_scaling={'type': 'mrope', 'mrope_section': [1, 1, 2]},
  )
  config = transformers.Qwen2VLConfig(
    text_config=tiny,
    vision_config=dict(
      depth=1, embed_dim=16, hidden_size=16, num_heads=2, patch_size=4
    ),
    image_token_id=IMAGE,
    video_token_id=VIDEO,
    vision_start_token_id=START,
    vision_end_token_id=END,
  )
  return transformers.Qwen2VLModel(config)


def _sequence(rng, number):
  """Random text with images, and their grids in patches."""
  ids, grids = [], []
  for _ in range(number):
    grid = Grid(1, *(2 * int(n) for n in rng.integers(1, 6, 2)))
    grids.append(grid)
    ids += rng.integers(0, 100, rng.integers(0, 9)).tolist()
    ids += [START, *[IMAGE] * (np.prod(grid) // 4), END]
  ids += rng.integers(0, 100, rng.integers(1, 9)).tolist()
  return np.array(ids), grids


def _published(model, ids, grids):
  """Position ids ``[n, 3]`` of ``get_rope_index``."""
  options = {}
  if 'mm_token_type_ids' in inspect.signature(model.get_rope_index).parameters:
    options['mm_token_type_ids'] = torch.tensor(ids == IMAGE)[None].int()
  positions, _ = model.get_rope_index(
    torch.tensor(ids)[None],
    image_grid_thw=torch.tensor(grids) if grids else None,
    attention_mask=torch.ones(1, len(ids), dtype=torch.long),
    **options,
  )
  return positions[:, 0].T.numpy()


@pytest.mark.parametrize('number', [0, 1, 2, 5])
def test_positions_are_those_of_the_published_model(number, model):
  rng = np.random.default_rng(number)
  images = 0
  for _ in range(25):
    ids, grids = _sequence(rng, number)
    merged = [Grid(t, h // 2, w // 2) for t, h, w in grids]
    found = patches.mrope_positions(ids == IMAGE, merged)
    np.testing.assert_array_equal(found, _published(model, ids, grids))
    images += len(grids)
  assert images == 25 * number


def test_patch_positions_are_those_of_the_published_vision_tower():
  vision = pytest.importorskip(
    'transformers.vision_utils',
    reason='before transformers 5.23 they are inside the model',
  )
  grids = [Grid(1, 4, 6), Grid(1, 8, 2), Grid(1, 2, 2)]
  want = vision.get_vision_position_ids(torch.tensor(grids), 2)
  ours = [patches.patch_positions(grid, 2) for grid in grids]
  np.testing.assert_array_equal(np.concatenate(ours), want)
