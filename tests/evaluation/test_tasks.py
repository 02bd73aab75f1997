"""Every row is asked in its own way; every score says its n and interval."""

import numpy as np
import pytest

from mmu_jax.data.row import Row
from mmu_jax.evaluation import decoding
from mmu_jax.evaluation import tasks

ANSWER = 'Maria Lopez keeps a parrot.'
PETS = ('dog', 'parrot', 'cat')
OPTIONS = tuple(f'Maria Lopez keeps a {pet}.' for pet in PETS)


def _row(key, task='generation', person='p1', **more):
  return Row(
      key, f'Q {key}?', ANSWER, 'parrot', person=person, task=task, **more
  )


@pytest.fixture
def predict(monkeypatch):
  """Predictions of a model that says what it is told to."""

  def make(rows, texts=(), nll=()):
    asked = {}

    def generate(model, params, rows, encoder, **options):
      asked['generate'] = [row.key for row in rows], options
      return [texts[row.key] for row in rows]

    def option_nll(model, params, rows, encoder, **options):
      asked['option_nll'] = [row.key for row in rows], options
      return [np.asarray(nll[row.key]) for row in rows]

    monkeypatch.setattr(decoding, 'generate', generate)
    monkeypatch.setattr(decoding, 'option_nll', option_nll)
    found = tasks.predict(None, None, rows, None, max_new_tokens=9, size=4)
    return found, asked

  return make


def test_rows_are_asked_in_the_way_of_their_task_and_keep_their_order(predict):
  rows = [
      _row('a', 'classification', options=OPTIONS),
      _row('b'),
      _row('c', 'cloze'),
      _row('d', 'classification', options=OPTIONS),
  ]
  found, asked = predict(
      rows,
      texts={'b': ANSWER, 'c': 'It is a Parrot, I think.'},
      nll={'a': [3.0, 1.0, 2.0], 'd': [0.5, 1.0, 2.0]},
  )
  assert asked == {
      'generate': (['b', 'c'], {'max_new_tokens': 9, 'size': 4}),
      'option_nll': (['a', 'd'], {'size': 4}),
  }
  assert [p['key'] for p in found] == ['a', 'b', 'c', 'd']
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
  )
  same, near, other = found
  assert [p['correct'] for p in found] == [1, 0, 0]
  assert same['rougeL'] == 1
  assert near['rouge1'] == near['rougeL'] == pytest.approx(0.8)
  assert near['rouge2'] == pytest.approx(0.75)
  assert other['rougeL'] == 0 and 0 < near['bleu'] < 1


def test_a_cloze_answer_needs_the_fact_alone(predict):
  rows = [_row('yes', 'cloze'), _row('no', 'cloze')]
  found, _ = predict(rows, texts={'yes': 'a PARROT', 'no': 'Maria Lopez'})
  assert [p['correct'] for p in found] == [1, 0]
  assert 'rougeL' not in found[0]


def test_one_kind_of_rows_needs_the_other_not(predict):
  _, asked = predict([_row('b')], texts={'b': ''})
  assert set(asked) == {'generate'}
  options = _row('a', 'classification', options=OPTIONS)
  _, asked = predict([options], nll={'a': [1.0, 2.0, 3.0]})
  assert set(asked) == {'option_nll'}


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
      'run': 'ga', 'step': 60, 'task': 'forget_vqa', 'split': 'forget',
      'metric': 'cloze', 'n': 40,
  }  # fmt: skip


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
  results = tasks.summarize(
      generation + _scored([1, 1, 0], 'classification'),
      task='validation_retain_qa', run='r', step=3,
  )  # fmt: skip
  found = {r['metric']: (r['value'], r['n']) for r in results}
  assert found == {
      'exact_match': (0.5, 2), 'rouge1': (0.25, 2), 'rouge2': (0.125, 2),
      'rougeL': (0.0625, 2), 'bleu': (0.03125, 2), 'choice': (0.666667, 3),
  }  # fmt: skip
  assert {r['split'] for r in results} == {'retain'}
