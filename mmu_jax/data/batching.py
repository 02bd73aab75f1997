"""From examples to batches of one static shape; packed or plain.

Several questions about one image share its encoding: the tokens that they have
in common (the start of the prompt and the image) come once, as branch 0 of a
*document*, and each question is a branch of its own whose positions restart.
With 576 image tokens a picture this is most of the cost of a question list.

A stream is a pure function of a step number, so that resuming a run needs the
step alone.
"""

from collections.abc import Sequence
import functools
from typing import NamedTuple
import zlib

import numpy as np

from mmu_jax.data import processing
from mmu_jax.data.processing import Example
from mmu_jax.data.processing import Processor
from mmu_jax.data.row import Row
from mmu_jax.typing import Batch

# One document: the arrays of a Batch, [n] each, and the row's picture.
Document = dict[str, np.ndarray]
FIELDS = (
    'tokens', 'positions', 'documents', 'branches', 'image_slots', 'targets',
    'weights',
)  # fmt: skip
PAD = {'image_slots': -1}


class Part(NamedTuple):
  """What one part of a mixed stream draws at every step.

  Attributes:
    rows: the rows that it draws from.
    size: sequences (rows of the batch) a step.
    questions: questions in each: of one picture, as branches; text questions
      are documents of their own.
    weight: of each answer token in the loss.
  """

  rows: Sequence[Row]
  size: int
  questions: int = 1
  weight: float = 1.0


def document(
    examples: Sequence[Example], image_token: int, weight: float = 1.0
) -> Document:
  """Packs questions about one picture (or one text question).

  Args:
    examples: of one image, or a single one.
    image_token: id of the image placeholder.
    weight: loss weight of every labelled token, > 0.

  Returns:
    Arrays ``[n]`` under the names of ``Batch``; ``documents`` is 1 throughout.

  Raises:
    ValueError: if the shared tokens carry a label (train on full sequences
      with one question a document), or the rows do not share one image.
  """
  tokens, positions, branches, targets, weights = [], [], [], [], []

  def put(example, start, stop, branch):
    ids, labelled = example.tokens, example.labelled
    tokens.append(ids[start:stop])
    positions.append(np.arange(start, stop))
    branches.append(np.full(stop - start, branch))
    targets.append(np.append(ids[1:], 0)[start:stop])
    follows = np.append(labelled[1:], False)[start:stop]
    weights.append(np.where(follows, weight, 0.0))

  if len(examples) == 1:
    put(examples[0], 0, len(examples[0].tokens), 0)
  else:
    shared = _shared_prefix(examples)
    if any(e.labelled[: shared + 1].any() for e in examples):
      raise ValueError(
          'questions can share their first tokens only if these carry no '
          f'label; packing {examples[0].row.key!r} would train on them once '
          "instead of once a question. Use questions=1 with labels='full'."
      )
    pictures = {e.row.image_key for e in examples}
    if len(pictures) > 1 or any(
        (e.tokens[shared:] == image_token).any() for e in examples
    ):
      raise ValueError(
          'questions packed together must begin with the same image; '
          f'{examples[0].row.key!r} and {examples[1].row.key!r} do not. Pack '
          'rows of one image_key, or use questions=1.'
      )
    put(examples[0], 0, shared, 0)
    for branch, example in enumerate(examples, start=1):
      put(example, shared, len(example.tokens), branch)
  ids = np.concatenate(tokens)
  is_image = ids == image_token
  return {
      'tokens': ids,
      'positions': np.concatenate(positions),
      'documents': np.ones(len(ids), np.int32),
      'branches': np.concatenate(branches),
      'image_slots': np.where(is_image, np.cumsum(is_image) - 1, -1),
      'targets': np.concatenate(targets),
      'weights': np.concatenate(weights),
  }


