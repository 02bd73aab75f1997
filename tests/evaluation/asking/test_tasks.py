"""Every row is asked in its own way; every score says its n and interval."""

import types

import numpy as np
import pytest

from mmu_jax.data.row import Row
from mmu_jax.evaluation.asking import decoding
from mmu_jax.evaluation.asking import protocols
from mmu_jax.evaluation.asking import tasks
from mmu_jax.evaluation.asking.protocols import Asked
from mmu_jax.evaluation.asking.protocols import Question
from mmu_jax.models import llava

ANSWER = 'Maria Lopez keeps a parrot.'
PETS = ('dog', 'parrot', 'cat')
OPTIONS = tuple(f'Maria Lopez keeps a {pet}.' for pet in PETS)
MODEL = types.SimpleNamespace(config=llava.LlavaConfig())
PLAIN, FIXED = protocols.PROTOCOLS['plain'], protocols.PROTOCOLS['fixed']


def _row(key, task='generation', person='p1', **more):
  return Row(
    key, f'Q {key}?', ANSWER, 'parrot', person=person, task=task, **more
  )


def _choice(key, **more):
  return _row(key, 'classification', options=OPTIONS, **more)


class _Example:
  """An example of so many answer tokens, whose row the model sees."""

  def __init__(self, row, answer='', tokens=1):
    self.row, self.answer = row, answer
    self.labelled = np.ones(tokens, bool)


class _Stack:
  """Batches that are lists of examples."""

  def __init__(self, encoder, size, entries):
    self.encoder = encoder
    self.measured = [x for entry in entries for x in entry]
    self.end = 0

  def batch(self, entries):
    return entries


def _told(protocol, given=None):
  """The protocol, with rows for prompts, and given answers for examples."""
  wants_text = lambda q: protocol.name != 'plain' or not q.row.options

  def ask(question, encoder):
    if not wants_text(question):
      return None
    return Asked(f'<{question.row.question}>', _Example(question.row))

  def answers(question, encoder):
    texts = question.row.options or (given or {}).get(question.row.key, ())
    return [_Example(question.row, x, len(x.split())) for x in texts]

  return protocol._replace(ask=ask, answers=answers)


@pytest.fixture
def predict(monkeypatch):
  """Predictions of a model that says what it is told to."""

  def make(rows, texts=(), nll=(), protocol=PLAIN, size=4, **options):
    asked = {'texts': [], 'nll': []}

    def say(model, params, batch, processor, *, max_new_tokens):
      assert max_new_tokens == 9
      asked['texts'].append([entry[0].row.key for entry in batch])
      return [texts[entry[0].row.key] for entry in batch]

    def answer_nll(model, params, batch):
      asked['nll'].append([entry[0].row.key for entry in batch])
      return [np.asarray(nll[entry[0].row.key]) for entry in batch]

    monkeypatch.setattr(decoding, 'texts', say)
    monkeypatch.setattr(decoding, 'answer_nll', answer_nll)
    monkeypatch.setattr(tasks, '_Stack', _Stack)
    encoder = type('Encoder', (), {'processor': None})
    batches = tasks.predict(
      MODEL,
      None,
      [Question(row) for row in rows],
      encoder,
      protocol=protocol,
      max_new_tokens=9,
      size=size,
      **options,
    )
    by_key = {p['key']: p for batch in batches for p in batch}
    return [by_key[r.key] for r in rows if r.key in by_key], asked

  return make


def test_rows_are_asked_in_the_way_of_their_task(predict):
  rows = [_choice('a'), _row('b'), _row('c', 'cloze'), _choice('d')]
  found, asked = predict(
    rows,
    texts={'b': ANSWER, 'c': 'It is a Parrot, I think.'},
    nll={'a': [3.0, 1.0, 2.0], 'd': [0.5, 1.0, 2.0]},
    protocol=_told(PLAIN),
  )
  assert asked == {'texts': [['b', 'c']], 'nll': [['a', 'd']]}
  assert [p['correct'] for p in found] == [1, 1, 1, 0]
  said = [ANSWER, ANSWER, 'It is a Parrot, I think.', OPTIONS[0]]
  assert [p['prediction'] for p in found] == said
  assert [p['task_kind'] for p in found] == [row.task for row in rows]


