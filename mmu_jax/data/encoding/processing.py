"""From a row to tokens: the chat template, image tokens, the answer's span.

``row -> text (chat template) -> token ids with offsets -> every image
placeholder expanded to the tokens of its image -> Example``. The answer is
found from where the template put it, never by searching for its tokens, so an
answer that also stands in the question is labelled once, in the right place.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jinja2
import numpy as np

from mmu_jax.data.encoding.processors import Processor
from mmu_jax.data.row import Picture
from mmu_jax.data.row import Row
from mmu_jax.errors import UserError

# Tokens that the loss asks for, from the answer's tokens and the images'.
LABELS = {
  'answer': lambda is_answer, is_image: is_answer & ~is_image,
  'full': lambda is_answer, is_image: ~is_image,
  'published': lambda is_answer, is_image: np.ones_like(is_image),
}


class Example(NamedTuple):
  """A row as tokens.

  Attributes:
    tokens: ``[n]`` int32, image placeholders expanded.
    positions: ``[n]`` int32, or ``[n, 3]`` for multimodal rotary embedding.
    labelled: ``[n]`` bool, the tokens that the loss asks for.
    prompt_length: number of tokens before the answer.
    row: row that was encoded.
    pictures: pictures of its image tokens, in their order.
  """

  tokens: np.ndarray
  positions: np.ndarray
  labelled: np.ndarray
  prompt_length: int
  row: Row
  pictures: tuple[Picture, ...] = ()


def encode(
  row: Row, processor: Processor, *, labels: str = 'answer'
) -> Example:
  """Turns a row into tokens with its answer marked.

  Args:
    row: question and answer.
    processor: processor of the model.
    labels: ``'answer'``: the answer's tokens and the end token. ``'full'``:
      every token of prompt and answer but image placeholders, and no end token
      that the template does not write. ``'published'``: the same with image
      placeholders, as the published runs trained; batches then have their
      positions of padding, too.

  Returns:
    An ``Example``.

  Raises:
    ValueError: if the answer is empty, question or answer contain the image
      token, a picture has a shape that no model takes, or the template fails
      or does not put the answer after the prompt; names the row.
  """
  if not row.answer.strip():
    raise UserError(
      f'every row needs an answer to learn or to score; row {row.key!r} '
      'has an empty one. Drop the row or give its answer.'
    )
  prompt, full = _render(row, processor)
  return encode_chat(prompt, full, row, row.pictures, processor, labels=labels)


def encode_chat(
  prompt: str,
  full: str,
  row: Row,
  pictures: Sequence[Picture],
  processor: Processor,
  *,
  labels: str = 'answer',
) -> Example:
  """Turns a rendered chat, about any number of pictures, into tokens.

  Args:
    prompt: the chat up to where the answer begins.
    full: the chat with the answer; begins with the prompt.
    row: row with the answer at the end.
    pictures: one for each placeholder, in their order.
    processor: processor of the model.
    labels: choice of tokens, as for ``encode``.

  Raises:
    ValueError: if ``labels`` is unknown, a token belongs to prompt and answer
      both, or there are more or fewer placeholders than pictures.
  """
  if labels not in LABELS:
    raise UserError(
      f'labels is one of {", ".join(map(repr, LABELS))}, got {labels!r}.'
    )
  ids, is_answer = _tokenize(prompt, full, row, processor.tokenizer)
  end = processor.tokenizer.eos_token_id
  if labels == 'answer' and ids[-1] != end:
    ids, is_answer = np.append(ids, np.int32(end)), np.append(is_answer, True)
  is_image = ids == processor.image_token_id
  if is_image.sum() != len(pictures):
    raise UserError(
      f'the chat of row {row.key!r} has {is_image.sum()} placeholders '
      f'{processor.image_token!r} for {len(pictures)} pictures. Check the '
      'chat template of the tokenizer.'
    )
  images = processor.images
  grids = [_grid(images, picture, row) for picture in pictures]
  repeats = np.ones(len(ids), np.int64)
  repeats[is_image] = [images.num_tokens(grid) for grid in grids]
  labelled = LABELS[labels](is_answer, is_image)
  return Example(
    tokens=np.repeat(ids, repeats),
    positions=images.positions(np.repeat(is_image, repeats), grids),
    labelled=np.repeat(labelled, repeats),
    prompt_length=int(repeats[: np.argmax(is_answer)].sum()),
    row=row,
    pictures=tuple(pictures),
  )


def prompt_of(example: Example) -> Example:
  """Returns the prompt alone, without an answer and without labels."""
  n = example.prompt_length
  return example._replace(
    tokens=example.tokens[:n],
    positions=example.positions[:n],
    labelled=np.zeros(n, bool),
  )


def _grid(images, picture, row):
  """The patches of a picture; an error names the row."""
  shape = picture.image.shape  # names its row where it cannot be read
  try:
    return images.grid(*shape[:2])
  except UserError as error:
    name = getattr(picture.image, 'name', picture.key)
    raise UserError(f'picture of row {row.key!r} ({name}): {error}') from error


def _tokenize(prompt, full, row, tokenizer):
  """The ids of a chat, and which of them are the answer's."""
  try:
    full.encode()
  except UnicodeEncodeError as error:  # half a sign of JSON: "\\ud83d"
    raise UserError(
      f'text must be whole Unicode; the text of row {row.key!r} has half of a '
      f'sign, {error.object[error.start]!r}. Write the file again from its '
      'source.'
    ) from error
  begun = bool(tokenizer.bos_token) and full.startswith(tokenizer.bos_token)
  encoded = tokenizer(
    full, return_offsets_mapping=True, add_special_tokens=not begun
  )
  starts, ends = np.asarray(encoded['offset_mapping']).T
  if ((starts < len(prompt)) & (ends > len(prompt))).any():
    raise UserError(
      f'the answer of row {row.key!r} begins with {row.answer[:4]!r}, which '
      'makes one token with the end of the prompt; then the prompt would '
      'depend on the answer. Strip the answer.'
    )
  # Tokens that the tokenizer adds have the empty span (0, 0).
  return np.asarray(encoded['input_ids'], np.int32), ends > len(prompt)


def _render(row: Row, processor: Processor) -> tuple[str, str]:
  """Renders the prompt, and the prompt with its answer."""
  for field, text in (('question', row.question), ('answer', row.answer)):
    if processor.image_token in text:
      raise UserError(
        f'the {field} of row {row.key!r} contains {processor.image_token!r}; '
        'the placeholder is put in for each image. Remove it from the text '
        f'{text[:80]!r}.'
      )
  content = [{'type': 'image'} for _ in row.pictures]
  content.append({'type': 'text', 'text': row.question})
  messages = [{'role': 'user', 'content': content}]
  answer = [{'type': 'text', 'text': row.answer}]
  template = processor.tokenizer.apply_chat_template
  try:
    prompt = template(messages, tokenize=False, add_generation_prompt=True)
    full = template(
      [*messages, {'role': 'assistant', 'content': answer}], tokenize=False
    ).rstrip()
  except (jinja2.TemplateError, TypeError) as error:
    raise UserError(
      f'the chat template of the tokenizer cannot render row {row.key!r}: '
      f'{str(error)[:200]}. It must take a list of parts as the content of a '
      'message: use the template that came with the checkpoint.'
    ) from error
  if (
    not full.startswith(prompt) or row.answer.strip() not in full[len(prompt) :]
  ):
    raise UserError(
      'the chat template must render the answer after the prompt; for row '
      f'{row.key!r} the prompt is {prompt!r} and the whole {full!r}. Give '
      'the tokenizer a chat template that extends its generation prompt.'
    )
  return prompt, full
