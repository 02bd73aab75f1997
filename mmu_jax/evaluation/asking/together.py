"""What shares a row of a batch, so that its start is read once.

With 576 tokens a picture and thirty a question, the picture is nearly all of a
prompt; examples that every question stands behind are, too. A question and its
given answers always share a row.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from mmu_jax.data.batches import batching
from mmu_jax.data.batches import packing
from mmu_jax.data.batches.encoder import Documents
from mmu_jax.data.encoding.processing import Example
from mmu_jax.data.row import Picture
from mmu_jax.evaluation.asking.protocols import Protocol
from mmu_jax.evaluation.asking.protocols import Question

MOST = 8  # questions of a row: what they share then costs an eighth of it


class PackedRow(NamedTuple):
  """A row of a batch.

  Attributes:
    documents: documents, each with its pictures.
    prompts: places in the row of the last tokens of prompts to continue.
  """

  documents: Documents
  prompts: list[int]

  @property
  def num_tokens(self) -> int:
    """Tokens of the row."""
    return sum(len(tokens['tokens']) for tokens, _ in self.documents)

  @property
  def num_counted(self) -> int:
    """Tokens of given answers."""
    return sum(packing.num_counted(tokens) for tokens, _ in self.documents)

  @property
  def pictures(self) -> list[Picture]:
    """Pictures of the row, in their order."""
    return [picture for _, pictures in self.documents for picture in pictures]


class _Length(NamedTuple):
  """Tokens that a group has in common, and the most of one question beyond."""

  shared: int
  own: int


def rows_of(
  questions: Sequence[Question],
  protocol: Protocol,
  encoder: batching.Encoder,
  *,
  most: int,
  new_tokens: int,
) -> list[list[Question]]:
  """Puts questions that begin alike into rows, as many as cost the least.

  Questions begin alike if they are about one picture, or stand behind the same
  shots, and their prompts and given answers can be packed; others have a row
  each. All rows have room for as many questions as the fullest one, so with few
  such questions among many a row holds one.

  Args:
    questions: questions of one task.
    protocol: way to ask them.
    encoder: encoder of the questions.
    most: most questions of a row.
    new_tokens: longest answer.

  Returns:
    Every question once, rows in the order of their first.
  """
  asked = any(protocol.ask(question, encoder) for question in questions)
  found: dict[tuple[str, ...], list[Question]] = {}
  for question in questions:
    found.setdefault(_beginning(question), []).append(question)
  if len(found) == len(questions):
    return [*found.values()]
  groups, lengths = [], []
  for group in found.values():
    made = _length(group, protocol, encoder)
    parts = [group] if made else [[question] for question in group]
    groups += parts
    lengths += [made or _length(part, protocol, encoder) for part in parts]
  largest = max(map(len, groups))
  number = min(
    range(1, min(MOST, most, largest) + 1),
    key=lambda n: _cost(groups, lengths, n, new_tokens * asked),
  )
  return [
    group[i : i + number]
    for group in groups
    for i in range(0, len(group), number)
  ]


def pack_row(
  prompts: Sequence[Example],
  given: Sequence[Example],
  encoder: batching.Encoder,
) -> PackedRow:
  """Packs prompts to continue, and given answers to score, into a row.

  They are one document, or one of each kind where that is shorter or they do
  not begin alike. A prompt that a given answer stands behind takes no tokens of
  its own: it is continued from there, and does not see that answer.

  Args:
    prompts: prompts.
    given: given answers, with their prompts.
    encoder: encoder of the examples.
  """
  documents, places, start = [], {}, 0
  for examples in _documents(prompts, given, encoder.image_token):
    tokens, pictures = encoder.document(examples)
    if not pictures:  # a placeholder without one is a plain token
      tokens['image_slots'] = np.full_like(tokens['image_slots'], -1)
    for example, end in zip(examples, packing.prompt_ends(examples)):
      places.setdefault(_prompt(example), start + end)
    documents.append((tokens, pictures))
    start += len(tokens['tokens'])
  return PackedRow(documents, [places[_prompt(x)] for x in prompts])


def _documents(prompts, given, image_token) -> list[list[Example]]:
  """The examples of each document of a row."""
  answered = set(map(_prompt, given))
  bare = [x for x in prompts if _prompt(x) not in answered]
  documents = [examples for examples in (bare, [*given]) if examples]
  every = [*bare, *given]
  apart = sum(map(_num_tokens, documents))
  if _can_pack(every, image_token) and _num_tokens(every) <= apart:
    return [every] if every else []
  return documents


def _prompt(example: Example) -> Any:
  """What stands before an answer: equal for equal prompts."""
  tokens = example.tokens[: example.prompt_length].tolist()
  return tuple(tokens), tuple(picture.key for picture in example.pictures)


def _can_pack(examples: Sequence[Example], image_token: int) -> bool:
  """Whether a document can be made of these examples."""
  return len(examples) < 2 or packing.can_share(examples, image_token)


def _num_tokens(examples: Sequence[Example]) -> int:
  """Tokens of a document."""
  shared = _shared(examples)
  return shared + sum(len(x.tokens) - shared for x in examples)


def _shared(examples: Sequence[Example]) -> int:
  """Tokens of a document that its examples have in common."""
  return packing.shared_prefix(examples) if len(examples) > 1 else 0


def _beginning(question: Question) -> tuple[str, ...]:
  """Picture and shots that a question stands behind; its own key for none."""
  row, shots = question.row, [shot.key for shot in question.shots]
  if row.picture is None and not shots:
    return ('', row.key)
  return (row.picture_key or '', *shots)


def _length(group, protocol, encoder) -> _Length | None:
  """Length of a group's row; None if its questions do not pack."""
  asked = [protocol.ask(question, encoder) for question in group]
  prompts = [[x.example] if x else [] for x in asked]
  given = [protocol.answers(question, encoder) for question in group]
  flat = lambda of: [example for examples in of for example in examples]
  token = encoder.image_token
  documents = _documents(flat(prompts), flat(given), token)
  if len(group) > 1 and not all(_can_pack(x, token) for x in documents):
    return None
  behind = {id(x): _shared(part) for part in documents for x in part}
  own = [
    sum(len(x.tokens) - behind[id(x)] for x in flat(of) if id(x) in behind)
    for of in zip(prompts, given)
  ]
  return _Length(sum(map(_shared, documents)), max(own))


def _cost(groups, lengths, number: int, new_tokens: int) -> int:
  """Tokens of all rows, padding too, with so many questions in each."""
  rows = sum(-(-len(group) // number) for group in groups)
  length = max(
    shared + min(number, len(group)) * own
    for group, (shared, own) in zip(groups, lengths)
  )
  return rows * (length + number * new_tokens)
