"""Questions that begin alike share a row, and are answered as if alone."""

import numpy as np
import pytest
from small_worlds import NEW_TOKENS
from small_worlds import TASKS

from mmu_jax.data.encoding import processing
from mmu_jax.evaluation.asking import decoding
from mmu_jax.evaluation.asking import protocols
from mmu_jax.evaluation.asking import tasks as tasks_lib
from mmu_jax.evaluation.asking import together
from mmu_jax.evaluation.asking.protocols import Question

pytestmark = pytest.mark.usefixtures('quick_compile')
PLAIN = protocols.PROTOCOLS['plain']


def _questions(tasks, pictures, each, options=False):
  """So many questions about each of some pictures."""
  groups = {}
  for row in tasks[TASKS['pictures']]:
    if bool(row.options) == options:
      groups.setdefault(row.picture_key, []).append(row)
  groups = [rows for rows in groups.values() if len(rows) >= each]
  assert len(groups) >= pictures
  return [Question(r) for rows in groups[:pictures] for r in rows[:each]]


def _rows_of(questions, encoder, **changes):
  how = dict(most=64, new_tokens=NEW_TOKENS) | changes
  rows = together.rows_of(questions, PLAIN, encoder, **how)
  assert {q.row.key for row in rows for q in row} == {
    q.row.key for q in questions
  }
  return rows


def test_questions_about_one_picture_share_a_row(tasks, encoder):
  questions = _questions(tasks, 2, 4)
  mixed = questions[::2] + questions[1::2]
  rows = _rows_of(mixed, encoder)
  assert [len({q.row.picture_key for q in row}) for row in rows] == [1, 1]
  assert [len(row) for row in rows] == [4, 4]
  assert [len(row) for row in _rows_of(questions, encoder, most=3)] == [2] * 4


def test_texts_and_few_alike_have_rows_of_their_own(tasks, encoder):
  texts = [Question(row) for row in tasks[TASKS['text']][:6]]
  assert [len(row) for row in _rows_of(texts, encoder)] == [1] * 6
  # Rows of four would be mostly empty.
  few = texts * 5 + _questions(tasks, 1, 4)
  few = [
    q._replace(row=q.row._replace(key=f'{q.row.key}/{i}'))
    for i, q in enumerate(few)
  ]
  assert {len(row) for row in _rows_of(few, encoder)} == {1}


def test_questions_behind_the_same_shots_share_a_row(tasks, encoder):
  rows = tasks[TASKS['text']]
  questions = [Question(row, tuple(rows[:3])) for row in rows[3:7]]
  assert [len(row) for row in _rows_of(questions, encoder)] == [4]
  questions[3] = questions[3]._replace(shots=tuple(rows[1:3]))
  assert [len(row) for row in _rows_of(questions, encoder)] == [3, 1]


def test_questions_that_come_before_their_picture_share_nothing(tasks, encoder):
  questions = _questions(tasks, 1, 4)

  def ask(question, encoder):
    asked = PLAIN.ask(question, encoder)
    backwards = asked.example.tokens[::-1].copy()
    return asked._replace(example=asked.example._replace(tokens=backwards))

  protocol = PLAIN._replace(ask=ask)
  rows = together.rows_of(questions, protocol, encoder, most=8, new_tokens=9)
  assert [len(row) for row in rows] == [1] * 4


def test_a_prompt_with_a_given_answer_takes_no_tokens(tasks, encoder):
  question, *others = _questions(tasks, 1, 3)
  example = encoder.example(question.row)
  prompt = processing.prompt_of(example)
  pack = lambda *of: together.pack_row(*of, encoder)
  last = len(prompt.tokens) - 1
  for asked, ends in (([prompt], [last]), ([], [])):
    row = pack(asked, [example])
    assert (row.num_tokens, row.prompts) == (len(example.tokens), ends)
    assert row.num_counted == example.labelled.sum()
  assert pack([], []) == ([], [])
  # Another question's answer: the prompt is a branch, and comes first.
  other = encoder.example(others[0].row)
  row = pack([prompt], [other])
  ((document, _),) = row.documents
  assert row.prompts == [last] and row.pictures == [*example.pictures]
  assert set(document['branches'][document['weights'] > 0]) == {2}
  # About another picture: a document of its own.
  far = encoder.example(_questions(tasks, 2, 3)[-1].row)
  row = pack([prompt], [far])
  assert [len(x['tokens']) for x, _ in row.documents] == [
    len(prompt.tokens),
    len(far.tokens),
  ]
  assert row.prompts == [last] and len(row.pictures) == 2
  # Two prompts, of which the second stands in the second branch.
  row = pack([prompt, processing.prompt_of(other)], [example, other])
  ((document, _),) = row.documents
  for end, x in zip(row.prompts, (example, other)):
    assert document['targets'][end] == x.tokens[x.prompt_length]
    assert document['weights'][end] == 1 and document['weights'][end - 1] == 0


@pytest.mark.parametrize('options', [False, True])
def test_shared_rows_give_the_answers_and_likelihoods_of_single_ones(
  options, tasks, encoder, model, params, monkeypatch
):
  """With pictures, and without beside them."""
  # Beside four options a question, rows for three would not pay.
  texts = [] if options else tasks[TASKS['text']][:2]
  questions = _questions(tasks, 3, 3, options) + [Question(r) for r in texts]

  def answer():
    found = tasks_lib.predict(
      model,
      params,
      questions,
      encoder,
      protocol=PLAIN,
      max_new_tokens=NEW_TOKENS,
      size=6,
    )
    return {a['key']: a for batch in found for a in batch}

  batches, name = [], 'answer_scores' if options else 'continue_and_score'
  answers_of = getattr(decoding, name)
  monkeypatch.setattr(
    decoding,
    name,
    lambda p, b, **how: batches.append(b) or answers_of(p, b, **how),
  )
  together_found = answer()
  shared, batches[:] = list(batches), []
  monkeypatch.setattr(together, 'MOST', 1)
  alone = answer()
  assert len(shared) < len(batches) or len(shared[0]['tokens']) < 6
  assert together_found.keys() == alone.keys()
  for key, want in alone.items():
    got = together_found[key]
    given = lambda answer, of: [x[of] for x in answer.get('likelihoods', ())]
    assert got.get('text') == want.get('text')
    assert given(got, 'text') == given(want, 'text')
    np.testing.assert_allclose(given(got, 'nll'), given(want, 'nll'), rtol=1e-4)