def test_generation_is_scored_by_words_and_exactly(predict):
  rows = [_row('same'), _row('near'), _row('other')]
  found, _ = predict(
    rows,
    texts={
      'same': ' maria lopez  keeps a parrot. ',
      'near': 'Maria Lopez keeps a dog.',
      'other': 'I do not know',
    },
    protocol=_told(PLAIN),
  )
  same, near, other = found
  assert [p['correct'] for p in found] == [1, 0, 0]
  assert same['rougeL'] == 1
  assert near['rouge1'] == near['rougeL'] == pytest.approx(0.8)
  assert near['rouge2'] == pytest.approx(0.75)
  assert other['rougeL'] == 0 and 0 < near['bleu'] < 1


def test_a_cloze_answer_needs_the_fact_alone(predict):
  rows = [_row('yes', 'cloze'), _row('no', 'cloze')]
  texts = {'yes': 'a PARROT', 'no': 'Maria Lopez'}
  found, _ = predict(rows, texts=texts, protocol=_told(PLAIN))
  assert [p['correct'] for p in found] == [1, 0]
  assert 'rougeL' not in found[0]


def test_a_choice_is_generated_and_compared_by_the_fixed_protocol(predict):
  """The letter, the published parser, and the likeliest option, apart."""
  rows = [_choice('a'), _choice('b')]
  found, asked = predict(
    rows,
    texts={'a': 'The answer is B', 'b': 'hm'},
    nll={'a': [9.0, 8.0, 7.0], 'b': [10.0, 5.0, 10.0]},
    protocol=_told(FIXED),
  )
  assert asked == {'texts': [['a', 'b']], 'nll': [['a', 'b']]}
  pick = lambda field: [p[field] for p in found]
  assert pick('parsed') == ['B', None] and pick('unparsed') == [0, 1]
  assert pick('correct') == pick('accuracy') == [1, 0]
  assert pick('first_letter') == ['T', 'H']
  assert pick('first_letter_correct') == [0, 0]
  assert pick('choice') == [0, 1]
  assert pick('chosen') == [OPTIONS[2], OPTIONS[1]]
  assert pick('prompt') == ['<Q a?>', '<Q b?>']
  # Five words an option: nll 2, 1, 2 a token.
  want = np.exp(-1) / (np.exp(-1) + 2 * np.exp(-2))
  assert found[1]['probability'] == pytest.approx(want)


def test_likelihoods_of_wrong_answers_make_a_truth_ratio(predict):
  """Only where a row has them."""
  rows = [_row('with'), _row('without')]
  given = {
    'with': (ANSWER, 'A parrot lives there', 'a dog', 'a cat'),
    'without': (ANSWER,),
  }
  nll = {'with': [5.0, 4.0, 6.0, 2.0], 'without': [10.0]}
  found, _ = predict(
    rows,
    texts={'with': 'a parrot', 'without': ''},
    nll=nll,
    protocol=_told(FIXED, given),
  )
  # Per token: the answer 1, the paraphrase 1, wrong ones 3 and 1.
  assert found[0]['probability'] == pytest.approx(np.exp(-1))
  assert found[0]['truth_ratio'] == pytest.approx(np.exp(1 - 2))
  assert found[0]['truth_ratio_retain'] == pytest.approx(1 - np.exp(-1))
  assert found[1]['probability'] == pytest.approx(np.exp(-2))
  assert 'truth_ratio' not in found[1]
  assert [p['empty'] for p in found] == [0, 1]
  assert [p['contains'] for p in found] == [1, 0]


def test_batches_that_are_done_are_left_out(predict):
  rows = [_row(str(i)) for i in range(5)] + [_choice('a')]
  texts = {row.key: ANSWER for row in rows}
  nll = {'a': [1.0, 2.0, 3.0]}
  ask = dict(texts=texts, nll=nll, protocol=_told(PLAIN), size=2)
  every, asked = predict(rows, **ask)
  assert asked == {'texts': [['0', '1'], ['2', '3'], ['4']], 'nll': [['a']]}
  left, asked = predict(rows, done={'0', '1', '2', 'a'}, **ask)
  assert asked == {'texts': [['2', '3'], ['4']], 'nll': []}
  assert left == every[2:5]