def assemble(
    sequences: Sequence[Sequence[tuple[Document, np.ndarray | None]]],
    length: int,
    pixel_shape: tuple[int, int, int] | None,
    size: int | None = None,
) -> Batch:
  """Stacks sequences of documents into a batch, padded to a static shape.

  Args:
    sequences: one list for each row of the batch, of (document, pixel values
      ``[3, height, width]`` or None); at most one picture a row.
    length: L, at least the longest row.
    pixel_shape: ``(3, height, width)``, or None for batches without pictures.
    size: B, at least the number of sequences; None for just that number.

  Returns:
    A ``Batch`` of NumPy arrays.

  Raises:
    ValueError: if a row is longer than ``length``, or has two pictures.
  """
  size = len(sequences) if size is None else size
  batch = {
      name: np.full((size, length), PAD.get(name, 0), np.int32)
      for name in FIELDS
  }
  batch['weights'] = np.zeros((size, length), np.float32)
  images = 0 if pixel_shape is None else 1
  batch['pixel_values'] = np.zeros(
      (size, images, *(pixel_shape or (3, 0, 0))), np.float32
  )
  for b, parts in enumerate(sequences):
    end = 0
    pictures = [p for _, p in parts if p is not None]
    if len(pictures) > images:
      raise ValueError(
          f'a row of this batch holds {images} pictures, got {len(pictures)}. '
          'Put pictures into rows of their own.'
      )
    for number, (doc, _) in enumerate(parts, start=1):
      start, end = end, end + len(doc['tokens'])
      if end > length:
        raise ValueError(
            f'a row of the batch holds {length} tokens, got {end}. Raise '
            'the length, or pack fewer questions.'
        )
      for name in FIELDS:
        batch[name][b, start:end] = doc[name]
      batch['documents'][b, start:end] = number
    for picture in pictures:
      batch['pixel_values'][b, 0] = picture
  return batch


class Encoder:
  """Encodes rows and pictures once, and remembers them."""

  def __init__(self, processor: Processor, labels: str = 'answer'):
    self.processor = processor
    self.labels = labels
    self.image_token = processing.image_token_id(processor)
    self._examples: dict[str, Example] = {}
    self._pixels: dict[str, np.ndarray] = {}

  def example(self, row: Row) -> Example:
    """The tokens of a row."""
    if row.key not in self._examples:
      self._examples[row.key] = processing.encode(
          row, self.processor, labels=self.labels
      )
    return self._examples[row.key]

  def pixels(self, row: Row) -> np.ndarray | None:
    """The pixel values of a row's picture, or None."""
    if row.image is None:
      return None
    if row.image_key not in self._pixels:
      self._pixels[row.image_key] = processing.pixels(
          row.image, self.processor
      )
    return self._pixels[row.image_key]

  def pixel_shape(self) -> tuple[int, int, int]:
    """(3, height, width) of every picture."""
    crop = self.processor.image_processor.crop_size
    return (3, crop['height'], crop['width'])


