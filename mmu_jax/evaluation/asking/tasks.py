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

  Questions with options come after the others. All batches have one shape,
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
  has_options = lambda q: q.row.task == row_lib.CLASSIFICATION
  for chosen in (False, True):
    group = [q for q in questions if has_options(q) == chosen]
    chunks = [group[i : i + size] for i in range(0, len(group), size)]
    left = [c for c in chunks if any(q.row.key not in done for q in c)]
    if not left:
      continue
    ask = _Stack(encoder, size, (_prompts(q, protocol, encoder) for q in group))
    given = _Stack(encoder, size, (protocol.answers(q, encoder) for q in group))
    check_length(model, max(ask.end + max_new_tokens, given.end))
    for chunk in left:
      said = _said(
        model,
        params,
        _present(protocol.ask, chunk, encoder),
        ask,
        max_new_tokens=max_new_tokens,
      )
      found = _likelihoods(
        model, params, _present(protocol.answers, chunk, encoder), given
      )
      yield [
        answers.record(question, protocol, said.get(i), found.get(i, ()))
        for i, question in enumerate(chunk)
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


def _prompts(question, protocol, encoder) -> list[Example]:
  """The prompt of a question, if its answer is generated."""
  asked = protocol.ask(question, encoder)
  return [asked.example] if asked else []


def _present(of, chunk, encoder):
  """Place in the chunk -> prompt or given answers, of questions with some."""
  return {i: x for i, q in enumerate(chunk) if (x := of(q, encoder))}


def _said(model, params, asked, stack, *, max_new_tokens):
  """Place in the chunk -> prompt and generated answer."""
  if not asked:
    return {}
  with _naming([x.example.row.key for x in asked.values()]):
    texts = decoding.answer_texts(
      model,
      params,
      stack.batch([[x.example] for x in asked.values()]),
      stack.encoder.processor,
      max_new_tokens=max_new_tokens,
    )
  return {i: (x.text, text) for (i, x), text in zip(asked.items(), texts)}


def _likelihoods(model, params, given, stack):
  """Place in the chunk -> given answers, each with its nll."""
  if not given:
    return {}
  batch = stack.batch([*given.values()])
  with _naming([examples[0].row.key for examples in given.values()]):
    found = decoding.answer_nll(model, params, batch)
  return {
    i: [(x, float(value)) for x, value in zip(examples, nll, strict=True)]
    for (i, examples), nll in zip(given.items(), found)
  }


@contextlib.contextmanager
def _naming(keys: Sequence[str]) -> Iterator[None]:
  """Says which questions of a batch have logits that are not finite."""
  try:
    yield
  except decoding.NotFinite as error:
    bad = [keys[row] for row in error.rows]
    raise FloatingPointError(
      'every logit must be finite, for a NaN has no likeliest token; the '
      f'logits of the questions {", ".join(bad[:8])} ({len(bad)} in all) are '
      'not. Look at these rows, or set config.model.dtype to float32; a model '
      'that diverged is to be trained again.'
    ) from error
