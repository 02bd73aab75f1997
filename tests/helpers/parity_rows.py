"""Random rows: as transformers is given them, and as our ``Batch``.

Tokens, images and lengths are drawn from a seed; what pads them is random too.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import families
import numpy as np
import torch

IMAGES = (0, 1, 3, 2)  # of the rows of a batch
UNLABELLED = -100  # what transformers leaves out of the loss


class Row(NamedTuple):
  """One row, not padded.

  Attributes:
    tokens: ``[n]`` int.
    labels: ``[n]`` int, the tokens that count in the loss, or ``UNLABELLED``.
    images: pixels ``[3, height, width]``, or patches ``[N, patch]``.
    grids: of every image of any size, its patches in time, column and row; of
      one in tiles, its height and width.
  """

  tokens: np.ndarray
  labels: np.ndarray
  images: list[np.ndarray]
  grids: list[tuple[int, ...]]


def draw(config: Any, seed: int, images: Sequence[int] = IMAGES) -> list[Row]:
  """Draws rows of unequal length, each with so many images."""
  rng = np.random.default_rng(seed)
  return [_row(rng, config, n) for n in images]


def _row(rng, config, num_images: int) -> Row:
  """Text, then each image with text behind it; some of it is labelled."""
  text = lambda low, high: _text(rng, config, int(rng.integers(low, high + 1)))
  tokens, images, grids = [text(2, 5)], [], []
  for _ in range(num_images):
    around, pixels, grid = families.of(config).pictures.draw(rng, config)
    grids += [] if grid is None else [grid]
    images.append(pixels)
    tokens += around
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


def inputs(
  config: Any, made: Sequence[Row], side: str = 'right', length: int | None = 0
) -> dict[str, Any]:
  """What transformers is given: rows padded to one length.

  Args:
    config: of the model.
    made: the rows.
    side: ``'right'`` or ``'left'``, where short rows are padded.
    length: L; None for that of the longest row, 0 for the family's.
  """
  rng = np.random.default_rng(len(made))
  length = families.of(config).length if length == 0 else length
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
    found['pixel_values'] = families.of(config).pictures.join(images)
  grids = [grid for row in made for grid in row.grids]
  if grids:
    found |= families.of(config).pictures.told(grids, ids, config)
  return {name: torch.tensor(x) for name, x in found.items()}


def batch(
  reference: Any,
  made: Sequence[Row],
  side: str = 'right',
  length: int | None = 0,
  room: int | None = None,
) -> dict[str, np.ndarray]:
  """The same rows as a ``typing.Batch``.

  Args:
    reference: the torch model; it gives multimodal rotary positions.
    made: the rows.
    side: where short rows are padded.
    length: L, as for ``inputs``.
    room: I, or N for images of any size; None for what suits the rows.
  """
  config = reference.config
  given = inputs(config, made, side, length)
  tokens, mask, labels = (
    given[k].numpy() for k in ('input_ids', 'attention_mask', 'labels')
  )
  is_image = (tokens == config.image_token_id) & (mask > 0)
  slots = np.where(is_image, is_image.cumsum(axis=1) - 1, -1)
  of_pictures = families.of(config).pictures
  for b, row in enumerate(made if of_pictures.slots else ()):
    slots[b, is_image[b]] = of_pictures.slots(config, row)
  after = lambda x, end: np.concatenate(
    [x[:, 1:], np.full((len(x), 1), end)], axis=1
  )
  found = dict(
    tokens=tokens,
    positions=positions(reference, given),
    documents=mask,
    branches=0 * mask,
    image_slots=slots,
    targets=after(tokens, 0),
  )
  found = {name: x.astype(np.int32) for name, x in found.items()}
  found['weights'] = np.float32(after(labels, UNLABELLED) != UNLABELLED)
  return found | of_pictures.place(config, made, room)


def positions(reference: Any, given: dict[str, Any]) -> np.ndarray:
  """Positions ``[B, L]``, or ``[B, L, 3]``, from 0 where a row begins."""
  mask = given['attention_mask']
  plain = np.maximum(mask.numpy().cumsum(axis=1) - 1, 0)
  of_pictures = families.of(reference.config).pictures
  return of_pictures.positions(reference, given, plain)


def room_of(row: Row) -> int:
  """I or N of a batch of this row alone."""
  return sum(len(x) for x in row.images) if row.grids else len(row.images)
