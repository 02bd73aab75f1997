"""Asks a model questions, batch by batch, and records its answers."""

from collections.abc import Collection, Iterable, Iterator, Sequence
import contextlib
from typing import NamedTuple

import numpy as np

from mmu_jax import sharding
from mmu_jax.data import row as row_lib
from mmu_jax.data.batches import batching
from mmu_jax.data.encoding.patches import bucket
from mmu_jax.data.encoding.processing import Example
from mmu_jax.errors import UserError
from mmu_jax.evaluation.asking import answers
from mmu_jax.evaluation.asking import decoding
from mmu_jax.evaluation.asking import together
from mmu_jax.evaluation.asking.answers import Answer
from mmu_jax.evaluation.asking.protocols import Asked
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
    entries = lambda row: [_entry(q, protocol, encoder) for q in row]
    how = dict(max_new_tokens=max_new_tokens)
    stack = _Stack(encoder, height, map(entries, rows), **how)
    check_length(model, stack.end)
    for chunk in left:
      found = _answers(model, params, [*map(entries, chunk)], stack, **how)
      yield [
        answers.record(question, protocol, *of_question)
        for row, of_row in zip(chunk, found)
        for question, of_question in zip(row, of_row)
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


class _Entry(NamedTuple):
  """The prompt of a question, if its answer is generated, and given answers."""

  asked: Asked | None
  given: list[Example]


def _entry(question, protocol, encoder) -> _Entry:
  """The examples of a question."""
  asked = protocol.ask(question, encoder)
  given = protocol.answers(question, encoder)
  if asked is None and not given:
    raise UserError(
      f'{question.row.key} is neither continued nor scored by the protocol '
      f'{protocol.name!r}. A choice needs options.'
    )
  return _Entry(asked, given)


def _prompts(row: Iterable[_Entry]) -> list[Example]:
  """The prompts of a row of questions."""
  return [entry.asked.example for entry in row if entry.asked]


def _given(row: Iterable[_Entry]) -> list[Example]:
  """The given answers of a row of questions."""
  return [example for entry in row for example in entry.given]


class _Stack:
  """Makes batches of one static shape, of entries.

  Attributes:
    encoder: encoder of the examples.
    end: position behind the longest question and answer; 0 if there are none.
  """

  def __init__(
    self,
    encoder: batching.Encoder,
    size: int,
    rows: Iterable[Sequence[_Entry]],
    *,
    max_new_tokens: int,
  ):
    """Measures all rows, and keeps none of them."""
    self.encoder, self.end, self._most_prompts = encoder, 0, 0
    self._size, longest, counted, room = size, 0, 0, 0
    for row in rows:
      made = self._packed(row)
      self._most_prompts = max(self._most_prompts, len(made.prompts))
      longest = max(longest, made.num_tokens)
      counted = max(counted, made.num_counted)
      room = max(room, encoder.room(made.pictures))
      behind = lambda of: 1 + max((x.positions.max() for x in of), default=-1)
      last = behind(_prompts(row)) + max_new_tokens * bool(made.prompts)
      self.end = max(self.end, int(last), int(behind(_given(row))))
    self._shape = bucket(longest), encoder.pixel_shape(room)
    self._most_counted = bucket(counted)

  def batch(self, rows: Sequence[Sequence[_Entry]]) -> Batch:
    """The rows, packed.

    On the mesh that is set, if one is: each process makes its own.
    """
    mine = sharding.share(self._size)
    packed = [self._packed(rows[i]) for i in mine if i < len(rows)]
    sequences = [row.documents for row in packed]
    counted = dict(most_counted=self._most_counted)
    made = self.encoder.batch(sequences, *self._shape, len(mine), **counted)
    if self._most_prompts:
      made['prompts'] = np.full((len(mine), self._most_prompts), -1, np.int32)
      for places, row in zip(made['prompts'], packed):
        places[: len(row.prompts)] = row.prompts
    return sharding.place_shared(made, self._size)

  def _packed(self, row):
    """A row of questions, packed."""
    return together.pack_row(_prompts(row), _given(row), self.encoder)


def _answers(model, params, rows, stack, *, max_new_tokens):
  """For each question of each row, the last two arguments of a record."""
  batch, processor = stack.batch(rows), stack.encoder.processor
  texts = [()] * len(rows)
  if 'prompts' not in batch:
    scores = decoding.answer_scores(params, batch, forward=model.forward)
  else:
    tokens, scores = decoding.continue_and_score(
      params,
      batch,
      model=model,
      max_new_tokens=max_new_tokens,
      stop_ids=processor.stop_ids,
      repetition_penalty=processor.repetition_penalty,
    )
    with _naming([[x.row.key for x in _prompts(row)] for row in rows]):
      texts = decoding.answer_texts(tokens, processor)
  keys = lambda row: [of.given[0].row.key for of in row for _ in of.given]
  with _naming([*map(keys, rows)]):
    nll = decoding.answer_nll(scores)
  return [list(_of_row(*of_row)) for of_row in zip(rows, texts, nll)]


def _of_row(row, texts, nll):
  """Prompt and generated answer, if any; given answers, each with its nll."""
  texts, nll = iter(texts), iter(nll)
  for asked, given in row:
    said = (asked.text, next(texts)) if asked else None
    yield said, [(x, float(next(nll))) for x in given]
  assert next(nll, None) is None, 'an answer has no question'


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
