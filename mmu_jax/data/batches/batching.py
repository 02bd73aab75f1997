"""Which rows a batch holds: streams to train on, and lists to go through.

A stream is a pure function of a step number, so that resuming a run needs the
step alone.
"""

from collections.abc import Callable, Iterator, Sequence
import functools
import itertools
import math
from typing import NamedTuple

import numpy as np

from mmu_jax.data.batches import packing
from mmu_jax.data.batches.encoder import Documents
from mmu_jax.data.batches.encoder import Encoder
from mmu_jax.data.encoding.patches import bucket
from mmu_jax.data.rng import named_rng
from mmu_jax.data.row import Row
from mmu_jax.errors import UserError
from mmu_jax.typing import Batch


class Part(NamedTuple):
  """Rows that one part of a mixed stream draws at every step.

  Attributes:
    rows: the rows that it draws from.
    size: sequences (rows of the batch) a step.
    questions: questions in each: of one picture, as branches; text questions
      are documents of their own.
    weight: weight of each answer token in the loss.
  """

  rows: Sequence[Row]
  size: int
  questions: int = 1
  weight: float = 1.0


class Stream:
  """A stream of batches: a pure function of the step number.

  Every part goes through its pictures (or text rows) in an order that is new
  in each epoch; at each visit a picture's questions are drawn at random. A
  sequence of texts may end one epoch and begin the next, and so hold a row
  twice. The length L is the longest that can occur, rounded up to 8, and there
  is room for the largest pictures, so that a stream compiles once.

  With several hosts each makes the rows of the batch that its devices hold;
  together they are, row by row, the batch of a single host.
  """

  def __init__(
    self,
    parts: Sequence[Part],
    encoder: Encoder,
    *,
    seed: int,
    name: str = '',
    share: Callable[[int], Sequence[int]] = range,
  ):
    """Plans the stream; nothing is drawn yet.

    Args:
      parts: parts of every batch, in this order.
      encoder: encoder of the rows.
      seed: seed of the order, >= 0.
      name: name of the stream, so that streams of one seed differ.
      share: number of sequences in a batch -> which of its rows are made here,
        in order. Rows beyond that number are padding, without any weight.

    Raises:
      ValueError: if a part has no rows, or some with pictures and some
        without.
    """
    self.num_rows = sum(part.size for part in parts)
    self._mine = list(share(self.num_rows))
    self._encoder = encoder
    self._plans = []
    for i, part in enumerate(parts):
      if not part.rows:
        raise UserError(
          f'a stream needs rows to draw from; part {i} of {name!r} has '
          'none. Check the split sizes of the data config.'
        )
      if len({row.picture is None for row in part.rows}) == 2:
        raise UserError(
          'the rows of a part all have a picture, or none has; part '
          f'{i} of {name!r} mixes them. Make two parts of it: a batch may '
          'hold both.'
        )
      key = (seed, f'{name}/{i}')
      groups = _groups(part.rows, _by_picture)
      self._plans.append((part, groups, key))
    longest = max(_longest(p, groups, encoder) for p, groups, _ in self._plans)
    self.length = _by_eights(longest)
    counted = [
      _most_counted(p, groups, encoder) for p, groups, _ in self._plans
    ]
    self.most_counted = _by_eights(max(counted))
    room = max(_most_room(groups, encoder) for _, groups, _ in self._plans)
    self._pixel_shape = encoder.pixel_shape(room)

  @property
  def steps_per_epoch(self) -> int:
    """Steps after which every picture and every text row was drawn."""
    return steps_per_epoch([part for part, _, _ in self._plans])

  def draw(self, step: int) -> list[tuple[Part, list[Row]]]:
    """Returns the rows of every sequence of a step's batch, on this host."""
    drawn = self._draw_all(step)
    return [drawn[row] for row in self._mine if row < len(drawn)]

  def keys(self, step: int) -> list[str]:
    """Returns the keys of the rows of a step, on all hosts, for messages."""
    return [row.key for _, rows in self._draw_all(step) for row in rows]

  def __call__(self, step: int) -> Batch:
    """Returns the batch of a step >= 0."""
    sequences = [
      _sequence(rows, part.weight, self._encoder)
      for part, rows in self.draw(step)
    ]
    return self._encoder.batch(
      sequences,
      self.length,
      self._pixel_shape,
      len(self._mine),
      most_counted=self.most_counted,
    )

  def _draw_all(self, step):
    """The same for all hosts; only rows are drawn, so it costs little."""
    drawn = []
    for part, groups, key in self._plans:
      drawn.extend((part, rows) for rows in _draw(part, groups, key, step))
    return drawn


