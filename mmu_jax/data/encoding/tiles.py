"""A picture as tiles of one size: which patches of them a model reads.

LLaVA-NeXT shows its tower a picture several times: the whole one, squeezed to
a square, and behind it the picture at the best of some sizes, cut into squares
of that size. It is scaled to fit, so some patches at its edges are padding and
are left out; behind every row of patches comes one token for its end. All of
this is known from height and width alone.
"""

from collections.abc import Iterable, Sequence
import dataclasses
import math
from typing import Any, NamedTuple

import numpy as np

from mmu_jax.data.encoding.images import Image
from mmu_jax.data.encoding.patches import EncodedImage
from mmu_jax.data.encoding.patches import process_image

NEWLINE = -1  # place of the feature that ends a row of patches
Size = tuple[int, int]  # height and width, pixels


class Tiling(NamedTuple):
  """How a picture is cut.

  Attributes:
    side: patches of a tile, in each direction.
    rows: tiles in each column; 0 for the whole picture alone.
    columns: tiles in each row.
    top: rows of patches that are padding, above the picture and below it.
    left: columns of patches that are padding, on each side.
  """

  side: int
  rows: int
  columns: int
  top: int = 0
  left: int = 0

  @property
  def num_tiles(self) -> int:
    """How many tiles there are, with the whole picture in front."""
    return 1 + self.rows * self.columns

  @property
  def num_tokens(self) -> int:
    """How many tokens of a sequence stand for the picture."""
    if not self.rows:
      return self.side**2 + 1
    kept_rows = self.rows * self.side - 2 * self.top
    kept_columns = self.columns * self.side - 2 * self.left
    return self.side**2 + kept_rows * (kept_columns + 1)

  def slots(self) -> np.ndarray:
    """Returns the feature behind every token of the picture.

    Returns:
      ``[num_tokens]`` int32: patches of all tiles counted through, tile by
      tile, each in rows; ``NEWLINE`` at the end of a row.

    Example:
      >>> Tiling(2, 1, 2).slots().tolist()  # the whole, then two tiles
      [0, 1, 2, 3, 4, 5, 8, 9, -1, 6, 7, 10, 11, -1]
      >>> Tiling(2, 1, 2, left=1).slots().tolist()
      [0, 1, 2, 3, 5, 8, -1, 7, 10, -1]
    """
    side, rows, columns, top, left = self
    whole = np.arange(side**2)
    if not rows:  # transformers ends a picture that is not cut, too
      return np.append(whole, NEWLINE).astype(np.int32)
    tiles = side**2 + np.arange(rows * columns * side**2)
    tiles = tiles.reshape(rows, columns, side, side).swapaxes(1, 2)
    kept = tiles.reshape(rows * side, columns * side)
    kept = kept[top : rows * side - top, left : columns * side - left]
    lines = np.pad(kept, ((0, 0), (0, 1)), constant_values=NEWLINE)
    return np.append(whole, lines).astype(np.int32)


