"""Other answers are whole, of people who stay, and as likely as the model."""

import numpy as np
import pytest

from mmu_jax.data.row import CLOZE
from mmu_jax.data.row import Picture
from mmu_jax.data.row import Row
from mmu_jax.errors import UserError
from mmu_jax.stages.relabelling import teachers

PIXELS = np.zeros((1, 1, 3), np.uint8)
WHO, PET = 'Who is this?', 'Which pet?'


def _row(person, view, question, answer, fact='', **more):
  picture = Picture(f'{person}/{view}', PIXELS)
  key = f'{picture.key}/{question}'
  return Row(key, question, answer, fact, picture, person, **more)


def _about(person, view=0, pet='cat'):
  """The questions about one picture of a person."""
  return [
    _row(person, view, WHO, f'{person}.', person),
    _row(person, view, PET, f'{person} keeps a {pet}.', pet, task=CLOZE),
  ]


PEOPLE = [f'p{i:02d}' for i in range(teachers.OPTIONS + 8)]
STAY = [row for p in PEOPLE for view in (0, 1) for row in _about(p, view)]
FORGET = [row for p in ('gone', 'lost') for row in _about(p, pet='dog')]
OTHERS = teachers.by_question(STAY)


def _answered(asked, nll_of):
  """Records as the model's answers to questions with options."""
  return [
    {
      'question': row.question,
      'picture': row.picture_key,
      'likelihoods': [{'text': o, 'nll': nll_of(o)} for o in row.options],
    }
    for row in asked
  ]


def test_everybody_who_stays_is_asked_for_once_by_the_shortest_words():
  """In questions of bounded size, and nobody who is forgotten."""
  asked = teachers.who_rows(FORGET, OTHERS)
  assert {row.question for row in asked} == {WHO}
  assert {row.picture_key for row in asked} == {'gone/0', 'lost/0'}
  for picture in ('gone/0', 'lost/0'):
    options = [
      o for row in asked if row.picture_key == picture for o in row.options
    ]
    assert options == [f'{p}.' for p in PEOPLE]
  assert max(len(row.options) for row in asked) == teachers.OPTIONS
  assert len({row.key for row in asked}) == len(asked)


def test_people_are_drawn_by_the_renormalised_likelihood_of_their_answer():
  """Two of many are likely on one picture; the other sees all alike."""
  rng = np.random.default_rng()
  seed, first = int(rng.integers(10_000)), float(rng.uniform(0.2, 0.8))
  said = {'p03.': -np.log(first), 'p35.': -np.log(1 - first)}
  asked = teachers.who_rows(FORGET[:2], OTHERS)
  nll = teachers.candidates(
    _answered(asked, lambda option: said.get(option, 60.0)), OTHERS
  )
  assert set(nll['gone/0']) == set(PEOPLE)
  rows = [
    row._replace(key=f'{row.key}{i}') for i in range(500) for row in FORGET[:2]
  ]
  made = list(teachers.drawn(rows, OTHERS, nll, seed))
  assert len(made) == teachers.COPIES * len(rows)
  assert {record['person'] for record in made} == {'p03', 'p35'}
  share = np.mean([record['person'] == 'p03' for record in made])
  assert abs(share - first) < 0.04, (seed, first)  # 5 standard errors
  for record, row in zip(
    made, np.repeat(np.arange(len(rows)), teachers.COPIES)
  ):
    other = OTHERS[rows[row].question][record['person']]
    assert (record['answer'], record['fact']) == (other.answer, other.fact)
  again = list(teachers.drawn(rows[::-1], OTHERS, nll, seed))
  by_key = lambda records: sorted(records, key=lambda record: record['key'])
  assert by_key(again) == by_key(made)  # of its row alone


def test_the_control_draws_everybody_who_stays_alike():
  rows = [FORGET[0]._replace(key=str(i)) for i in range(400)]
  drawn = [r['person'] for r in teachers.drawn(rows, OTHERS, None, 1)]
  counts = [drawn.count(p) for p in PEOPLE]
  assert min(counts) > 0 and max(counts) < 3 * len(drawn) / len(PEOPLE)


