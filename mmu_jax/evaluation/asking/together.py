"""Which questions share a row of a batch, so that their start is read once.

With 576 tokens a picture and thirty a question, the picture is nearly all of a
prompt; examples that every question stands behind are, too.
"""

from collections.abc import Sequence
from typing import NamedTuple

from mmu_jax.data.batches import batching
from mmu_jax.data.batches import packing
from mmu_jax.evaluation.asking.protocols import Protocol
from mmu_jax.evaluation.asking.protocols import Question

MOST = 8  # questions of a row: what they share then costs an eighth of it


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
  found: dict[tuple[str, ...], list[Question]] = {}
  for question in questions:
    found.setdefault(_beginning(question), []).append(question)
  if len(found) == len(questions):
    return [*found.values()]
  groups, lengths = [], []
  for group in found.values():
    made = _made(group, protocol, encoder)
    parts = [group] if made else [[question] for question in group]
    groups += parts
    lengths += [made or _made(part, protocol, encoder) for part in parts]
  largest = max(map(len, groups))
  number = min(
    range(1, min(MOST, most, largest) + 1),
    key=lambda n: _cost(groups, lengths, n, new_tokens),
  )
  return [
    group[i : i + number]
    for group in groups
    for i in range(0, len(group), number)
  ]


def _beginning(question: Question) -> tuple[str, ...]:
  """Picture and shots that a question stands behind; its own key for none."""
  row, shots = question.row, [shot.key for shot in question.shots]
  if row.picture is None and not shots:
    return ('', row.key)
  return (row.picture_key or '', *shots)


def _made(group, protocol, encoder) -> list[_Length]:
  """Lengths of the prompts and of the given answers; [] if they do not pack."""
  prompts = lambda q: [x.example for x in [protocol.ask(q, encoder)] if x]
  given = lambda q: protocol.answers(q, encoder)
  lengths = []
  for of in (prompts, given):
    made = [of(question) for question in group]
    every = [example for examples in made for example in examples]
    start = 0
    if len(every) > 1 and len(group) > 1:
      if not packing.can_share(every, encoder.image_token):
        return []
      start = packing.shared_prefix(every)
    own = [sum(len(x.tokens) - start for x in examples) for examples in made]
    lengths.append(_Length(start, max(own)))
  return lengths


def _cost(groups, lengths, number: int, new_tokens: int) -> int:
  """Tokens of all rows, padding too, with so many questions in each."""
  rows = sum(-(-len(group) // number) for group in groups)
  length = lambda of: max(
    start + min(number, len(group)) * own
    for group, (start, own) in zip(groups, of)
  )
  asked = any(prompts.own for prompts, _ in lengths)
  new = number * new_tokens if asked else 0
  return rows * (sum(map(length, zip(*lengths))) + new)
