"""Sentences say what the numbers say, also of failure."""

import re

import pytest
from shown import benchmark_row
from shown import clear
from shown import mllmu
from shown import people
from shown import SCORES

from mmu_jax.evaluation.report import scored
from mmu_jax.evaluation.report import summary


def test_the_first_two_sentences_say_what_was_asked_and_what_happened():
  asked, happened, *rest = summary.headline(people(), people=6)
  assert 'asked to forget 6 people' in asked
  assert 'no longer recognises them' in happened and 'it kept' in happened
  for figure in ('5% right, 97% before, 0%', '100% right, 100% before'):
    assert figure in happened
  assert '.90, against .92 before and .92' in rest[0]
  assert 'cannot tell it from chance' in rest[1]
  assert 'mmunlearner is nearest' in rest[2]


@pytest.mark.parametrize(
  'holdout, text, words',
  [
    (0.02, 0.60, 'no longer recognises them .*, but it lost much of'),
    (0.30, 0.99, 'mostly stopped recognising them .*, and it kept'),
    (0.70, 0.95, 'still recognises them in part .*, and it lost a little'),
    (0.95, 1.00, 'still recognises them .*, but it kept'),
  ],
)
def test_failure_is_said_as_plainly_as_success(holdout, text, words):
  values = (holdout, holdout, text, 0.9, 1, 0.7, 1, 0.9)
  said = summary.headline(people(SCORES | {'mmunlearner': values}))
  assert re.search(words, said[1])
  assert any('so something is left' in sentence for sentence in said)


def test_the_place_of_the_main_method_is_told_when_another_is_nearer():
  scores = SCORES | {'npo': SCORES['retrained']}
  said = ' '.join(summary.headline(people(scores)))
  assert 'npo is nearest to the retrained model (distance .00)' in said
  assert 'mmunlearner is number 2 (.03)' in said


def test_the_summary_is_about_another_method_where_the_main_one_is_missing():
  without = {k: v for k, v in SCORES.items() if k != 'mmunlearner'}
  said = summary.headline(people(without))
  assert 'unlearning with ga_diff' in said[1]
  assert 'no run named mmunlearner' in said[-1]
  only = {k: SCORES[k] for k in ('vanilla', 'retrained')}
  assert 'No unlearned model' in summary.headline(people(only))[1]


def test_missing_scores_are_called_missing():
  results = [r for r in people() if r['task'] != 'forget_qa']
  happened = summary.headline(results)[1]
  assert 'cannot be judged' in happened and 'not measured' in happened


def test_the_summary_says_shares_scores_and_doubt():
  said = ' '.join(summary.headline(mllmu()))
  assert 'new pictures of them: 31% right, 47% before, 29% in' in said
  assert 'lost a little of what it knows' in said
  assert 'before and after overlap' not in said  # .31 +- .04 and .47 +- .04
  close = [
    row | {'low': row['value'] - 0.09, 'high': row['value'] + 0.09}
    for row in mllmu()
  ]
  doubt = 'In test VQA, accuracy and in forget QA, accuracy the 95 % intervals'
  assert doubt in ' '.join(summary.headline(close))
  names = ' '.join(summary.headline(clear()))
  assert 'choosing their name for a picture: 36% right, 70% before' in names
  assert 'ROUGE-L of answers in text: .40, .40 before' in names
  assert 'With four answers' not in names


def test_a_retrained_model_above_chance_is_no_trace_in_others():
  choice = lambda run, value: benchmark_row(
    run, 'forget_vqa_holdout', 'choice', value
  )
  results = mllmu() + [choice('retrained', 0.40), choice('mmunlearner', 0.36)]
  said = ' '.join(summary.headline(results))
  assert 'more than chance, as without their pictures' in said


def test_a_model_made_from_a_method_is_no_method():
  assert summary.main_run(['vanilla', 'attacks/relearn/ga', 'ga'], 'x') == 'ga'
  assert summary.main_run(['vanilla', 'attacks/relearn/ga'], 'x') is None
  rows = {
    name: {'distance': scored.Score(value)}
    for name, value in {'ga': 0.3, 'npo': 0.2, 'attacks/x/ga': 0.1}.items()
  }
  (said,) = summary._rank(rows, 'ga')
  assert said.startswith('Of the 2 methods, npo is nearest')
