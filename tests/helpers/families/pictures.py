"""Random pictures of rows, as transformers is given them and as our batch."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import transformers

from mmu_jax.data.encoding import tiles

PATCHES = 192  # N of a batch of images of any size; whole blocks of 4 or 16


class Pictures(NamedTuple):
  """How the rows of a family hold pictures.

  Attributes:
    draw: ``draw(rng, config) -> (tokens, pixels, grid)``: the image's tokens,
      with those around it; its pixels; its patches, its size in pixels where
      it is in tiles, or None.
    told: ``told(grids, ids, config)``: further inputs of transformers.
    join: puts the pixels of all images together, for transformers.
    place: ``place(config, rows, room)``: the fields of our batch.
    positions: ``positions(reference, given, plain)``: of the tokens.
    split: ``split(features, config, batch, rows)``: the tokens of each image.
    slots: ``slots(config, row)``: the feature behind each of its image tokens;
      None where they are counted through.
  """

  draw: Callable[..., Any]
  told: Callable[..., dict[str, np.ndarray]]
  join: Callable[[Sequence[np.ndarray]], np.ndarray]
  place: Callable[..., dict[str, np.ndarray]]
  positions: Callable[..., np.ndarray]
  split: Callable[..., list[np.ndarray]]
  slots: Callable[..., np.ndarray] | None = None


def _draw_same_size(rng, config):
  """Pixels of an image of the one size."""
  vision = config.vision_config
  size, side = vision.image_size, vision.image_size // vision.patch_size
  with_class = config.vision_feature_select_strategy == 'full'
  pixels = rng.standard_normal((3, size, size)).astype(np.float32)
  tokens = [[], [config.image_token_id] * (side**2 + with_class), []]
  return tokens, pixels, None


def _draw_averaged(rng, config):
  """Pixels of an image whose patches are averaged to fewer tokens."""
  size = config.vision_config.image_size
  pixels = rng.standard_normal((1, 3, size, size)).astype(np.float32)
  tokens = [
    [config.boi_token_index],
    [config.image_token_id] * config.mm_tokens_per_image,
    [config.eoi_token_index],
  ]
  return tokens, pixels, (1, 1, 1)


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


def _draw_tiles(rng, config):
  """Pixels of the tiles of an image, and its size."""
  height, width = (int(n) for n in rng.integers(3, 90, 2))
  kind = transformers.LlavaNextProcessor
  asked = kind.__new__(kind)  # without a tokenizer; it counts tokens
  asked.image_processor = config  # it has the pinpoints, too
  asked.patch_size = config.vision_config.patch_size
  asked.num_additional_image_tokens = 0
  edge = config.vision_config.image_size
  count = asked._get_number_of_features(height, width, edge, edge)
  shape = (_tiling(config, (height, width)).num_tiles, 3, edge, edge)
  pixels = rng.standard_normal(shape).astype(np.float32)
  return [[], [config.image_token_id] * count, []], pixels, (height, width)


def _tiling(config, size):
  """The tiles of an image, by our own code."""
  vision = config.vision_config
  return tiles.tile(
    *size,
    sizes=config.image_grid_pinpoints,
    edge=vision.image_size,
    side=vision.image_size // vision.patch_size,
  )


def _slots_of_tiles(config, row):
  """The end of a row is 0; behind it the tiles of all images are counted."""
  found, first = [], 1
  for size in row.grids:
    tiling = _tiling(config, size)
    slots = tiling.slots()
    found += np.where(slots < 0, 0, first + slots).tolist()
    first += tiling.num_tiles * tiling.side**2
  return np.array(found, np.int32)


def _tell_nothing(grids, ids, config):
  """Images of one size need no more than their pixels."""
  del grids, ids, config
  return {}


def _tell_grids(grids, ids, config):
  """Patches in time, column and row, and which tokens are an image's."""
  return dict(
    image_grid_thw=np.array(grids),
    mm_token_type_ids=(ids == config.image_token_id) * 1,
  )


def _tell_types(grids, ids, config):
  """Which tokens are an image's; without it, they see backwards alone."""
  del grids
  return dict(token_type_ids=(ids == config.image_token_id) * 1)


def _tell_sizes(grids, ids, config):
  """Heights and widths."""
  del ids, config
  return dict(image_sizes=np.array(grids))


def _join_tiles(images):
  """As many tiles for each, which transformers cuts off again."""
  most = max(map(len, images))
  pad = lambda x: np.pad(x, [(0, most - len(x)), (0, 0), (0, 0), (0, 0)])
  return np.stack([pad(image) for image in images])


def _place_tiles(config, made, room):
  """Tiles of all images, one after the other; behind them stands noise."""
  if room is None:
    room = max(sum(map(len, row.images)) for row in made)
  edge, rng = config.vision_config.image_size, np.random.default_rng(room)
  pixels = rng.standard_normal((len(made), room, 3, edge, edge))
  for b, row in enumerate(made):
    if row.images:
      joined = np.concatenate(row.images)
      pixels[b, : len(joined)] = joined
  return dict(pixel_values=pixels.astype(np.float32))


def _place_same_size(config, made, room):
  """Images of one size; places without an image hold noise."""
  room = max(len(row.images) for row in made) if room is None else room
  size, rng = config.vision_config.image_size, np.random.default_rng(room)
  pixels = rng.standard_normal((len(made), room, 3, size, size))
  for b, row in enumerate(made):
    for i, image in enumerate(row.images):
      pixels[b, i] = image  # with or without an axis of its own
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


def _split_tiles(features, config, batch, made):
  """From ``[B, 1 + I * N, D]``, where several tokens may have one feature."""
  del batch
  found = []
  for x, row in zip(features, made):
    counts = [_tiling(config, size).num_tokens for size in row.grids]
    tokens = x[_slots_of_tiles(config, row)]
    found += np.split(tokens, np.cumsum(counts))[:-1]
  return found


SAME_SIZE = Pictures(
  _draw_same_size,
  _tell_nothing,
  np.stack,
  _place_same_size,
  _plain_positions,
  _split_same_size,
)
AVERAGED = Pictures(
  _draw_averaged,
  _tell_types,
  np.concatenate,
  _place_same_size,
  _plain_positions,
  _split_same_size,
)
ANY_SIZE = Pictures(
  _draw_any_size,
  _tell_grids,
  np.concatenate,
  _place_any_size,
  _mrope_positions,
  _split_any_size,
)
TILES = Pictures(
  _draw_tiles,
  _tell_sizes,
  _join_tiles,
  _place_tiles,
  _plain_positions,
  _split_tiles,
  _slots_of_tiles,
)
