"""Asks a model questions, batch by batch, and records its answers."""

from collections.abc import Collection, Iterable, Iterator, Sequence
import contextlib

import numpy as np

from mmu_jax import sharding
from mmu_jax.data import row as row_lib
from mmu_jax.data.batches import batching
from mmu_jax.data.batches import packing
from mmu_jax.data.encoding.patches import bucket
from mmu_jax.data.encoding.processing import Example
from mmu_jax.errors import UserError
from mmu_jax.evaluation.asking import answers
from mmu_jax.evaluation.asking import decoding
from mmu_jax.evaluation.asking import together
from mmu_jax.evaluation.asking.answers import Answer
from mmu_jax.evaluation.asking.protocols import Protocol
from mmu_jax.evaluation.asking.protocols import Question
from mmu_jax.models import Model
from mmu_jax.typing import Batch
from mmu_jax.typing import Params


def predict(
  model: Model,
  params: Params,
  questions: Sequence[Question],
  encoder: batching.Encoder,
  *,
  protocol: Protocol,
  max_new_tokens: int,
  size: int,
  done: Collection[str] = (),
) -> Iterator[list[Answer]]:
  """Asks every question, batch by batch.

  Questions with options come after the others. Those about one picture share a
  row of a batch, where the picture is read once. All batches have one shape,
  large enough for every question, so answers do not depend on the questions
  that are already done.

  Args:
    model: model from ``models.build``.
    params: parameters of the model.
    questions: questions of one task.
    encoder: encoder of the questions.
    protocol: way to ask them.
    max_new_tokens: longest answer.
    size: B, questions a batch.
    done: keys of rows; a batch that has no others is left out.

  Yields:
    One answer record for each question of a batch.

  Raises:
    ValueError: if a prompt and its answer are longer than the model's context,
      where its config says so; before anything is asked.
    FloatingPointError: if logits are not finite; names the questions.
  """
  # No more questions in a row than leaves a row for every device.
  most_in_row = max(1, size // sharding.parts_here())
  has_options = lambda q: q.row.task == row_lib.CLASSIFICATION
  for chosen in (False, True):
    alike = [q for q in questions if has_options(q) == chosen]
    rows = together.rows_of(
      alike, protocol, encoder, most=most_in_row, new_tokens=max_new_tokens
    )
    most = max(map(len, rows), default=1)
    height = -(-size // most)
    while height % 2 == 0 and height // 2 >= len(rows) > 0:
      height //= 2  # a small task pads little, and has few shapes to compile
    chunks = [rows[i : i + height] for i in range(0, len(rows), height)]
    left = [
      chunk
      for chunk in chunks
      if any(q.row.key not in done for row in chunk for q in row)
    ]
    if not left:
      continue
    prompts = lambda row: _all(_prompt, row, protocol, encoder)
    given = lambda row: _all(_given, row, protocol, encoder)
    ask = _Stack(encoder, height, map(prompts, rows))
    score = _Stack(encoder, height, map(given, rows))
    check_length(model, max(ask.end + max_new_tokens, score.end))
    for chunk in left:
      said = _said(
        model,
        params,
        [_present(protocol.ask, row, encoder) for row in chunk],
        ask,
        max_new_tokens=max_new_tokens,
        prompts=most,
      )
      found = _likelihoods(
        model,
        params,
        [_present(protocol.answers, row, encoder) for row in chunk],
        score,
      )
      yield [
        answers.record(
          question, protocol, said.get((b, i)), found.get((b, i), ())
        )
        for b, row in enumerate(chunk)
        for i, question in enumerate(row)
      ]


def check_length(model: Model, length: int) -> None:
  """Raises ValueError if a model would see positions it was not trained on."""
  limit = model.config.text_config.max_position_embeddings
  if 0 < limit < length:
    raise UserError(
      f'a prompt with its answer has at most {limit} positions, the '
      "max_position_embeddings of the model's config.json; got "
      f'{length}. Set evaluation.shots to fewer, or lower '
      'evaluation.max_new_tokens; or use a model with a longer context.'
    )


class _Stack:
  """Makes batches of one static shape; an entry is a list of examples.

  Attributes:
    encoder: encoder of the examples.
    end: position behind the longest entry; 0 if there are none.
  """

  def __init__(
    self,
    encoder: batching.Encoder,
    size: int,
    entries: Iterable[Sequence[Example]],
  ):
    """Measures all entries, and keeps none of them."""
    self.encoder, self.end = encoder, 0
    self._size, longest, counted, room = size, 0, 0, 0
    for examples in entries:
      if examples:
        tokens, pictures = self._document(examples)
        longest = max(longest, len(tokens['tokens']))
        counted = max(counted, packing.num_counted(tokens))
        self.end = max(self.end, int(tokens['positions'].max()) + 1)
        room = max(room, encoder.room(pictures))
    self._shape = bucket(longest), encoder.pixel_shape(room)
    self._most_counted = bucket(counted)

  def batch(self, entries: Sequence[Sequence[Example]]) -> Batch:
    """The entries, one a row, packed; none of them empty.

    On the mesh that is set, if one is: each process makes its own rows.
    """
    rows = sharding.share(self._size)
    sequences = [
      [self._document(entries[row])] for row in rows if row < len(entries)
    ]
    counted = dict(most_counted=self._most_counted)
    made = self.encoder.batch(sequences, *self._shape, len(rows), **counted)
    return sharding.place_shared(made, self._size)

  def _document(self, examples):
    """Packs examples; a placeholder without a picture is a plain token."""
    tokens, pictures = self.encoder.document(examples)
    if not pictures:
      tokens['image_slots'] = np.full_like(tokens['image_slots'], -1)
    return tokens, pictures


def _prompt(question, protocol, encoder) -> list[Example]:
  """The prompt of a question, if its answer is generated."""
  asked = protocol.ask(question, encoder)
  return [asked.example] if asked else []


def _given(question, protocol, encoder) -> list[Example]:
  """The given answers of a question."""
  return protocol.answers(question, encoder)


def _all(of, row, protocol, encoder) -> list[Example]:
  """Prompts or given answers of all the questions of a row."""
  return [example for q in row for example in of(q, protocol, encoder)]


def _present(of, row, encoder):
  """Place in the row -> prompt or given answers, of questions with some."""
  return {i: x for i, q in enumerate(row) if (x := of(q, encoder))}


def _said(model, params, asked, stack, *, max_new_tokens, prompts):
  """Place in the chunk -> prompt and generated answer."""
  rows = {b: row for b, row in enumerate(asked) if row}
  if not rows:
    return {}
  examples = [[x.example for x in row.values()] for row in rows.values()]
  # Rows of one prompt are asked as always.
  several = {'prompts': prompts} if prompts > 1 else {}
  with _naming([[x.row.key for x in row] for row in examples]):
    texts = decoding.answer_texts(
      model,
      params,
      stack.batch(examples),
      stack.encoder.processor,
      max_new_tokens=max_new_tokens,
      **several,
    )
  return {
    (b, i): (x.text, text)
    for (b, row), of_row in zip(rows.items(), texts)
    for (i, x), text in zip(row.items(), of_row)
  }


def _likelihoods(model, params, given, stack):
  """Place in the chunk -> given answers, each with its nll."""
  rows = {b: row for b, row in enumerate(given) if row}
  if not rows:
    return {}
  examples = [[x for of in row.values() for x in of] for row in rows.values()]
  keys = [
    [of[0].row.key for of in row.values() for _ in of] for row in rows.values()
  ]
  with _naming(keys):
    nll = decoding.answer_nll(model, params, stack.batch(examples))
  found = {}
  for (b, row), values in zip(rows.items(), nll):
    rest = iter(values)
    for i, of in row.items():
      found[b, i] = [(x, float(next(rest))) for x in of]
    assert next(rest, None) is None, 'an answer has no question'
  return found


@contextlib.contextmanager
def _naming(keys: Sequence[Sequence[str]]) -> Iterator[None]:
  """Says which questions of a batch have logits that are not finite."""
  try:
    yield
  except decoding.NotFinite as error:
    bad = list(dict.fromkeys(keys[row][i] for row, i in error.places))
    raise FloatingPointError(
      'every logit must be finite, for a NaN has no likeliest token; the '
      f'logits of the questions {", ".join(bad[:8])} ({len(bad)} in all) are '
      'not. Look at these rows, or set config.model.dtype to float32; a model '
      'that diverged is to be trained again.'
    ) from error
