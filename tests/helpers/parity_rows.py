"""Random rows: as transformers is given them, and as our ``Batch``.

Tokens, images and lengths are drawn from a seed; what pads them is random too.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

IMAGES = (0, 1, 3, 2)  # of the rows of a batch
LENGTH = 72  # L of a batch
PATCHES = 144  # N of a batch of images of any size; whole blocks of 4 or 9
UNLABELLED = -100  # what transformers leaves out of the loss


class Row(NamedTuple):
  """One row, not padded.

  Attributes:
    tokens: ``[n]`` int.
    labels: ``[n]`` int, the tokens that count in the loss, or ``UNLABELLED``.
    images: pixels ``[3, height, width]``, or patches ``[N, patch]``.
    grids: of every image of any size, its patches in time, column and row.
  """

  tokens: np.ndarray
  labels: np.ndarray
  images: list[np.ndarray]
  grids: list[tuple[int, int, int]]


def draw(config: Any, seed: int, images: Sequence[int] = IMAGES) -> list[Row]:
  """Draws rows of unequal length, each with so many images."""
  rng = np.random.default_rng(seed)
  return [_row(rng, config, n) for n in images]


def _row(rng, config, num_images: int) -> Row:
  """Text, then each image with text behind it; some of it is labelled."""
  text = lambda low, high: _text(rng, config, int(rng.integers(low, high + 1)))
  tokens, images, grids = [text(2, 5)], [], []
  for _ in range(num_images):
    if config.model_type == 'llava':
      pixels, count = _picture(rng, config)
      between = [], []
    else:
      grid, pixels, count = _patches(rng, config)
      grids.append(grid)
      between = [config.vision_start_token_id], [config.vision_end_token_id]
    images.append(pixels)
    tokens += [between[0], [config.image_token_id] * count, between[1]]
    tokens.append(text(1, 3))
  tokens.append(text(6, 12))
  tokens = np.concatenate(tokens).astype(np.int64)
  counts = (rng.random(len(tokens)) < 0.5) & (tokens != config.image_token_id)
  counts[0], counts[-1] = False, True
  labels = np.where(counts, tokens, UNLABELLED)
  return Row(tokens, labels, images, grids)


def _text(rng, config, shape) -> np.ndarray:
  """Tokens that stand for no image."""
  return rng.integers(1, config.text_config.vocab_size - 4, shape)


def _picture(rng, config):
  """Pixels of an image of the one size, and how many tokens it takes."""
  vision = config.vision_config
  size, side = vision.image_size, vision.image_size // vision.patch_size
  with_class = config.vision_feature_select_strategy == 'full'
  pixels = rng.standard_normal((3, size, size)).astype(np.float32)
  return pixels, side**2 + with_class


def _patches(rng, config):
  """Grid and patches of an image of any size, and its number of tokens."""
  vision, merge = config.vision_config, config.vision_config.spatial_merge_size
  blocks = [int(n) for n in rng.integers(1, 4 if merge == 2 else 3, 2)]
  grid = (1, merge * blocks[0], merge * blocks[1])
  patch = 3 * vision.temporal_patch_size * vision.patch_size**2
  pixels = rng.standard_normal((grid[1] * grid[2], patch))
  return grid, pixels.astype(np.float32), blocks[0] * blocks[1]


def inputs(
  config: Any,
  made: Sequence[Row],
  side: str = 'right',
  length: int | None = LENGTH,
) -> dict[str, Any]:
  """What transformers is given: rows padded to one length.

  Args:
    config: of the model.
    made: the rows.
    side: ``'right'`` or ``'left'``, where short rows are padded.
    length: L; None for that of the longest row.
  """
  rng = np.random.default_rng(len(made))
  length = length or max(len(row.tokens) for row in made)
  shape = (len(made), length)
  ids, mask = _text(rng, config, shape), np.zeros(shape, np.int64)
  labels = np.full(shape, UNLABELLED)
  for b, row in enumerate(made):
    n = len(row.tokens)
    place = slice(0, n) if side == 'right' else slice(length - n, length)
    ids[b, place], labels[b, place], mask[b, place] = row.tokens, row.labels, 1
  found = dict(input_ids=ids, attention_mask=mask, labels=labels)
  images = [image for row in made for image in row.images]
  if images:
    join = np.stack if config.model_type == 'llava' else np.concatenate
    found['pixel_values'] = join(images)
  grids = [grid for row in made for grid in row.grids]
  if grids:
    found['image_grid_thw'] = np.array(grids)
    found['mm_token_type_ids'] = (ids == config.image_token_id) * 1
  return {name: torch.tensor(x) for name, x in found.items()}


def batch(
  reference: Any,
  made: Sequence[Row],
  side: str = 'right',
  length: int | None = LENGTH,
  room: int | None = None,
) -> dict[str, np.ndarray]:
  """The same rows as a ``typing.Batch``.

  Args:
    reference: the torch model; it gives multimodal rotary positions.
    made: the rows.
    side: where short rows are padded.
    length: L; None for that of the longest row.
    room: I, or N for images of any size; None for what suits the rows.
  """
  config = reference.config
  given = inputs(config, made, side, length)
  tokens, mask, labels = (
    given[k].numpy() for k in ('input_ids', 'attention_mask', 'labels')
  )
  is_image = (tokens == config.image_token_id) & (mask > 0)
  after = lambda x, end: np.concatenate(
    [x[:, 1:], np.full((len(x), 1), end)], axis=1
  )
  found = dict(
    tokens=tokens,
    positions=positions(reference, given),
    documents=mask,
    branches=0 * mask,
    image_slots=np.where(is_image, is_image.cumsum(axis=1) - 1, -1),
    targets=after(tokens, 0),
  )
  found = {name: x.astype(np.int32) for name, x in found.items()}
  found['weights'] = np.float32(after(labels, UNLABELLED) != UNLABELLED)
  place = _same_size if config.model_type == 'llava' else _any_size
  return found | place(config, made, room)


def positions(reference: Any, given: dict[str, Any]) -> np.ndarray:
  """Positions ``[B, L]``, or ``[B, L, 3]``, from 0 where a row begins."""
  mask = given['attention_mask']
  plain = np.maximum(mask.numpy().cumsum(axis=1) - 1, 0)
  if reference.config.model_type == 'llava':
    return plain
  if 'image_grid_thw' not in given:  # transformers has none for text alone
    return np.repeat(plain[..., None], 3, axis=-1)
  found, _ = reference.model.get_rope_index(
    input_ids=given['input_ids'],
    mm_token_type_ids=given['mm_token_type_ids'],
    image_grid_thw=given['image_grid_thw'],
    attention_mask=mask,
  )
  return np.moveaxis(found.numpy(), 0, -1)


def _same_size(config, made, room):
  """Images of one size; places without an image hold noise."""
  room = max(len(row.images) for row in made) if room is None else room
  size, rng = config.vision_config.image_size, np.random.default_rng(room)
  pixels = rng.standard_normal((len(made), room, 3, size, size))
  for b, row in enumerate(made):
    for i, image in enumerate(row.images):
      pixels[b, i] = image
  return dict(pixel_values=pixels.astype(np.float32))


def _any_size(config, made, room):
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


def room_of(row: Row) -> int:
  """I or N of a batch of this row alone."""
  return sum(len(x) for x in row.images) if row.grids else len(row.images)
