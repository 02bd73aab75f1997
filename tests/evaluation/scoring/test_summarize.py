"""Every average says its n and its interval, over people."""

import answered
import numpy as np
import pytest

from mmu_jax.evaluation.scoring import summarize

TASK = answered.task('forget_vqa')


def _cloze(correct, people=None):
  people = people or [f'p{i}' for i in range(len(correct))]
  return [
    answered.cloze(c, str(i), person=person)
    for i, (c, person) in enumerate(zip(correct, people, strict=True))
  ]


def _rows(answers, task=TASK, run='ga', step=60):
  found = summarize.collect(answers, task)
  return summarize.summarize(found, task=task, run=run, step=step)


def _row(answers, metric):
  (row,) = [row for row in _rows(answers) if row['metric'] == metric]
  return row


def test_results_state_value_n_and_interval():
  correct = np.random.default_rng(0).integers(0, 2, 40).tolist()
  result = _row(_cloze(correct), 'cloze')
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
    'modality': 'vqa',
    'role': 'forget',
    'holdout': False,
    'headline': False,
    'metric': 'cloze',
    'n': 40,
  }


def test_answers_about_one_person_stand_and_fall_together():
  """Eight answers each of five people say as much as five answers."""
  correct = [int(i < 16) for i in range(40)]
  apart = _row(_cloze(correct), 'cloze')
  people = [f'p{i // 8}' for i in range(40)]
  together = _row(_cloze(correct, people), 'cloze')
  assert apart['value'] == together['value']
  width = lambda result: result['high'] - result['low']
  assert width(together) > 2 * width(apart)


def test_pictures_group_answers_about_nobody():
  answers = _cloze([int(i < 16) for i in range(40)])
  named = lambda name: [
    a | {'person': None, 'picture': name(i)} for i, a in enumerate(answers)
  ]
  grouped = _row(named(lambda i: f'face/{i // 8}'), 'cloze')
  apart = _row(named(lambda i: f'face/{i}'), 'cloze')
  assert grouped['high'] - grouped['low'] > apart['high'] - apart['low']


def test_a_metric_counts_the_answers_that_have_it():
  answers = [
    answered.ratio(0.25, 'a'),
    answered.ratio(0.75, 'b'),
    answered.answer('c', text='no'),
    answered.choice([2, 1, 3], 'd'),
  ]
  found = {r['metric']: (r['value'], r['n']) for r in _rows(answers)}
  assert found['exact_match'] == (0.666667, 3)
  assert found['truth_ratio_forget'] == (0.5, 2)
  assert found['choice'] == (1, 1)
  assert 'cloze' not in found and 'accuracy' not in found


@pytest.mark.parametrize(
  'task, metric, value',
  [
    ('forget_vqa', 'truth_ratio_forget', 0.25),
    ('forget_qa', 'truth_ratio_forget', 0.25),
    ('retain_vqa', 'truth_ratio_retain', 0.75),
    ('real_faces', 'truth_ratio_retain', 0.75),
  ],
)
def test_a_truth_ratio_is_scored_by_what_is_wanted_of_it(task, metric, value):
  rows = _rows([answered.ratio(0.25)], answered.task(task))
  found = {r['metric']: r['value'] for r in rows if 'truth' in r['metric']}
  assert found == {metric: value}


def test_a_small_number_is_not_0():
  row = summarize.result('ga', 1, TASK, 'm', 1.23456789e-9, (0.0, 1e-8), 3)
  assert (row['value'], row['high']) == (1.23457e-09, 1e-08)