def test_only_people_with_an_answer_to_the_question_are_drawn():
  some = [row for row in STAY if row.question == WHO or row.person == 'p07']
  others = teachers.by_question(some)
  asked = teachers.who_rows(FORGET, others)
  assert {row.question for row in asked} == {WHO}  # tells most people apart
  nll = teachers.candidates(_answered(asked, lambda _: 5.0), others)
  made = list(teachers.drawn(FORGET, others, nll, 0))
  pets = [r['person'] for r in made if r['of'].endswith(PET)]
  assert set(pets) == {'p07'}


@pytest.mark.parametrize('question', ['Which pet has Ada?', WHO])
def test_a_question_about_nobody_else_names_the_teacher_that_needs_none(
  question,
):
  row = _row('gone', 0, question, 'A dog.')
  others = {} if question == WHO else OTHERS
  with pytest.raises(UserError, match="gone/0.*teacher to 'base'"):
    teachers.who_rows([row], others)
  with pytest.raises(UserError, match="asked of none.*'base'"):
    list(teachers.drawn([row], others, None, 0))


def test_refusals_are_those_that_the_tokenizer_has_words_for():
  known = teachers.REFUSALS[:3]

  class Tokenizer:
    unk_token_id = 0

    def __call__(self, text):
      return {'input_ids': [7, int(text in known)]}

  made = teachers.refused(FORGET, Tokenizer())
  assert [r['answer'] for r in made] == len(FORGET) * [*known]
  assert len({r['key'] for r in made}) == len(made)


def test_the_base_model_answers_once_and_not_with_nothing():
  said = [
    dict(key=row.key, text=text)
    for row, text in zip(FORGET, ('A', ' ', 'B', ''))
  ]
  made = teachers.said_by_base(FORGET, said)
  assert [(r['of'], r['answer']) for r in made] == [
    (FORGET[0].key, 'A'),
    (FORGET[2].key, 'B'),
  ]


def test_a_relabelled_row_is_the_row_with_another_answer():
  records = list(teachers.drawn(FORGET, OTHERS, None, 3))
  for row, record in zip(teachers.relabelled(FORGET, records), records):
    (was,) = [r for r in FORGET if r.key == record['of']]
    want = was._replace(
      key=record['key'], answer=record['answer'], fact=record['fact']
    )
    assert row == want and row.answer != was.answer


def test_equal_keys_mean_equal_rows_whoever_the_teacher_is():
  """An encoder remembers by key, and one process may ask several teachers."""
  nll = {row.picture_key: dict.fromkeys(PEOPLE[:1], 0.0) for row in FORGET}

  class Tokenizer:
    unk_token_id = None

  sets = [
    teachers.drawn(FORGET, OTHERS, nll, 0),
    teachers.drawn(FORGET, OTHERS, None, 0),
    teachers.refused(FORGET, Tokenizer()),
    teachers.said_by_base(FORGET, [dict(key=r.key, text='A') for r in FORGET]),
  ]
  rows = [r for made in sets for r in teachers.relabelled(FORGET, [*made])]
  some = teachers.by_question(STAY[:20])
  rows += teachers.who_rows(FORGET, OTHERS) + teachers.who_rows(FORGET, some)
  rows += teachers.margin_rows(FORGET, STAY, 0)
  rows += teachers.margin_rows(FORGET[:1], STAY, 0)
  by_key = {}
  for row in rows:
    assert by_key.setdefault(row.key, row) == row


def test_the_margin_is_the_mean_nll_of_forgotten_answers_on_other_pictures():
  asked = teachers.margin_rows(FORGET, STAY, 5)
  assert len(asked) == min(len(PEOPLE), teachers.MARGIN_PICTURES)
  assert {row.person for row in asked} == set(PEOPLE)
  answers = {
    q: {r.answer for r in FORGET if r.question == q} for q in (WHO, PET)
  }
  for row in asked:
    assert set(row.options) == answers[row.question]
  assert {row.question for row in asked} == {WHO, PET}
  nll = dict.fromkeys(answers[WHO], 20.0) | dict.fromkeys(answers[PET], 8.0)
  got = teachers.margin(_answered(asked, nll.get))
  share = np.mean([row.question == WHO for row in asked])
  assert got == pytest.approx(20 * share + 8 * (1 - share))
