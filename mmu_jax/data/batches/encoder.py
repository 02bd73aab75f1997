"""Tokens and pixels of rows, made once."""

import collections
from collections.abc import Sequence
import threading
from typing import Any

from mmu_jax.data.batches import packing
from mmu_jax.data.batches.packing import Document
from mmu_jax.data.encoding import processing
from mmu_jax.data.encoding.patches import EncodedImage
from mmu_jax.data.encoding.patches import Grid
from mmu_jax.data.encoding.processing import Example
from mmu_jax.data.encoding.processors import Processor
from mmu_jax.data.row import Picture
from mmu_jax.data.row import Row
from mmu_jax.typing import Batch

# One row of a batch: documents, each with its pictures.
Documents = list[tuple[Document, tuple[Picture, ...]]]


class Encoder:
  """Encodes rows and pictures, and remembers them.

  Tokens are kept for good. Pixels are not made before a batch needs them, and
  those used last are kept, up to a number of bytes. Several threads may make
  batches at once.
  """

  def __init__(
    self, processor: Processor, labels: str = 'answer', max_bytes: int = 2**30
  ):
    """Makes an encoder that has seen nothing.

    Args:
      processor: processor of the model.
      labels: tokens that the loss asks for; see ``processing.encode``.
      max_bytes: bytes of pixels to keep.
    """
    self.processor = processor
    self.labels = labels
    self.image_token = processor.image_token_id
    self._examples: dict[Any, Example] = {}
    self._images: dict[str, tuple[Picture, EncodedImage]] = (
      collections.OrderedDict()
    )
    self._free = max_bytes
    self._lock = threading.Lock()  # of the two dicts and _free

  def example(self, row: Row) -> Example:
    """The tokens of a row; rows of one key may differ in all else."""
    said = row._replace(picture=None), row.picture_key
    with self._lock:  # a tokenizer is not made for several threads
      found = self._examples.get(said)
      if found is None or not _same(found.row.picture, row.picture):
        found = processing.encode(row, self.processor, labels=self.labels)
        self._examples[said] = found
      return found

  def image(self, picture: Picture) -> EncodedImage:
    """A picture, encoded."""
    with self._lock:
      seen, image = self._images.get(picture.key, (None, None))
    if image is None or not _same(seen, picture):
      # Two threads may both come here: then one is dropped.
      image = self.processor.images.encode(picture.image)
    with self._lock:
      _, old = self._images.pop(picture.key, (None, None))
      self._free += old.pixel_values.nbytes if old is not None else 0
      self._free -= image.pixel_values.nbytes
      # The one used last is at the end.
      self._images[picture.key] = picture, image
      while self._free < 0 and len(self._images) > 1:
        _, (_, oldest) = self._images.popitem(last=False)
        self._free += oldest.pixel_values.nbytes
    return image

  def document(
    self, examples: Sequence[Example], weight: float = 1.0
  ) -> tuple[Document, tuple[Picture, ...]]:
    """Packs examples about the same pictures, or one: see ``packing``."""
    doc = packing.document(examples, self.image_token, weight)
    return doc, examples[0].pictures

  def room(self, pictures: Sequence[Picture]) -> int:
    """How many places of a batch's row these pictures take."""
    return self.processor.images.room(self._grids(pictures))

  def pixel_shape(self, room: int) -> tuple[int, ...]:
    """The static shape of a row's images, from the most places they take."""
    return self.processor.images.pixel_shape(room)

  def batch(
    self,
    sequences: Sequence[Documents],
    length: int,
    pixel_shape: tuple[int, ...],
    size: int | None = None,
    *,
    most_counted: int | None = None,
    padding: str = 'right',
  ) -> Batch:
    """Encodes the pictures of sequences and stacks them: see ``assemble``."""
    encoded = [
      [(doc, [self.image(p) for p in pictures]) for doc, pictures in parts]
      for parts in sequences
    ]
    return packing.assemble(
      encoded,
      length,
      pixel_shape,
      size,
      most_counted=most_counted,
      padding=padding,
      as_published=self.labels == 'published',
    )

  def _grids(self, pictures) -> list[Grid]:
    """The patches of pictures, from their sizes."""
    grid = self.processor.images.grid
    return [grid(*picture.image.shape[:2]) for picture in pictures]


def _same(a: Picture | None, b: Picture | None) -> bool:
  """Whether two pictures of one key have the same pixels, not compared."""
  return (a and a.image) is (b and b.image)
