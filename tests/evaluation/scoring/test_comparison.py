"""Utility and the distance to the retrained model."""

import answered
import numpy as np
import pytest

from mmu_jax import metrics
from mmu_jax.evaluation.report import table
from mmu_jax.evaluation.scoring import comparison
from mmu_jax.evaluation.scoring.summarize import Values

RUN = dict(run='ga', step=9)
HALF = [0, 1] * 10


def _values(values):
  """Scores of as many people, p0 and on."""
  return Values(list(values), [f'p{i}' for i in range(len(values))])


def _collected():
  named = {
    'forget_vqa': {'cloze': [0] * 20},
    'forget_vqa_holdout': {'cloze': [0] * 20},
    'forget_qa': {'cloze': HALF},
    'retain_vqa': {
      'exact_match': [1] * 20,
      'rougeL': [0.25, 0.75] * 10,
      'truth_ratio_retain': [0, 1 / 3, 2 / 3, 1] * 5,
    },
    'real_vqa': {'accuracy': [1, 0, 0, 0] * 5, 'choice': HALF},
  }
  return [
    (answered.task(name), {m: _values(v) for m, v in found.items()})
    for name, found in named.items()
  ]


def test_utility_is_the_harmonic_mean_of_what_was_to_stay():
  """Not of forget VQA, and of one metric for each kind of question."""
  (result,) = comparison.model_utility(_collected(), **RUN)
  kept = [0.5, 0.5, 0.5, 0.25]  # cloze, rougeL, truth ratio, accuracy
  assert result['value'] == pytest.approx(metrics.harmonic_mean(kept), abs=1e-6)
  assert result['low'] < result['value'] < result['high']
  assert (result['n'], result['metric']) == (4, 'model_utility')
  assert result['task'] == result['split'] == 'all'


def test_what_is_to_be_kept_is_said_by_the_task_and_not_by_its_name():
  scores = {'cloze': _values(HALF)}
  for role, n in (('keep', 2), ('forget', 1)):
    tasks = answered.task('forget_vqa', role), answered.task('retain_qa')
    rows = comparison.model_utility([(task, scores) for task in tasks], **RUN)
    assert [row['n'] for row in rows] == [n]


def test_one_lost_ability_is_all_utility():
  *others, (task, _) = _collected()
  lost = {'accuracy': _values([0] * 20)}
  (result,) = comparison.model_utility([*others, (task, lost)], **RUN)
  assert result['value'] == result['low'] == 0
  assert 0.05 < result['high'] < 0.5  # 0 right of 20 is up to .16


@pytest.mark.parametrize('right', [0, 1])
def test_a_few_equal_answers_say_little_of_utility(right):
  """A width of 0 would claim that three answers know it all."""
  collected = [
    (answered.task(task), {'cloze': _values([right] * 3)})
    for task in ('retain_qa', 'real_vqa')
  ]
  (result,) = comparison.model_utility(collected, **RUN)
  assert result['low'] <= result['value'] == right <= result['high']
  low, high = metrics.bootstrap_interval([right] * 3)
  assert (result['low'], result['high']) == pytest.approx((low, high), 1e-5)


@pytest.mark.parametrize('number', [1, 2, 3, 5])
def test_utility_lies_within_its_interval(number):
  first = lambda found: {
    m: Values(v.values[:number], v.groups[:number]) for m, v in found.items()
  }
  collected = [(task, first(found)) for task, found in _collected()]
  (result,) = comparison.model_utility(collected, **RUN)
  assert result['low'] <= result['value'] <= result['high']
  assert result['low'] < result['high']


def test_the_people_of_a_split_are_drawn_once_for_all_its_tasks():
  """By name: their order and number in a task do not matter."""
  found = _values([int(i % 3 > 0) for i in range(12)])
  join = lambda x: x[::-1] + x[5:] + x[:5]  # each person twice
  others = Values(join(found.values), join(found.groups))
  qa, vqa = answered.task('retain_qa'), answered.task('retain_vqa')
  (one,) = comparison.model_utility([(qa, {'cloze': found})], **RUN)
  both = [(qa, {'cloze': found}), (vqa, {'cloze': others})]
  (two,) = comparison.model_utility(both, **RUN)
  for field in ('value', 'low', 'high'):
    assert one[field] == pytest.approx(two[field])


def test_without_such_scores_there_is_no_utility():
  assert not comparison.model_utility(_collected()[:1], **RUN)


def _choices(nll):
  return [answered.choice(nll, str(i)) for i in range(20)]


def _against(found, gold, task):
  return comparison.against(found, gold, task=answered.task(task), **RUN)


def test_models_that_choose_alike_do_not_diverge():
  nll = [1.0, 2.0, 0.5]
  (same,) = _against(_choices(nll), _choices([x + 5 for x in nll]), 'real_qa')
  assert same['metric'] == 'js_divergence' and same['n'] == 20
  assert same['value'] == pytest.approx(0, abs=1e-6)
  apart = _choices([0.0, 50, 50]), _choices([50, 0.0, 50])
  (other,) = _against(*apart, 'retain_qa')
  assert other['value'] == pytest.approx(1) and other['run'] == 'ga'


def _ratios(seed, shift=0.0, number=60):
  x = np.exp(np.random.default_rng(seed).normal(shift, 1, number))
  return [answered.ratio(float(x[i]), str(i)) for i in range(number)]


def test_forget_quality_tells_who_still_knows():
  gold = _ratios(0)
  quality = lambda found: _against(found, gold, 'forget_vqa')[0]
  forgot, knows = quality(_ratios(1)), quality(_ratios(2, shift=-2))
  assert forgot['metric'] == 'forget_quality' and forgot['n'] == 60
  assert forgot['value'] > 0.05 > 1e-6 > knows['value']
  for result in (forgot, knows):
    assert 0 <= result['low'] <= result['value'] <= result['high'] <= 1


def test_a_small_p_value_is_shown_by_its_power():
  found = _ratios(0, number=200), _ratios(1, shift=-2, number=200)
  (result,) = _against(*found, 'forget_qa')
  assert 0 < result['low'] <= result['value'] < 1e-9
  shown = table.number(result['value'], result['metric'])
  assert 'e-' in shown and float(shown) > 0


def test_forget_quality_is_of_the_forget_set_alone():
  assert not _against(_ratios(1), _ratios(0), 'retain_vqa')


def test_rows_that_only_one_model_was_asked_do_not_count():
  half = _ratios(0)[:30]
  (result,) = _against(_ratios(1), half, 'forget_qa')
  assert result['n'] == 30
  assert not _against(_ratios(1), [], 'forget_qa')
