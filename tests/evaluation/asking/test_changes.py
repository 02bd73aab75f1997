"""Changed questions give nothing away, and say only words that are known."""

import numpy as np
import pytest
import small_worlds

from mmu_jax.data import datasets
from mmu_jax.data import pictured
from mmu_jax.data.row import Picture
from mmu_jax.data.row import Row
from mmu_jax.evaluation.asking import changes
from mmu_jax.metrics import contains

TEXT = ('reworded', 'named', 'leading')


@pytest.fixture(scope='module')
def people():
  return datasets.load('people', 0, **small_worlds.SMALL)


@pytest.fixture(scope='module')
def aids(people):
  tokenizer = people.processor.tokenizer
  unknown = tokenizer.unk_token_id
  rows = [r for split in people.train.values() for r in split if r.person]
  text, shown = {}, {}
  for row in rows:
    if row.task == 'generation' and row.picture is None:
      text.setdefault(row.person, []).append(row)
  for row in pictured.learned(people, {'retain': ('retain',)}, 'retain'):
    shown.setdefault(row.question, []).append(row)
  knows = lambda words: unknown not in tokenizer('\n' + words)['input_ids']
  strangers = pictured.stranger_pictures(people)
  return changes.Aids(people.names, text, shown, strangers, knows, 0)


@pytest.fixture(scope='module')
def made(people, aids):
  rows = pictured.unseen(people, 'forget')
  of = lambda case: changes.change_all(rows, case, changes.CASES[case], aids)
  return rows, {case: of(case) for case in changes.CASES}


def test_every_case_asks_every_question_and_none_gives_its_fact_away(made):
  rows, found = made
  keys = set()
  for case, questions in found.items():
    assert len(questions) == len(rows) == 12, case
    for row, question in zip(rows, questions):
      keys.add(question.row.key)
      assert (question.row.answer, question.row.fact) == (row.answer, row.fact)
      said = [question.row.question]
      said += [t for s in question.shots for t in (s.question, s.answer)]
      assert not any(contains(text, row.fact) for text in said)
  assert len(keys) == len(rows) * len(found)  # answers are found by key


def test_the_tokenizer_knows_every_word(made, people, aids):
  _, found = made
  for case in TEXT:
    for question in found[case]:
      assert aids.knows(question.row.question), question.row.question
  assert found['clean'][0].row.question == made[0][0].question
  wordings = {
    q.row.question.replace(r.question, '')
    for q, r in zip(found['reworded'], made[0])
  }
  assert len(wordings) >= 3  # in turn


def test_each_case_adds_what_it_is_called_after(made, people):
  rows, found = made
  for i, row in enumerate(rows):
    name = people.names[row.person]
    assert name in found['named'][i].row.question
    statement = found['leading'][i].row.question.removeprefix(row.question)
    assert statement.strip().startswith(name)
    (other,) = found['after text'][i].shots
    assert (other.person, other.picture) == (row.person, None)
    shots = found['few-shot'][i].shots
    assert len({s.person for s in shots} | {row.person}) == 3
    assert all(s.question == row.question and s.picture for s in shots)


def test_the_control_of_a_case_differs_in_its_picture_alone(made, people):
  rows, found = made
  ours = {
    row.picture_key
    for task in people.tasks.values()
    for row in task.rows
    if row.person
  }
  for case in ('clean', 'named', 'leading', 'after text'):
    for question, control in zip(found[case], found[f'{case}, stranger']):
      assert control.row.picture_key not in ours
      assert control.shots == question.shots
      assert control.row._replace(key='', picture=None) == (
        question.row._replace(key='', picture=None)
      )


def test_strangers_take_turns(made, aids):
  row, faces = made[0][0], [Picture(f'face/{i}', None) for i in range(3)]
  change, several = (
    changes.CASES['clean, stranger'],
    aids._replace(strangers=faces),
  )
  shown = [change(row, i, several).row.picture_key for i in range(4)]
  assert shown == ['face/0', 'face/1', 'face/2', 'face/0']


def test_distorted_questions_differ_in_their_picture_alone(made):
  rows, found = made
  for kind in changes.DISTORTIONS:
    changed = found[kind][0].row
    assert changed._replace(key='', picture=None) == (
      rows[0]._replace(key='', picture=None)
    )
    assert changed.picture_key != rows[0].picture_key
    before, after = (np.asarray(r.picture.image) for r in (rows[0], changed))
    assert before.shape == after.shape and (before != after).any()


def test_without_known_words_names_or_others_there_is_no_question(aids):
  robot = Row(
    'k',
    'Which robot is it?',
    'It is Cog.',
    'Cog',
    person='Cog',
    image=np.zeros((2, 2, 3), np.uint8),
  )
  told = Row('t', 'What is Cog?', 'Cog is red.', 'red', person='Cog')
  knows = lambda words: True
  mine = changes.Aids({'Cog': 'Cog'}, {'Cog': [told]}, {}, (), knows, 0)
  cases = {case: f(robot, 0, mine) for case, f in changes.CASES.items()}
  for case in ('named', 'leading', 'after text', 'few-shot'):
    assert cases[case] is None, case  # each would say the name
  assert cases['clean, stranger'] is None  # there is no picture of any
  assert cases['reworded'].row.question == changes.REWORDED[1].format(
    question=robot.question
  )
  mute = mine._replace(knows=lambda words: False)
  assert changes.CASES['reworded'](robot, 0, mute) is None
  no_facts = robot._replace(fact='')
  assert not changes.gives_away(no_facts, 'Cog') and changes.gives_away(
    no_facts, 'Yes, it is cog. '
  )