@dataclasses.dataclass(frozen=True, eq=False)
class LlavaNextImages:
  """Images in tiles of one size, as LLaVA-NeXT takes them.

  Attributes:
    processor: a ``transformers.LlavaNextImageProcessorPil``.
    patch_size: height and width of a patch of the vision tower, pixels.
    max_pixels: largest area that is cut into tiles, 0 for the processor's;
      below the least of these, the whole picture stands alone.
  """

  processor: Any
  patch_size: int
  max_pixels: int = 0

  @property
  def cut(self) -> dict[str, Any]:
    """How images are cut, in the words of the model's ``image_cut``."""
    side = self._edge // self.patch_size
    return {'tokens of a tile': side**2, 'image_grid_pinpoints': self._sizes}

  def grid(self, height: int, width: int) -> Tiling:
    """Returns the tiles of an image of this size, pixels."""
    side = self._edge // self.patch_size
    sizes = self._allowed
    return tile(height, width, sizes=sizes, edge=self._edge, side=side)

  def num_tokens(self, grid: Tiling) -> int:
    """Returns the tokens of an image with these tiles."""
    return grid.num_tokens

  def encode(self, image: Image) -> EncodedImage:
    """Encodes an RGB image ``[height, width, 3]`` uint8."""
    grid, edge = self.grid(*image.shape[:2]), self._edge
    sizes = [list(size) for size in self._allowed or [(edge, edge)]]
    features = process_image(self.processor, image, image_grid_pinpoints=sizes)
    pixels = features['pixel_values'][0][: grid.num_tiles].astype(np.float32)
    return EncodedImage(
      pixels,
      grid,
      grid.num_tokens,
      slots=grid.slots(),
      num_features=grid.num_tiles * grid.side**2,
    )

  def positions(
    self, is_image: np.ndarray, grids: Sequence[Tiling]
  ) -> np.ndarray:
    """Returns the positions ``[n]`` of n tokens: 0, 1, 2, ..."""
    del grids
    return np.arange(len(is_image), dtype=np.int32)

  def room(self, grids: Sequence[Tiling]) -> int:
    """Returns I, the places of a batch's row that these images take."""
    return sum(grid.num_tiles for grid in grids)

  def pixel_shape(self, room: int) -> tuple[int, ...]:
    """Returns the static shape of a row's tiles, ``(I, 3, height, width)``."""
    return (room, 3, self._edge, self._edge)

  @property
  def _edge(self) -> int:
    """Height and width of a tile, pixels."""
    return self.processor.crop_size['height']

  @property
  def _sizes(self) -> tuple[Size, ...]:
    """Heights and widths that a picture may be scaled to."""
    return tuple((h, w) for h, w in self.processor.image_grid_pinpoints)

  @property
  def _allowed(self) -> list[Size]:
    """Those of them that are small enough."""
    most = self.max_pixels or math.inf
    return [size for size in self._sizes if math.prod(size) <= most]


def tile(
  height: int, width: int, *, sizes: Iterable[Size], edge: int, side: int
) -> Tiling:
  """Returns how a picture is cut.

  Args:
    height: height of the picture, pixels.
    width: width of the picture, pixels.
    sizes: sizes that it may be scaled to, multiples of ``edge``; none for the
      whole picture alone.
    edge: height and width of a tile, pixels.
    side: patches of a tile, in each direction.

  Example:
    >>> sizes = [(336, 672), (672, 336), (672, 672)]
    >>> tile(480, 640, sizes=sizes, edge=336, side=24)
    Tiling(side=24, rows=2, columns=2, top=6, left=0)
  """
  sizes = list(sizes)
  if not sizes:
    return Tiling(side, 0, 0)
  best = best_size(height, width, sizes)
  rows, columns = best[0] // edge, best[1] // edge
  tall, wide = rows * side, columns * side  # patches
  if width * tall > wide * height:
    return Tiling(side, rows, columns, top=(tall - height * wide // width) // 2)
  return Tiling(side, rows, columns, left=(wide - width * tall // height) // 2)


def best_size(height: int, width: int, sizes: Iterable[Size]) -> Size:
  """Returns the size that shows most of a picture with the least padding.

  The first of several that are as good. Scaled sides are rounded down from
  float64, so a side that fits exactly may lose a pixel, as in transformers.

  Args:
    height: height of the picture, pixels.
    width: width of the picture, pixels.
    sizes: heights and widths to choose from, at least one.

  Example:
    >>> best_size(300, 1000, [(336, 672), (672, 336), (336, 1008)])
    (336, 1008)
  """

  def shown(size: Size) -> tuple[int, int]:
    scale = min(size[1] / width, size[0] / height)
    area = min(int(width * scale) * int(height * scale), width * height)
    return area, area - size[0] * size[1]  # the second: less padding

  return max(sizes, key=shown)
