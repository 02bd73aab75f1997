"""From examples to the arrays of a batch; packed or plain.

Several questions about one image share its encoding: the tokens that they have
in common (the start of the prompt and the image) come once, as branch 0 of a
*document*, and each question is a branch of its own whose positions go on
where the shared part ends. With 576 image tokens a picture this is most of the
cost of a question list.
"""

from collections.abc import Sequence

import numpy as np

from mmu_jax.data.encoding.patches import EncodedImage
from mmu_jax.data.encoding.processing import Example
from mmu_jax.errors import UserError
from mmu_jax.typing import Batch

# One document: the arrays of a Batch, [n] each (positions also [n, 3]).
Document = dict[str, np.ndarray]
FIELDS = tuple(
  'tokens positions documents branches image_slots targets weights'.split()
)
PAD = {'image_slots': -1}
PADDING = ('right', 'left')


def document(
  examples: Sequence[Example], image_token: int, weight: float = 1.0
) -> Document:
  """Packs questions about the same pictures (or one text question).

  Args:
    examples: examples about the same pictures, or a single one.
    image_token: id of the image placeholder.
    weight: loss weight of every labelled token, > 0.

  Returns:
    Arrays ``[n]`` under the names of ``Batch``; ``documents`` is 1 throughout.

  Raises:
    ValueError: if the shared tokens carry a label (train on full sequences
      with one question a document), or the rows do not share one image.
  """
  if len(examples) == 1:
    pieces = [_piece(examples[0], 0, None, 0, weight)]
  else:
    shared = shared_prefix(examples)
    if fault := _fault(examples, shared, image_token):
      raise UserError(fault)
    pieces = [_piece(examples[0], 0, shared, 0, weight)]
    for branch, example in enumerate(examples, start=1):
      pieces.append(_piece(example, shared, None, branch, weight))
  doc = {
    name: np.concatenate([piece[name] for piece in pieces])
    for name in pieces[0]
  }
  is_image = doc['tokens'] == image_token
  doc['documents'] = np.ones(len(is_image), np.int32)
  doc['image_slots'] = np.where(is_image, np.cumsum(is_image) - 1, -1)
  return doc


def assemble(
  sequences: Sequence[Sequence[tuple[Document, Sequence[EncodedImage]]]],
  length: int,
  pixel_shape: tuple[int, ...],
  size: int | None = None,
  *,
  most_counted: int | None = None,
  padding: str = 'right',
  as_published: bool = False,
) -> Batch:
  """Stacks sequences of documents into a batch, padded to a static shape.

  Rows without a picture, with one and with several may stand in one batch.

  Args:
    sequences: one list for each row of the batch, of (document, its images in
      their order); none for a batch of padding alone.
    length: L, at least the longest row.
    pixel_shape: the static shape of the images of a row: ``(I, 3, height,
      width)`` for images or tiles of one size, ``(N, patch)`` for images of
      any size;
      ``pixel_shape`` of the processor's ``images`` gives it.
    size: B, at least the number of sequences; None for just that number.
    most_counted: K, at least the tokens with a weight of a row; None for the
      most that a row here has.
    padding: the side where short rows are padded. On the right, the positions
      of padding go on behind the row's last token, as if a model counted
      through; on the left they are 0.
    as_published: whether padding has the positions that the published runs
      gave it: 1 in time, row and column. Only the published KL sees them.

  Returns:
    A ``Batch`` of NumPy arrays; with ``patch_images`` and ``patch_positions``
    for images of any size.

  Raises:
    ValueError: if a row is longer than ``length``, its images take more than
      ``pixel_shape`` holds, or do not match its image tokens, or more of its
      tokens count than ``most_counted``.
  """
  if padding not in PADDING:
    raise UserError(f"padding is 'right' or 'left', got {padding!r}.")
  size = len(sequences) if size is None else size
  # Images of any size come with positions of time, row and column.
  axes = (3,) if len(pixel_shape) == 2 else ()
  rows = [_join([doc for doc, _ in parts]) for parts in sequences]
  if most_counted is None:
    most_counted = max(map(num_counted, rows), default=0)
  batch = _empty(size, length, axes, pixel_shape, most_counted)
  if padding == 'right':  # also of the rows that no sequence fills
    batch['positions'][:] = _count(length, axes)
  for b, (row, parts) in enumerate(zip(rows, sequences)):
    images = [image for _, of_document in parts for image in of_document]
    _check_images(row, images)
    row['image_slots'][row['image_slots'] >= 0] = _slots(images)
    _put_tokens(batch, b, row, padding)
    _put_images(batch, b, images)
  if as_published and axes:
    batch['positions'][batch['documents'] == 0] = 1
  return batch


def shared_prefix(examples: Sequence[Example]) -> int:
  """How many first tokens all have in common, short of the prompt's last.

  The last token of a prompt predicts the answer, so it belongs to the branch.
  """
  n = min(e.prompt_length for e in examples) - 1
  same = np.all(
    [e.tokens[:n] == examples[0].tokens[:n] for e in examples], axis=0
  )
  return n if same.all() else int(np.argmin(same))


def prompt_ends(examples: Sequence[Example]) -> list[int]:
  """Returns where in their document the last tokens of the prompts stand.

  Args:
    examples: examples that ``document`` packs, in its order.
  """
  shared = shared_prefix(examples) if len(examples) > 1 else 0
  before = np.cumsum([shared, *(len(e.tokens) - shared for e in examples)])
  return [
    int(start) + e.prompt_length - shared - 1
    for start, e in zip(before, examples)
  ]


