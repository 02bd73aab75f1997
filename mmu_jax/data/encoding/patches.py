"""Images as patches: how many tokens they take, and where each patch stands.

Two forms. LLaVA brings every picture to one size, so all take as many tokens.
Qwen2-VL keeps a picture's size (within limits), cuts it into a *grid* of
patches, merges blocks of them into tokens, and counts positions in three
directions (time, row, column). LLaVA-NeXT has a third form: see ``tiles``.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import math
from typing import Any, NamedTuple

import numpy as np

from mmu_jax.data.encoding.images import Image
from mmu_jax.data.encoding.images import MAX_PIXELS
from mmu_jax.errors import UserError


class Grid(NamedTuple):
  """How many patches an image has in time, in a column and in a row."""

  time: int
  rows: int
  columns: int


class EncodedImage(NamedTuple):
  """An image as a model takes it.

  Attributes:
    pixel_values: float32; ``[3, height, width]`` for images of one size,
      ``[tiles, 3, height, width]`` for images in tiles, ``[patches, patch]``
      for images of any size.
    grid: its patches, or tiles.
    num_tokens: number of tokens of a sequence that stand for it.
    patch_positions: ``[patches, 2]`` int32 row and column of every patch, for
      images of any size; None for others.
    slots: ``[num_tokens]`` int32, the feature of the image that each token
      stands for; ``tiles.NEWLINE`` for the first feature of a row, which is
      of no image. None where tokens and features are the same.
    num_features: number of features of the image; 0 for ``num_tokens``.
  """

  pixel_values: np.ndarray
  grid: tuple[int, ...]
  num_tokens: int
  patch_positions: np.ndarray | None = None
  slots: np.ndarray | None = None
  num_features: int = 0


@dataclasses.dataclass(frozen=True, eq=False)
class LlavaImages:
  """Images of one size, as LLaVA-1.5 and Gemma 3 take them.

  Attributes:
    processor: a ``transformers.CLIPImageProcessorPil``, LLaVA's or Gemma 3's.
    patch_size: height and width of the square that becomes a token, pixels: a
      patch of the vision tower, or some of them.
    class_token: whether the tower's class token is among an image's tokens
      (``vision_feature_select_strategy`` is ``'full'``).
  """

  processor: Any
  patch_size: int
  class_token: bool = False

  @property
  def cut(self) -> dict[str, int]:
    """How images are cut, in the words of the model's ``image_cut``."""
    return {'tokens of an image': self.tokens_per_image}

  @property
  def size(self) -> Mapping[str, int]:
    """Height and width of every image, pixels."""
    return self.processor.crop_size or self.processor.size

  @property
  def tokens_per_image(self) -> int:
    """How many tokens every image takes."""
    return self.num_tokens(self.grid(1, 1))

  def grid(self, height: int, width: int) -> Grid:
    """Returns the patches of an image of this size, pixels.

    Raises:
      ValueError: if it would have too many pixels between being resized and
        being cropped.
    """
    edge = self.processor.size.get('shortest_edge')
    if edge and self.processor.do_resize:
      _check_pixels(edge, edge * max(height, width) // min(height, width))
    size, p = self.size, self.patch_size
    return Grid(1, size['height'] // p, size['width'] // p)

  def num_tokens(self, grid: Grid) -> int:
    """Returns the tokens of an image with this grid."""
    return math.prod(grid) + int(self.class_token)

  def encode(self, image: Image) -> EncodedImage:
    """Encodes an RGB image ``[height, width, 3]`` uint8."""
    grid = self.grid(*image.shape[:2])
    features = process_image(self.processor, image)
    pixel_values = features['pixel_values'][0].astype(np.float32)
    return EncodedImage(pixel_values, grid, self.num_tokens(grid))

  def positions(
    self, is_image: np.ndarray, grids: Sequence[Grid]
  ) -> np.ndarray:
    """Returns the positions ``[n]`` of n tokens: 0, 1, 2, ..."""
    del grids
    return np.arange(len(is_image), dtype=np.int32)

  def room(self, grids: Sequence[Grid]) -> int:
    """Returns I, the places of a batch's row that these images take."""
    return len(grids)

  def pixel_shape(self, room: int) -> tuple[int, ...]:
    """Returns the static shape of a row's images, ``(I, 3, height, width)``."""
    return (room, 3, self.size['height'], self.size['width'])


class Gemma3Images(LlavaImages):
  """The same for Gemma 3, which averages squares of patches."""


@dataclasses.dataclass(frozen=True, eq=False)
class Qwen2VLImages:
  """Images of any size, as Qwen2-VL takes them.

  Attributes:
    processor: a ``transformers.Qwen2VLImageProcessorPil``; its ``size`` has
      the fewest and the most pixels (``shortest_edge``, ``longest_edge``).
  """

  processor: Any

  @property
  def cut(self) -> dict[str, int]:
    """How images are cut, in the words of the model's ``image_cut``."""
    names = ('patch_size', 'temporal_patch_size', 'merge_size')
    return {name: getattr(self.processor, name) for name in names}

  def grid(self, height: int, width: int) -> Grid:
    """Returns the patches of an image of this size, pixels."""
    p = self.processor
    height, width = resized(
      height,
      width,
      factor=p.patch_size * p.merge_size,
      min_pixels=p.size['shortest_edge'],
      max_pixels=p.size['longest_edge'],
    )
    return Grid(1, height // p.patch_size, width // p.patch_size)

  def num_tokens(self, grid: Grid) -> int:
    """Returns the tokens of an image: one for each block of merged patches."""
    return math.prod(grid) // self.processor.merge_size**2

  def encode(self, image: Image) -> EncodedImage:
    """Encodes an RGB image ``[height, width, 3]`` uint8."""
    self.grid(*image.shape[:2])  # raises before anything large is made
    features = process_image(self.processor, image)
    grid = Grid(*(int(n) for n in features['image_grid_thw'][0]))
    return EncodedImage(
      features['pixel_values'].astype(np.float32),
      grid,
      self.num_tokens(grid),
      patch_positions(grid, self.processor.merge_size),
    )

  def positions(
    self, is_image: np.ndarray, grids: Sequence[Grid]
  ) -> np.ndarray:
    """Returns the positions ``[n, 3]`` of n tokens, of ``mrope_positions``."""
    merge = self.processor.merge_size
    merged = [Grid(t, h // merge, w // merge) for t, h, w in grids]
    return mrope_positions(is_image, merged)

  def room(self, grids: Sequence[Grid]) -> int:
    """Returns N, the places of a batch's row that these images take."""
    return sum(math.prod(grid) for grid in grids)

  def pixel_shape(self, room: int) -> tuple[int, ...]:
    """Returns the static shape of a row's images, ``(N, patch)``."""
    p = self.processor
    return (bucket(room), 3 * p.temporal_patch_size * p.patch_size**2)


def patch_positions(grid: Grid, merge_size: int) -> np.ndarray:
  """Returns row and column of every patch, in the image processor's order.

  The patches of a block that is merged into one token follow each other, so
  patches are ordered by block, and by row within a block.

  Args:
    grid: the patches of an image; rows and columns are multiples of
      ``merge_size``.
    merge_size: patches in each direction that make one token.

  Returns:
    ``[patches, 2]`` int32.

  Example:
    >>> patch_positions(Grid(1, 2, 4), 2)[:, 1].tolist()  # columns
    [0, 1, 0, 1, 2, 3, 2, 3]
  """
  time, rows, columns = grid
  m = merge_size
  place = np.moveaxis(np.indices((rows, columns), np.int32), 0, -1)
  blocks = place.reshape(rows // m, m, columns // m, m, 2).swapaxes(1, 2)
  return np.tile(blocks.reshape(-1, 2), (time, 1))


def mrope_positions(is_image: np.ndarray, grids: Sequence[Grid]) -> np.ndarray:
  """Returns time, row and column of every token of a sequence.

  A text token advances all three. The tokens of an image that begins at s
  stand at (s + time, s + row, s + column), and the text after it goes on
  behind the largest of these; so an image of 16 x 16 tokens takes 16
  positions instead of 256.

  Args:
    is_image: ``[n]`` bool, which tokens are an image's.
    grids: grid of every image, in *tokens* (merged patches).

  Returns:
    ``[n, 3]`` int32.

  Raises:
    ValueError: if the images have more or fewer tokens than are marked.

  Example:
    >>> seen = np.array([False, True, True, False])
    >>> mrope_positions(seen, [Grid(1, 1, 2)]).tolist()
    [[0, 0, 0], [1, 1, 1], [1, 1, 2], [3, 3, 3]]

  References:
    Wang et al., `Qwen2-VL <https://arxiv.org/abs/2409.12191>`_, 2024.
  """
  if is_image.sum() != sum(math.prod(grid) for grid in grids):
    raise UserError(
      f'a sequence marks {is_image.sum()} image tokens and its images have '
      f'{sum(math.prod(grid) for grid in grids)}; the grids are {grids}.'
    )
  places = np.flatnonzero(is_image)
  pieces, token, position = [], 0, 0
  for grid in grids:
    begin = int(places[places >= token][0])
    pieces.append(_text_positions(position, begin - token))
    position += begin - token
    block = np.indices(grid).reshape(3, -1).T + position
    pieces.append(block)
    token = begin + len(block)
    position = int(block.max()) + 1
  pieces.append(_text_positions(position, len(is_image) - token))
  return np.concatenate(pieces).astype(np.int32)


def resized(
  height: int, width: int, *, factor: int, min_pixels: int, max_pixels: int
) -> tuple[int, int]:
  """Returns the size that Qwen2-VL's image processor gives an image.

  Known without touching a pixel, so that lengths can be planned before any
  image is encoded.

  Args:
    height: height of the image, pixels.
    width: width of the image, pixels.
    factor: divisor of both new sides: patch size times merge size.
    min_pixels: least area.
    max_pixels: largest area; the aspect ratio stays about the same.

  Raises:
    ValueError: if one side is more than 200 times the other, or the new size
      has too many pixels.

  Example:
    >>> resized(100, 150, factor=28, min_pixels=3136, max_pixels=1003520)
    (112, 140)
    >>> resized(2000, 3000, factor=28, min_pixels=3136, max_pixels=1003520)
    (812, 1204)
  """
  if max(height, width) > 200 * min(height, width):
    raise UserError(
      'one side of an image is at most 200 times the other, got '
      f'{height} x {width} pixels. Crop the image.'
    )
  rows, columns = round(height / factor), round(width / factor)
  area, unit = height * width, factor**2
  if rows * columns * unit > max_pixels:
    beta = math.sqrt(area / max_pixels)
    rows = max(1, math.floor(height / beta / factor))
    columns = max(1, math.floor(width / beta / factor))
  elif rows * columns * unit < min_pixels:
    beta = math.sqrt(min_pixels / area)
    rows = math.ceil(height * beta / factor)
    columns = math.ceil(width * beta / factor)
  _check_pixels(rows * factor, columns * factor)
  return rows * factor, columns * factor


def bucket(length: int) -> int:
  """Returns the static length that holds so many tokens, or patches.

  Few lengths are in use, so that few programs are compiled: multiples of 16
  up to 128, of 64 up to 1024, of 256 beyond.

  Example:
    >>> [bucket(n) for n in (9, 16, 100, 130, 1100)]
    [16, 16, 112, 192, 1280]
  """
  step = 16 if length <= 128 else 64 if length <= 1024 else 256
  return -(-length // step) * step


def process_image(processor: Any, image: Image, **options: Any) -> Any:
  """Returns the output of an image processor for one image.

  Args:
    processor: an image processor of transformers.
    image: RGB image ``[height, width, 3]`` uint8.
    **options: options of the processor.
  """
  # Named, because a picture three pixels high has its channels guessed wrong.
  return processor(
    images=[np.asarray(image)],
    input_data_format='channels_last',
    return_tensors='np',
    **options,
  )


def _check_pixels(short: int, long: int) -> None:
  """Raises if an image would have too many pixels once it is resized."""
  if short * long > MAX_PIXELS:
    raise UserError(
      f'an image that is resized has at most {MAX_PIXELS} pixels, and this '
      f'would have {short} x {long}: it is too narrow, or the sizes of the '
      'image processor are too large. Crop the image.'
    )


def _text_positions(start, n):
  """The positions of n text tokens: all three alike."""
  return np.repeat(np.arange(start, start + n)[:, None], 3, axis=1)