def steps_per_epoch(parts: Sequence[Part]) -> int:
  """Returns the steps after which every picture and text row was drawn.

  Args:
    parts: parts of every batch, each with rows.

  Example:
    >>> rows = [Row(str(i), 'Who?', 'Ada', 'Ada') for i in range(10)]
    >>> steps_per_epoch([Part(rows, size=2, questions=2)])  # 4 texts a step
    3
  """
  count = lambda part: len({_by_picture(row) for row in part.rows})
  return max(-(-count(part) // _visits(part)) for part in parts)


def row_batches(
  rows: Sequence[Row],
  encoder: Encoder,
  *,
  size: int,
  questions: int = 1,
  share: Callable[[int], Sequence[int]] = range,
) -> list[Batch]:
  """Cuts rows into batches that hold each row once.

  For importances and evaluation. Rows of one picture stay together, text rows
  too, else the order is kept; the last batch is padded with empty rows.

  Args:
    rows: rows of all batches, with pictures and without.
    encoder: encoder of the rows.
    size: B, sequences a batch.
    questions: number of questions to pack into a sequence.
    share: choice of the rows of every batch that are made here, see
      ``Stream``.

  Raises:
    ValueError: if there are no rows.
  """
  if not rows:
    raise UserError('there are no rows for batches. Is the split empty?')
  sequences = [
    _sequence(group[i : i + questions], 1.0, encoder)
    for group in _groups(rows, lambda row: row.picture_key or '')
    for i in range(0, len(group), questions)
  ]
  return list(stack(sequences, encoder, size=size, share=share))


def stack(
  sequences: Sequence[Documents],
  encoder: Encoder,
  *,
  size: int,
  padding: str = 'right',
  share: Callable[[int], Sequence[int]] = range,
) -> Iterator[Batch]:
  """Yields batches of one static shape that hold the sequences in order.

  Pictures are encoded when their batch is made.

  Args:
    sequences: rows of batches.
    encoder: encoder of the pictures.
    size: B; the last batch is padded with empty rows.
    padding: the side where short rows are padded: see ``packing.assemble``.
    share: choice of the rows of every batch that are made here, see
      ``Stream``.
  """
  mine = share(size)
  total = lambda of: max(sum(of(doc) for doc, _ in s) for s in sequences)
  longest = total(lambda doc: len(doc['tokens']))
  most_counted = bucket(total(packing.num_counted))
  room = max(
    encoder.room([p for _, pictures in s for p in pictures]) for s in sequences
  )
  for i in range(0, len(sequences), size):
    here = sequences[i : i + size]
    yield encoder.batch(
      [here[row] for row in mine if row < len(here)],
      bucket(longest),
      encoder.pixel_shape(room),
      len(mine),
      most_counted=most_counted,
      padding=padding,
    )


def _groups(rows: Sequence[Row], key: Callable[[Row], str]) -> list[list[Row]]:
  """Rows of one key together, in the order of their first."""
  groups: dict[str, list[Row]] = {}
  for row in rows:
    groups.setdefault(key(row), []).append(row)
  return list(groups.values())


def _by_picture(row):
  """Rows of one picture go together; every text row by itself."""
  return row.picture_key or row.key


def _visits(part: Part) -> int:
  """Pictures, or text rows, that a part draws at every step."""
  text = part.rows[0].picture is None
  return part.size * (part.questions if text else 1)


def _draw(part, groups, key, step):
  """The rows of each sequence that a part adds to the batch of a step."""
  text, wanted = part.rows[0].picture is None, _visits(part)
  rng = named_rng(*key, 1, step)
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
def _order(key: tuple[int, str], epoch: int, n: int) -> np.ndarray:
  """The order in which an epoch visits its groups."""
  return named_rng(*key, 0, epoch).permutation(n)


def _sequence(rows, weight, encoder) -> Documents:
  """One row of a batch: branches about a picture, or texts each by itself."""
  examples = [encoder.example(row) for row in rows]
  if rows[0].picture is not None:
    return [encoder.document(examples, weight)]
  return [encoder.document([example], weight) for example in examples]


def _longest(part, groups, encoder) -> int:
  """The tokens of the longest sequence that a part can draw."""
  if part.rows[0].picture is None:
    tokens = lambda row: len(encoder.example(row).tokens)
    lengths = [sum(map(tokens, group)) for group in groups]
    return _most(lengths, part.questions)
  longest = 0
  for group in groups:
    # The longest questions share at least what all of the group share.
    examples = sorted(
      (encoder.example(row) for row in group), key=lambda e: len(e.tokens)
    )[-part.questions :]
    shared = packing.shared_prefix([encoder.example(row) for row in group])
    total = sum(len(e.tokens) - shared for e in examples) + shared
    longest = max(longest, total)
  return longest


def _most_counted(part, groups, encoder) -> int:
  """The most tokens with a weight of a sequence that a part can draw."""
  counted = lambda row: int(encoder.example(row).labelled[1:].sum())
  each = [sorted(map(counted, group)) for group in groups]
  if part.rows[0].picture is None:
    return _most([sum(of_group) for of_group in each], part.questions)
  return max(sum(of_group[-part.questions :]) for of_group in each)


def _by_eights(number: int) -> int:
  """The next multiple of 8: few shapes, so few programs."""
  return -(-number // 8) * 8


def _most(lengths: Sequence[int], number: int) -> int:
  """The most that so many visits in a row can add up to.

  Epochs follow each other without a gap, each in any order. One may end within
  the visits, which begin at a multiple of their number; then the longest can
  come twice: of 5, 1 and 1 the most of two visits is 10.
  """
  n = len(lengths)
  most = [0, *itertools.accumulate(sorted(lengths, reverse=True))]
  step, found = math.gcd(n, number), 0
  for left in range(step, n + 1, step):  # visits until an epoch ends
    epochs, rest = divmod(max(number - left, 0), n)
    first = most[min(left, number)]
    found = max(found, first + epochs * most[n] + most[rest])
  return found


def _most_room(groups, encoder) -> int:
  """The most places that the pictures of a sequence take."""
  examples = [encoder.example(group[0]) for group in groups]
  return max(encoder.room(example.pictures) for example in examples)
