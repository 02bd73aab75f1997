"""Utility and the distance to the retrained model, from predictions."""

import numpy as np
import pytest

from mmu_jax import metrics
from mmu_jax.evaluation.report import table
from mmu_jax.evaluation.scoring import comparison

RUN = dict(run='ga', step=9)


def _predictions(kind, number=20, **fields):
  """Answers about as many people; a field is a function of the number."""
  return [
    {
      'key': f'{kind}/{i}',
      'task_kind': kind,
      'person': f'p{i}',
      'image_key': None,
      **{name: f(i) for name, f in fields.items()},
    }
    for i in range(number)
  ]


def _tasks():
  half = lambda i: i % 2
  return {
    'forget_vqa': _predictions('cloze', correct=lambda i: 0),
    'forget_vqa_holdout': _predictions('cloze', correct=lambda i: 0),
    'forget_qa': _predictions('cloze', correct=half),
    'retain_vqa': _predictions(
      'generation',
      correct=half,
      rougeL=lambda i: 0.25 + half(i) / 2,
      truth_ratio_forget=half,
      truth_ratio_retain=lambda i: i % 4 / 3,
    ),
    'real_vqa': _predictions(
      'classification', accuracy=lambda i: int(i % 4 == 0), choice=half
    ),
  }


def test_utility_is_the_harmonic_mean_of_what_was_to_stay():
  """Not of forget VQA, and of one metric for each kind of question."""
  (result,) = comparison.utility(_tasks(), **RUN)
  kept = [0.5, 0.5, 0.5, 0.25]  # cloze, rougeL, truth ratio, accuracy
  assert result['value'] == pytest.approx(metrics.harmonic_mean(kept), abs=1e-6)
  assert result['low'] < result['value'] < result['high']
  assert (result['n'], result['metric'], result['task']) == (
    4,
    'model_utility',
    'all',
  )


def test_one_lost_ability_is_all_utility():
  tasks = _tasks()
  for p in tasks['real_vqa']:
    p['accuracy'] = 0
  (result,) = comparison.utility(tasks, **RUN)
  assert result['value'] == result['low'] == 0
  assert 0.05 < result['high'] < 0.5  # 0 right of 20 is up to .16


@pytest.mark.parametrize('right', [0, 1])
def test_a_few_equal_answers_say_little_of_utility(right):
  """A width of 0 would claim that three answers know it all."""
  tasks = {
    task: _predictions('cloze', 3, correct=lambda i: right)
    for task in ('retain_qa', 'real_vqa')
  }
  (result,) = comparison.utility(tasks, **RUN)
  assert result['low'] <= result['value'] == right <= result['high']
  low, high = metrics.bootstrap_interval([right] * 3)
  assert (result['low'], result['high']) == pytest.approx((low, high), 1e-5)


@pytest.mark.parametrize('number', [1, 2, 3, 5])
def test_utility_lies_within_its_interval(number):
  tasks = {task: found[:number] for task, found in _tasks().items()}
  (result,) = comparison.utility(tasks, **RUN)
  assert result['low'] <= result['value'] <= result['high']
  assert result['low'] < result['high']


def test_the_people_of_a_split_are_drawn_once_for_all_its_tasks():
  """By name: their order and number in a task do not matter."""
  found = _predictions('cloze', 12, correct=lambda i: i % 3 > 0)
  (one,) = comparison.utility({'retain_qa': found}, **RUN)
  others = found[::-1] + found[5:] + found[:5]  # each person twice
  (two,) = comparison.utility({'retain_qa': found, 'retain_vqa': others}, **RUN)
  for field in ('value', 'low', 'high'):
    assert one[field] == pytest.approx(two[field])


def test_without_such_scores_there_is_no_utility():
  assert not comparison.utility({'forget_vqa': _tasks()['forget_vqa']}, **RUN)


def _choices(nll):
  return _predictions('classification', option_nll=lambda i: nll)


def test_models_that_choose_alike_do_not_diverge():
  nll = [1.0, 2.0, 0.5, 3.0]
  (same,) = comparison.against(
    _choices(nll), _choices([x + 5 for x in nll]), task='real_qa', **RUN
  )
  assert same['metric'] == 'js_divergence' and same['n'] == 20
  assert same['value'] == pytest.approx(0, abs=1e-6)
  (other,) = comparison.against(
    _choices([0.0, 50, 50, 50]),
    _choices([50, 0.0, 50, 50]),
    task='retain_qa',
    **RUN,
  )
  assert other['value'] == pytest.approx(1) and other['run'] == 'ga'


def _ratios(seed, shift=0.0, number=60):
  x = np.exp(np.random.default_rng(seed).normal(shift, 1, number))
  return _predictions('generation', number, truth_ratio=lambda i: float(x[i]))


def test_forget_quality_tells_who_still_knows():
  gold = _ratios(0)
  quality = lambda found: comparison.against(
    found, gold, task='forget_vqa', **RUN
  )[0]
  forgot, knows = quality(_ratios(1)), quality(_ratios(2, shift=-2))
  assert forgot['metric'] == 'forget_quality' and forgot['n'] == 60
  assert forgot['value'] > 0.05 > 1e-6 > knows['value']
  for result in (forgot, knows):
    assert 0 <= result['low'] <= result['value'] <= result['high'] <= 1


def test_a_small_p_value_is_shown_by_its_power():
  found = _ratios(0, number=200), _ratios(1, shift=-2, number=200)
  (result,) = comparison.against(*found, task='forget_qa', **RUN)
  assert 0 < result['low'] <= result['value'] < 1e-9
  shown = table.number(result['value'], result['metric'])
  assert 'e-' in shown and float(shown) > 0


def test_forget_quality_is_of_the_forget_set_alone():
  assert not comparison.against(
    _ratios(1), _ratios(0), task='retain_vqa', **RUN
  )


def test_rows_that_only_one_model_was_asked_do_not_count():
  half = _ratios(0)[:30]
  (result,) = comparison.against(_ratios(1), half, task='forget_qa', **RUN)
  assert result['n'] == 30
  assert not comparison.against(_ratios(1), [], task='forget_qa', **RUN)
