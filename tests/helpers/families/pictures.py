"""Random pictures of rows, as transformers is given them and as our batch."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

PATCHES = 192  # N of a batch of images of any size; whole blocks of 4 or 16


class Pictures(NamedTuple):
  """How the rows of a family hold pictures.

  Attributes:
    draw: ``draw(rng, config) -> (tokens, pixels, grid)``: the image's tokens,
      with those around it; its pixels; its patches or None.
    join: puts the pixels of all images together, for transformers.
    place: ``place(config, rows, room)``: the fields of our batch.
    positions: ``positions(reference, given, plain)``: of the tokens.
    split: ``split(features, config, batch, rows)``: the tokens of each image.
  """

  draw: Callable[..., Any]
  join: Callable[[Sequence[np.ndarray]], np.ndarray]
  place: Callable[..., dict[str, np.ndarray]]
  positions: Callable[..., np.ndarray]
  split: Callable[..., list[np.ndarray]]


def _draw_same_size(rng, config):
  """Pixels of an image of the one size."""
  vision = config.vision_config
  size, side = vision.image_size, vision.image_size // vision.patch_size
  with_class = config.vision_feature_select_strategy == 'full'
  pixels = rng.standard_normal((3, size, size)).astype(np.float32)
  tokens = [[], [config.image_token_id] * (side**2 + with_class), []]
  return tokens, pixels, None


def _draw_any_size(rng, config):
  """Grid and patches of an image of any size."""
  vision, merge = config.vision_config, config.vision_config.spatial_merge_size
  blocks = [int(n) for n in rng.integers(1, 4 if merge == 2 else 3, 2)]
  grid = (1, merge * blocks[0], merge * blocks[1])
  patch = 3 * vision.temporal_patch_size * vision.patch_size**2
  pixels = rng.standard_normal((grid[1] * grid[2], patch))
  tokens = [
    [config.vision_start_token_id],
    [config.image_token_id] * (blocks[0] * blocks[1]),
    [config.vision_end_token_id],
  ]
  return tokens, pixels.astype(np.float32), grid


def _place_same_size(config, made, room):
  """Images of one size; places without an image hold noise."""
  room = max(len(row.images) for row in made) if room is None else room
  size, rng = config.vision_config.image_size, np.random.default_rng(room)
  pixels = rng.standard_normal((len(made), room, 3, size, size))
  for b, row in enumerate(made):
    for i, image in enumerate(row.images):
      pixels[b, i] = image
  return dict(pixel_values=pixels.astype(np.float32))


def _place_any_size(config, made, room):
  """Images of any size, one after the other; behind them stands noise."""
  if room is None:
    room = PATCHES if any(row.images for row in made) else 0
  vision, rng = config.vision_config, np.random.default_rng(room)
  patch = 3 * vision.temporal_patch_size * vision.patch_size**2
  shape = (len(made), room)
  pixels = rng.standard_normal((*shape, patch)).astype(np.float32)
  images = np.zeros(shape, np.int32)
  place = rng.integers(0, 9, (*shape, 2)).astype(np.int32)
  for b, row in enumerate(made):
    end = 0
    for i, (image, grid) in enumerate(zip(row.images, row.grids)):
      here = slice(end, end + len(image))
      pixels[b, here], images[b, here] = image, i + 1
      place[b, here] = _patch_positions(grid, vision.spatial_merge_size)
      end += len(image)
  return dict(pixel_values=pixels, patch_images=images, patch_positions=place)


def _patch_positions(grid, merge: int) -> list[tuple[int, int]]:
  """Row and column of every patch: block by block, and within a block."""
  _, height, width = grid
  return [
    (row + i, column + j)
    for row in range(0, height, merge)
    for column in range(0, width, merge)
    for i in range(merge)
    for j in range(merge)
  ]


def _plain_positions(reference, given, plain):
  """One number a token."""
  del reference, given
  return plain


def _mrope_positions(reference, given, plain):
  """Three numbers a token."""
  if 'image_grid_thw' not in given:  # transformers has none for text alone
    return np.repeat(plain[..., None], 3, axis=-1)
  found, _ = reference.model.get_rope_index(
    input_ids=given['input_ids'],
    mm_token_type_ids=given['mm_token_type_ids'],
    image_grid_thw=given['image_grid_thw'],
    attention_mask=given['attention_mask'],
  )
  return np.moveaxis(found.numpy(), 0, -1)


def _split_same_size(features, config, batch, made):
  """From ``[B, I * N, D]``."""
  del config
  split = [np.split(x, batch['pixel_values'].shape[1]) for x in features]
  return [x[i] for x, row in zip(split, made) for i in range(len(row.images))]


def _split_any_size(features, config, batch, made):
  """From ``[B, N / merge^2, D]``."""
  del batch
  block = config.vision_config.spatial_merge_size**2
  ends = [np.cumsum([len(p) // block for p in row.images]) for row in made]
  return [x for f, end in zip(features, ends) for x in np.split(f, end)[:-1]]


SAME_SIZE = Pictures(
  _draw_same_size,
  np.stack,
  _place_same_size,
  _plain_positions,
  _split_same_size,
)
ANY_SIZE = Pictures(
  _draw_any_size,
  np.concatenate,
  _place_any_size,
  _mrope_positions,
  _split_any_size,
)