def _piece(example, start, stop, branch, weight) -> Document:
  """A stretch of an example as one branch."""
  ids, cut = example.tokens, slice(start, stop)
  follows = np.append(example.labelled[1:], False)[cut]
  return {
    'tokens': ids[cut],
    'positions': example.positions[cut],
    'branches': np.full(len(ids[cut]), branch),
    'targets': np.append(ids[1:], 0)[cut],
    'weights': np.where(follows, weight, 0.0),
  }


def can_share(examples: Sequence[Example], image_token: int) -> bool:
  """Whether ``document`` packs these examples.

  Args:
    examples: examples, two or more.
    image_token: id of the image placeholder.
  """
  return not _fault(examples, shared_prefix(examples), image_token)


def _fault(examples, shared, image_token) -> str:
  """Why examples cannot share their first tokens; '' if they can."""
  first, second = (e.row.key for e in examples[:2])
  if any(e.labelled[: shared + 1].any() for e in examples):
    return (
      'questions can share their first tokens only if these carry no '
      f'label; packing {first!r} would train on them once '
      "instead of once a question. Use labels='answer', or questions=1."
    )
  pictures = {tuple(p.key for p in e.pictures) for e in examples}
  if len(pictures) > 1 or any(
    (e.tokens[shared:] == image_token).any() for e in examples
  ):
    return (
      'questions packed together must begin with the same image; '
      f'{first!r} and {second!r} do not. Pack '
      'rows of one picture, or use questions=1.'
    )
  return ''


def num_counted(doc: Document) -> int:
  """Returns how many tokens of a document have a weight."""
  return int(np.count_nonzero(doc['weights']))


def _empty(size, length, axes, pixel_shape, most_counted):
  """A batch of padding alone."""
  batch = {
    name: np.full((size, length), PAD.get(name, 0), np.int32) for name in FIELDS
  }
  batch['positions'] = np.zeros((size, length, *axes), np.int32)
  batch['weights'] = np.zeros((size, length), np.float32)
  batch['counted'] = np.full((size, most_counted), -1, np.int32)
  batch['pixel_values'] = np.zeros((size, *pixel_shape), np.float32)
  if len(pixel_shape) == 2:
    room = pixel_shape[0]
    batch['patch_images'] = np.zeros((size, room), np.int32)
    batch['patch_positions'] = np.zeros((size, room, 2), np.int32)
  return batch


def _join(documents):
  """Documents one after the other."""
  row = {
    name: np.concatenate([doc[name] for doc in documents]) for name in FIELDS
  }
  lengths = [len(doc['tokens']) for doc in documents]
  row['documents'] = np.repeat(np.arange(len(documents)) + 1, lengths)
  return row


def _slots(images):
  """The feature of the row behind each image token, counted through."""
  found, end = [np.zeros(0, np.int32)], 0
  for image in images:
    if image.slots is None:
      found.append(end + np.arange(image.num_tokens))
    else:  # behind the row's first feature, which belongs to no image
      found.append(np.where(image.slots < 0, 0, 1 + end + image.slots))
    end += image.num_features or image.num_tokens
  return np.concatenate(found)


def _check_images(row, images):
  """Raises ValueError unless every image token has its feature."""
  places = int((row['image_slots'] >= 0).sum())
  tokens = sum(image.num_tokens for image in images)
  if places != tokens:
    raise UserError(
      f'a row of the batch has {places} image tokens, and its {len(images)} '
      f'images have {tokens}. Give each document its own images.'
    )


def _put_tokens(batch, b, row, padding):
  """Writes the tokens of a row, and the positions of what pads it."""
  n, length = len(row['tokens']), batch['tokens'].shape[1]
  if n > length:
    raise UserError(
      f'a row of the batch holds {length} tokens, got {n}. Raise the '
      'length, or pack fewer questions.'
    )
  start = 0 if padding == 'right' else length - n
  for name in FIELDS:
    batch[name][b, start : start + n] = row[name]
  counted = np.flatnonzero(batch['weights'][b])
  most = batch['counted'].shape[1]
  if len(counted) > most:
    raise UserError(
      f'a row of the batch holds {most} tokens that count, got {len(counted)}. '
      'Raise most_counted, or pack fewer questions.'
    )
  batch['counted'][b, : len(counted)] = counted
  if padding == 'right':
    positions = batch['positions'][b]
    after = row['positions'][-1].max() + 1  # M-RoPE: behind an image, too
    positions[n:] = after + _count(length - n, positions.shape[1:])


def _put_images(batch, b, images):
  """Writes the images of a row, one after the other."""
  pixels = batch['pixel_values'][b]
  any_size = 'patch_images' in batch
  # One image takes a place for each of its patches or tiles, or a single one.
  parts = [i.pixel_values.reshape(-1, *pixels.shape[1:]) for i in images]
  room = sum(map(len, parts))
  if room > len(pixels):
    tiled = images[0].slots is not None
    unit = 'patches' if any_size else 'tiles' if tiled else 'images'
    raise UserError(
      f'a row of the batch holds {len(pixels)} {unit}, got {room}. Raise '
      'pixel_shape, or put pictures into rows of their own.'
    )
  end = 0
  for number, (image, part) in enumerate(zip(images, parts), start=1):
    start, end = end, end + len(part)
    pixels[start:end] = part
    if any_size:
      batch['patch_images'][b, start:end] = number
      batch['patch_positions'][b, start:end] = image.patch_positions


def _count(n, axes):
  """0, 1, 2, ... ``[n]``, or the same along each axis of ``[n, 3]``."""
  return np.arange(n).reshape(n, *(1 for _ in axes))