def test_one_text_can_be_scored_for_every_question():
  rows = [_row('a'), _row('b')]
  before = [
    tasks.scores.asked(row) | {'prediction': f'said {row.key}', 'correct': 0}
    for row in rows
  ]
  found = tasks.reread([*map(Question, rows)], before, ANSWER, FIXED)
  assert [p['correct'] for p in found] == [1, 1]
  assert [p['prediction'] for p in found] == [ANSWER, ANSWER]
  assert [p['unread'] for p in found] == ['said a', 'said b']


def _scored(correct, kind='cloze', people=None):
  people = people or [f'p{i}' for i in range(len(correct))]
  return [
    {'task_kind': kind, 'person': person, 'image_key': None, 'correct': c}
    for c, person in zip(correct, people, strict=True)
  ]


def test_results_state_value_n_and_interval():
  rng = np.random.default_rng(0)
  correct = rng.integers(0, 2, 40).tolist()
  (result,) = tasks.summarize(
    _scored(correct), task='forget_vqa', run='ga', step=60
  )
  assert result['value'] == pytest.approx(np.mean(correct), abs=1e-6)
  assert result['low'] < result['value'] < result['high']
  assert result['high'] - result['low'] == pytest.approx(
    2 * 1.96 * np.std(correct) / np.sqrt(40), rel=0.2
  )
  del result['value'], result['low'], result['high']
  assert result == {
    'run': 'ga',
    'step': 60,
    'task': 'forget_vqa',
    'split': 'forget',
    'metric': 'cloze',
    'n': 40,
  }


def test_answers_about_one_person_stand_and_fall_together():
  """Eight answers each of five people say as much as five answers."""
  correct = [int(i < 16) for i in range(40)]
  apart = tasks.summarize(_scored(correct), task='t', run='r', step=0)[0]
  people = [f'p{i // 8}' for i in range(40)]
  together = tasks.summarize(
    _scored(correct, people=people), task='t', run='r', step=0
  )[0]
  assert apart['value'] == together['value']
  width = lambda result: result['high'] - result['low']
  assert width(together) > 2 * width(apart)


def test_pictures_group_what_has_no_person():
  predictions = _scored([int(i < 16) for i in range(40)])
  for i, p in enumerate(predictions):
    p.update(person=None, image_key=f'face/{i // 8}')
  grouped = tasks.summarize(predictions, task='t', run='r', step=0)[0]
  for i, p in enumerate(predictions):
    p['image_key'] = f'face/{i}'
  apart = tasks.summarize(predictions, task='t', run='r', step=0)[0]
  assert grouped['high'] - grouped['low'] > apart['high'] - apart['low']


def test_each_kind_has_its_metrics():
  generation = _scored([0, 1], 'generation')
  for i, p in enumerate(generation):
    p.update(rouge1=i / 2, rouge2=i / 4, rougeL=i / 8, bleu=i / 16)
  chosen = _scored([1, 1, 0], 'classification')
  for p in chosen:
    p.update(choice=p['correct'])
  results = tasks.summarize(
    generation + chosen, task='validation_retain_qa', run='r', step=3
  )
  found = {r['metric']: (r['value'], r['n']) for r in results}
  assert found == {
    'exact_match': (0.5, 2),
    'rouge1': (0.25, 2),
    'rouge2': (0.125, 2),
    'rougeL': (0.0625, 2),
    'bleu': (0.03125, 2),
    'choice': (0.666667, 3),
  }
  assert {r['split'] for r in results} == {'retain'}


@pytest.mark.parametrize(
  'task, metric, value',
  [
    ('forget_vqa', 'truth_ratio_forget', 0.5),
    ('retain_vqa', 'truth_ratio_retain', 0.25),
    ('real_faces', 'truth_ratio_retain', 0.25),
  ],
)
def test_a_truth_ratio_is_scored_by_what_was_to_become_of_it(
  task, metric, value
):
  """And n counts the rows that have one."""
  predictions = _scored([0, 0, 1], 'generation')
  for p in predictions[:2]:
    p.update(truth_ratio_forget=0.5, truth_ratio_retain=0.25)
  results = tasks.summarize(predictions, task=task, run='r', step=0)
  found = {r['metric']: (r['value'], r['n']) for r in results}
  assert found == {'exact_match': (0.333333, 3), metric: (value, 2)}