class Stream:
  """A stream of batches: a pure function of the step number.

  Every part goes through its pictures (or text rows) in an order that is new
  in each epoch; at each visit a picture's questions are drawn at random. The
  length L is the longest that can occur, rounded up to 8, so that a stream
  compiles once.
  """

  def __init__(
      self,
      parts: Sequence[Part],
      encoder: Encoder,
      *,
      seed: int,
      name: str = '',
  ):
    """Plans the stream; nothing is drawn yet.

    Args:
      parts: what a batch is made of, in this order.
      encoder: encodes the rows.
      seed: of the order, >= 0.
      name: of the stream, so that streams of one seed differ.

    Raises:
      ValueError: if a part has no rows.
    """
    self._encoder = encoder
    self._plans = []
    for i, part in enumerate(parts):
      if not part.rows:
        raise ValueError(
            f'a stream needs rows to draw from; part {i} of {name!r} has '
            'none. Check the split sizes of the data config.'
        )
      key = (seed, zlib.crc32(f'{name}/{i}'.encode()))
      self._plans.append((part, _groups(part.rows), key))
    longest = max(_longest(p, groups, encoder) for p, groups, _ in self._plans)
    self.length = -(-longest // 8) * 8
    pictures = any(r.image is not None for p in parts for r in p.rows)
    self._pixel_shape = encoder.pixel_shape() if pictures else None

  def draw(self, step: int) -> list[tuple[Part, list[Row]]]:
    """Returns the rows of every sequence of a step's batch."""
    drawn = []
    for part, groups, key in self._plans:
      drawn.extend((part, rows) for rows in _draw(part, groups, key, step))
    return drawn

  def keys(self, step: int) -> list[str]:
    """Returns the keys of the rows in a step's batch, for messages."""
    return [row.key for _, rows in self.draw(step) for row in rows]

  def __call__(self, step: int) -> Batch:
    """Returns the batch of a step >= 0."""
    sequences = [
        _sequence(rows, part.weight, self._encoder)
        for part, rows in self.draw(step)
    ]
    return assemble(sequences, self.length, self._pixel_shape)


def bucket(length: int) -> int:
  """Returns the static length that holds so many tokens.

  Few lengths are in use, so that few programs are compiled: multiples of 16
  up to 128, of 64 up to 1024, of 256 beyond.

  Example:
    >>> [bucket(n) for n in (9, 16, 100, 130, 1100)]
    [16, 16, 112, 192, 1280]
  """
  step = 16 if length <= 128 else 64 if length <= 1024 else 256
  return -(-length // step) * step


def row_batches(
    rows: Sequence[Row], encoder: Encoder, *, size: int, questions: int = 1
) -> list[Batch]:
  """Cuts rows, in their order, into batches that hold each row once.

  For importances and evaluation: the last batch is padded with empty rows.

  Args:
    rows: what the batches hold: all with a picture, or all without.
    encoder: encodes them.
    size: B, sequences a batch.
    questions: how many to pack into a sequence.

  Raises:
    ValueError: if there are no rows.
  """
  if not rows:
    raise ValueError('there are no rows for batches. Is the split empty?')
  groups = _groups(rows)
  if rows[0].image is None:
    groups = [list(rows)]
  chunks = [
      group[i : i + questions]
      for group in groups
      for i in range(0, len(group), questions)
  ]
  sequences = [_sequence(chunk, 1.0, encoder) for chunk in chunks]
  longest = max(sum(len(d['tokens']) for d, _ in s) for s in sequences)
  shape = None if rows[0].image is None else encoder.pixel_shape()
  return [
      assemble(sequences[i : i + size], bucket(longest), shape, size)
      for i in range(0, len(sequences), size)
  ]


def _groups(rows: Sequence[Row]) -> list[list[Row]]:
  """Rows of one picture together; every text row by itself."""
  groups: dict[str, list[Row]] = {}
  for row in rows:
    groups.setdefault(row.image_key or row.key, []).append(row)
  return list(groups.values())


def _draw(part, groups, key, step):
  """The rows of each sequence that a part adds to the batch of a step."""
  text = part.rows[0].image is None
  wanted = part.size * (part.questions if text else 1)
  rng = np.random.default_rng([*key, 1, step])
  drawn = []
  for visit in range(step * wanted, (step + 1) * wanted):
    epoch, index = divmod(visit, len(groups))
    group = groups[_order(key, epoch, len(groups))[index]]
    if not text:
      picks = rng.permutation(len(group))[: part.questions]
      group = [group[i] for i in sorted(picks)]
    drawn.append(group)
  if not text:
    return drawn
  return [
      [row for group in drawn[i : i + part.questions] for row in group]
      for i in range(0, wanted, part.questions)
  ]


@functools.lru_cache(maxsize=64)
def _order(key: tuple[int, ...], epoch: int, n: int) -> np.ndarray:
  """The order in which an epoch visits its groups."""
  return np.random.default_rng([*key, 0, epoch]).permutation(n)


def _sequence(rows, weight, encoder):
  """One row of a batch: (document, pixel values or None) for each document."""
  examples = [encoder.example(row) for row in rows]
  if rows[0].image is None:
    return [
        (document([e], encoder.image_token, weight), None) for e in examples
    ]
  doc = document(examples, encoder.image_token, weight)
  return [(doc, encoder.pixels(rows[0]))]


def _longest(part, groups, encoder) -> int:
  """The tokens of the longest sequence that a part can draw."""
  if part.rows[0].image is None:
    lengths = sorted(len(encoder.example(row).tokens) for row in part.rows)
    return sum(lengths[-part.questions :])
  longest = 0
  for group in groups:
    # The longest questions share at least what all of the group share.
    examples = sorted(
        (encoder.example(row) for row in group), key=lambda e: len(e.tokens)
    )[-part.questions :]
    shared = _shared_prefix([encoder.example(row) for row in group])
    total = sum(len(e.tokens) - shared for e in examples) + shared
    longest = max(longest, total)
  return longest


def _shared_prefix(examples: Sequence[Example]) -> int:
  """How many first tokens all have in common, short of the prompt's last.

  The last token of a prompt predicts the answer, so it belongs to the branch.
  """
  n = min(e.prompt_length for e in examples) - 1
  same = np.all(
      [e.tokens[:n] == examples[0].tokens[:n] for e in examples], axis=0
  )
  return n if same.all() else int(np.argmin(same))
