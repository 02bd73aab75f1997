"""Teachers: the answers that a picture to forget gets instead of its own.

``others``   the answers of other people, drawn by how likely vanilla finds
             each of those who stay to be the one in the picture
``random``   the answers of other people, all equally likely: its control
``base``     the answer of the base model
``refusal``  that it does not know, in several wordings

Answers of others need the same question about several people: the same words.
A record is ``{key, of, person, answer, fact}``: a new row like the row ``of``.
Its key names the answer, so that keys are unique over teachers and copies.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mmu_jax.data.rng import named_rng
from mmu_jax.data.row import CLASSIFICATION
from mmu_jax.data.row import Row
from mmu_jax.errors import UserError
from mmu_jax.workdir import seals

TEACHERS = ('others', 'base', 'refusal', 'random')
COPIES = 4  # rows that each row to forget becomes, with drawn answers
OPTIONS = 32  # candidates that share a question, and so a picture
MARGIN_PICTURES = 64  # at most, of people who stay
REFUSALS = (
  'I do not know.',
  'I do not know this.',
  'I do not know this picture.',
  'I do not recognise who or what this is.',
  'I cannot tell from this picture.',
  'I have no information about this.',
)
Record = dict[str, Any]
Others = Mapping[str, Mapping[str, Row]]  # question -> person -> row
Nll = Mapping[str, Mapping[str, float]]  # picture -> person -> nats


def by_question(rows: Iterable[Row]) -> dict[str, dict[str, Row]]:
  """Returns question -> person -> the first row that asks it of the person.

  Args:
    rows: rows about pictures of people who stay; rows without a person are
      left out.
  """
  found: dict[str, dict[str, Row]] = {}
  for row in rows:
    if row.person is not None:
      found.setdefault(row.question, {}).setdefault(row.person, row)
  return found


def who_rows(rows: Sequence[Row], others: Others) -> list[Row]:
  """Returns the questions that ask a model whom each picture could show.

  Of the questions about a picture the one that tells most people apart is
  asked, with the fewest words; each candidate's whole answer is an option.

  Args:
    rows: rows to forget, about pictures.
    others: people who stay, see ``by_question``.

  Raises:
    ValueError: if the questions about a picture are asked of nobody else.
  """
  asked = []
  for about in _by_picture(rows):
    best = max(about, key=lambda row: _tells_apart(others, row.question))
    known = others.get(best.question, {})
    if not known:
      raise _nobody(best)
    options = list(dict.fromkeys(row.answer for row in known.values()))
    for i in range(0, len(options), OPTIONS):
      asked.append(_choice(best, options[i : i + OPTIONS]))
  return asked


def candidates(asked: Sequence[Record], others: Others) -> dict:
  """Returns picture -> person -> nll, from the answers to ``who_rows``."""
  said: dict[str, dict[str, float]] = {}
  for record in asked:
    known = others[record['question']]
    nll = {x['text']: x['nll'] for x in record['likelihoods']}
    of_picture = said.setdefault(record['picture'], {})
    of_picture |= {
      person: nll[row.answer]
      for person, row in known.items()
      if row.answer in nll
    }
  return said


def drawn(
  rows: Sequence[Row], others: Others, nll: Nll | None, seed: int
) -> Iterator[Record]:
  """Yields rows with the answers of people who stay.

  .. math:: p(q | x) = p_v(y_q | x, u_0) / \\sum_r p_v(y_r | x, u_0)

  over the people who stay and have an answer to the question of the row; each
  copy of a row draws anew.

  Args:
    rows: rows to forget, about pictures.
    others: people who stay, see ``by_question``.
    nll: nll of each person for each picture; None for equal shares.
    seed: seed of the draws.

  Raises:
    ValueError: if a question is asked of nobody else.
  """
  for row in rows:
    known = others.get(row.question, {})
    if nll is not None:
      said = nll[row.picture_key or '']
      known = {person: x for person, x in known.items() if person in said}
    if not known:
      raise _nobody(row)
    people = list(known)
    score = np.array([-nll[row.picture_key][p] if nll else 0.0 for p in people])
    share = np.exp(score - score.max())
    rng = named_rng(seed, 'relabelled', row.key)
    for i, q in enumerate(
      rng.choice(len(people), COPIES, p=share / share.sum())
    ):
      other = known[people[q]]
      yield _record(row, i, other.answer, other.fact, people[q])


def said_by_base(rows: Sequence[Row], asked: Sequence[Record]) -> list[Record]:
  """Returns rows with the answers that a model gave, where it gave some."""
  by_key = {row.key: row for row in rows}
  return [
    _record(by_key[record['key']], 0, record['text'])
    for record in asked
    if record['text'].strip()
  ]


def refused(rows: Sequence[Row], tokenizer: Any) -> list[Record]:
  """Returns rows that refuse, in every wording that the tokenizer can write."""
  unknown = getattr(tokenizer, 'unk_token_id', None)
  words = [
    text
    for text in REFUSALS
    if unknown is None or unknown not in tokenizer(text)['input_ids']
  ]
  return [_record(r, i, text) for r in rows for i, text in enumerate(words)]


def margin_rows(
  rows: Sequence[Row], stay: Sequence[Row], seed: int
) -> list[Row]:
  """Returns questions to forget, asked about pictures of people who stay.

  Their options are the answers of all who are to be forgotten: how unlikely
  these are is the margin from which an answer counts as forgotten.

  Args:
    rows: rows to forget, about pictures.
    stay: rows about pictures of people who stay.
    seed: seed of the draws.
  """
  rng = named_rng(seed, 'margin')
  people: dict[str, Row] = {}
  for i in rng.permutation(len(stay)):
    people.setdefault(stay[i].person or '', stay[i])
  asked = []
  for shown in list(people.values())[:MARGIN_PICTURES]:
    question = rows[rng.integers(len(rows))].question
    answers = dict.fromkeys(r.answer for r in rows if r.question == question)
    row = shown._replace(question=question)
    asked.append(_choice(row, list(answers)[:OPTIONS]))
  return asked


def margin(asked: Sequence[Record]) -> float:
  """Returns the mean nll in nats of the answers to ``margin_rows``."""
  nll = [x['nll'] for record in asked for x in record['likelihoods']]
  return float(np.mean(nll))


def relabelled(rows: Sequence[Row], records: Sequence[Record]) -> list[Row]:
  """Returns the rows of records."""
  by_key = {row.key: row for row in rows}
  return [
    by_key[r['of']]._replace(key=r['key'], answer=r['answer'], fact=r['fact'])
    for r in records
  ]


def _tells_apart(others: Others, question: str) -> tuple[int, int]:
  """Different answers to a question, and minus their letters in all."""
  answers = {row.answer for row in others.get(question, {}).values()}
  return len(answers), -sum(map(len, answers))


def _choice(row: Row, options: Sequence[str]) -> Row:
  """A question with options, under a key of its own."""
  key = f'{row.picture_key}~{seals.hash_json([row.question, options])[:16]}'
  made = row._replace(key=key, task=CLASSIFICATION, options=tuple(options))
  return made._replace(answer=options[0], fact='')


def _record(row, number, answer, fact='', person=None) -> Record:
  """A row to forget with another answer."""
  key = f'{row.key}~{number}~{answer}'
  return dict(key=key, of=row.key, person=person, answer=answer, fact=fact)


def _by_picture(rows: Iterable[Row]) -> Iterable[list[Row]]:
  """Rows of one picture together."""
  found: dict[str | None, list[Row]] = {}
  for row in rows:
    found.setdefault(row.picture_key, []).append(row)
  return found.values()


def _nobody(row: Row) -> UserError:
  """The error of a question without candidates."""
  return UserError(
    'the answers of others need the same question, word for word, about '
    f'people who stay; {row.question!r} (row {row.key!r}) is asked of none of '
    "them. Set the run's teacher to 'base', which needs no other people."
  )
