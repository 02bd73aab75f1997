"""From a row to tokens: the chat template, image tokens, the answer's span.

``row -> text (chat template) -> token ids with offsets -> one image
placeholder expanded to N -> Example``. The answer is found from where the
template put it, never by searching for its tokens, so an answer that also
stands in the question is labelled once, in the right place.
"""

from typing import Any, NamedTuple

import numpy as np

from mmu_jax.data.row import Row

Processor = Any  # a transformers processor: tokenizer and image processor


class Example(NamedTuple):
  """A row as tokens.

  Attributes:
    tokens: ``[n]`` int32, image placeholders expanded.
    labelled: ``[n]`` bool, the tokens that the loss asks for.
    prompt_length: how many tokens come before the answer.
    row: where it comes from.
  """

  tokens: np.ndarray
  labelled: np.ndarray
  prompt_length: int
  row: Row


def encode(
    row: Row, processor: Processor, *, labels: str = 'answer'
) -> Example:
  """Turns a row into tokens with its answer marked.

  Args:
    row: what is asked and answered.
    processor: has a ``tokenizer`` with a chat template, an
      ``image_processor``, ``patch_size`` and ``image_token``.
    labels: ``'answer'``: the answer's tokens and the end token. ``'full'``:
      every token of prompt and answer, and no end token. Image placeholders
      never carry a label.

  Returns:
    An ``Example``.

  Raises:
    ValueError: if the answer is empty, question or answer contain the image
      token, or the template does not put the answer after the prompt.
  """
  if labels not in ('answer', 'full'):
    raise ValueError(f"labels is 'answer' or 'full', got {labels!r}.")
  if not row.answer.strip():
    raise ValueError(
        f'every row needs an answer to learn or to score; row {row.key!r} '
        'has an empty one. Drop the row or give its answer.'
    )
  tokenizer = processor.tokenizer
  prompt, full = _render(row, processor)
  begin = len(prompt)
  encoded = tokenizer(full, return_offsets_mapping=True)
  ids = np.asarray(encoded['input_ids'], np.int32)
  ends = np.asarray(encoded['offset_mapping'])[:, 1]
  answer = ends > begin  # special tokens have the empty span (0, 0)
  if labels == 'answer':
    if ids[-1] != tokenizer.eos_token_id:
      ids = np.append(ids, np.int32(tokenizer.eos_token_id))
      answer = np.append(answer, True)
    labelled = answer
  else:
    labelled = np.ones(len(ids), bool)
  image_id = image_token_id(processor)
  labelled = labelled & (ids != image_id)
  first = int(np.argmax(answer))
  repeats = np.where(ids == image_id, num_image_tokens(processor), 1)
  return Example(
      tokens=np.repeat(ids, repeats),
      labelled=np.repeat(labelled, repeats),
      prompt_length=int(repeats[:first].sum()),
      row=row,
  )


def pixels(image: np.ndarray, processor: Processor) -> np.ndarray:
  """Returns the pixel values of an RGB image, ``[3, height, width]``."""
  features = processor.image_processor(images=[image], return_tensors='np')
  return features['pixel_values'][0].astype(np.float32)


def num_image_tokens(processor: Processor) -> int:
  """Returns N, the tokens that one image takes."""
  crop = processor.image_processor.crop_size
  rows = crop['height'] // processor.patch_size
  columns = crop['width'] // processor.patch_size
  return rows * columns


def image_token_id(processor: Processor) -> int:
  """Returns the id of the image placeholder."""
  return processor.tokenizer.convert_tokens_to_ids(processor.image_token)


def _render(row: Row, processor: Processor) -> tuple[str, str]:
  """Renders the prompt, and the prompt with its answer."""
  for field, text in (('question', row.question), ('answer', row.answer)):
    if processor.image_token in text:
      raise ValueError(
          f'the {field} of row {row.key!r} contains {processor.image_token!r}; '
          'the placeholder is put in for each image. Remove it from the text.'
      )
  content = [{'type': 'text', 'text': row.question}]
  if row.image is not None:
    content = [{'type': 'image'}, *content]
  messages = [{'role': 'user', 'content': content}]
  answer = [{'type': 'text', 'text': row.answer}]
  template = processor.tokenizer.apply_chat_template
  prompt = template(messages, tokenize=False, add_generation_prompt=True)
  full = template(
      [*messages, {'role': 'assistant', 'content': answer}], tokenize=False
  ).rstrip()
  if not full.startswith(prompt) or row.answer.strip() not in full[
      len(prompt) :
  ]:
    raise ValueError(
        'the chat template must render the answer after the prompt; for row '
        f'{row.key!r} the prompt is {prompt!r} and the whole {full!r}. Give '
        'the tokenizer a chat template that extends its generation prompt.'
    )
  return prompt, full
