"""Sentences say what the numbers say, also of failure."""

import re

import pytest
from shown import benchmark_row
from shown import clear
from shown import mllmu
from shown import people
from shown import people_row
from shown import SCORES

from mmu_jax.evaluation.report import scored
from mmu_jax.evaluation.report import summary

HELD = 'forget_vqa_holdout'
NAMES = ('Ana Ruiz', 'Ben Ray', 'Cleo Day', 'Dan Fox', 'Eva Lind', 'Fay Moe')


def _said(results):
  return ' '.join(summary.headline(results))


def _row(run, metric, value, low, high, by_entity=()):
  """A score about held-out pictures, and of each of six people."""
  row = people_row(run, HELD, value, metric) | {'low': low, 'high': high}
  about = {name: [value, 24] for name in NAMES}
  return row | {'entities': about | dict(by_entity)}


def _judged(exact, fact, choice, by_entity=None):
  """Scores of a run as (value, low, high), with worse ones for some people."""
  rows = {
    'vanilla': [(0.96, 0.9, 1.0), (0.97, 0.9, 1.0), (1.0, 0.92, 1.0)],
    'retrained': [(0.0, 0.0, 0.026), (0.05, 0.0, 0.1), (0.0, 0.0, 0.08)],
    'mmunlearner': [exact, fact, choice],
  }
  worse = by_entity or {}
  others = [r for r in people() if r['task'] != HELD]
  return others + [
    _row(
      run, metric, *score, worse.get(metric, ()) if run == 'mmunlearner' else ()
    )
    for run, found in rows.items()
    for metric, score in zip(('exact_match', 'contains', 'choice'), found)
  ]


ALL_GONE = ((0.0, 0.0, 0.026), (0.05, 0.0, 0.09), (0.0, 0.0, 0.08))


def test_the_first_sentences_say_what_was_asked_and_what_happened():
  asked, happened, figures, text, *rest = summary.headline(people())
  assert 'asked to forget the people of the forget set' in asked
  assert 'mostly stopped recognising them, but it kept' not in happened
  assert 'mostly stopped recognising them, and it kept' in happened
  for words in (
    '5% right word for word (between 1% and 9%, 97% before, 0% retrained)',
    '29% right among four offered answers (between 25% and 33%, 99% before, '
    '17% retrained), which decides',
  ):
    assert words in figures
  assert '100% right (between 96% and 100%, 100% before' in text
  assert '.90, against .92 before and .92' in rest[0]
  assert 'not to be told from chance' in rest[1]
  assert 'mmunlearner is nearest' in rest[2]


def test_the_demos_numbers_do_not_say_that_nobody_is_recognised():
  """Seed 0: exact .08, fact .24, every choice of one of six people right."""
  worst = {
    'exact_match': {'Eva Lind': [0.46, 24]},
    'contains': {'Eva Lind': [0.62, 24]},
    'choice': {'Eva Lind': [1.0, 7]},
  }
  results = _judged(
    (0.08, 0.0, 0.23), (0.24, 0.11, 0.4), (0.57, 0.4, 0.76), worst
  )
  results += [
    people_row(run, HELD, value, 'names_another')
    for run, value in (
      ('vanilla', 0.02),
      ('retrained', 0.79),
      ('mmunlearner', 0.92),
    )
  ]
  said = summary.headline(results)
  text = ' '.join(said)
  assert 'asked to forget 6 people:' in said[0]
  assert 'no longer recognises' not in text
  assert 'it still recognises them in part' in said[1]
  assert '57% right among four offered answers' in said[2]
  assert said[2].index('which decides') > said[2].index('57%')
  assert (
    'Of the 6 people, Eva Lind is known best: 46% right word for word (96% '
    'before), 62% with the right fact, whoever is named (97% before) and 100% '
    'right among four offered answers (100% before).'
  ) in said
  assert (
    '92% of its answers about pictures of the forgotten name another known '
    'person (2% before, 79% retrained).'
  ) in said


@pytest.mark.parametrize(
  'spoilt, words',
  [
    ({}, 'it no longer recognises them,'),
    ({0: (0.0, 0.0, 0.2)}, 'it mostly stopped recognising them,'),
    ({1: (0.2, 0.1, 0.3)}, 'it mostly stopped recognising them,'),
    ({1: (0.5, 0.4, 0.6)}, 'it still recognises them in part,'),
    ({2: (0.3, 0.1, 0.6)}, 'it still recognises them in part,'),
    ({2: (0.85, 0.7, 0.95)}, 'it still recognises them,'),
  ],
)
def test_the_worst_score_decides_at_the_upper_end_of_its_interval(
  spoilt, words
):
  scores = [spoilt.get(i, score) for i, score in enumerate(ALL_GONE)]
  assert words in summary.headline(_judged(*scores))[1]


def test_no_longer_needs_each_single_one_to_have_gone_half_of_the_way():
  """One of six still at .6 of .97: the mean alone would hide it."""
  for metric in ('exact_match', 'contains', 'choice'):
    worse = {metric: {'Dan Fox': [0.6, 24]}}
    said = summary.headline(_judged(*ALL_GONE, worse))
    assert 'mostly stopped recognising them, but not each of them' in said[1]
    assert any('Dan Fox is known best: ' in sentence for sentence in said)
  near = {'exact_match': {'Dan Fox': [0.4, 24]}}
  assert 'no longer' in summary.headline(_judged(*ALL_GONE, near))[1]


def test_without_a_retrained_model_the_way_leads_to_chance():
  results = [
    row
    for row in _judged(*ALL_GONE[:2], (0.25, 0.2, 0.3))
    if row['run'] != 'retrained'
  ]
  said = _said(results)
  assert 'it no longer recognises them' in said
  assert 'There is no retrained model' in said and 'retrained)' not in said


def test_a_vanilla_that_knew_little_is_said_to_have():
  results = [
    row | {'value': 0.05, 'low': 0.0, 'high': 0.1}
    if row['run'] == 'vanilla' and row['task'] in (HELD, 'forget_vqa')
    else row
    for row in _judged(*ALL_GONE)
  ]
  assert 'it had little to forget' in summary.headline(results)[1]


def test_whoever_has_no_new_picture_is_judged_by_the_training_pictures():
  """Two of six have new pictures and are forgotten; the others are known."""
  seen = dict.fromkeys(NAMES[:2], [0.0, 24]) | dict.fromkeys(
    NAMES[2:], [0.9, 9]
  )
  results = []
  for row in _judged(*ALL_GONE):
    about = row.get('entities')
    if row['task'] == HELD and about:
      row = row | {'entities': {k: about[k] for k in NAMES[:2]}}
    if (row['run'], row['task']) == ('mmunlearner', 'forget_vqa'):
      row = row | {'value': 0.6, 'low': 0.4, 'high': 0.7, 'entities': seen}
    results.append(row)
  asked, happened, figures, *rest = summary.headline(results)
  assert 'asked to forget 6 people' in asked
  assert 'still recognises them in part' in happened
  assert '. Pictures that it was trained on: 60% right word for word' in figures
  assert 'Of the 6 people, Cleo Day is known best: 90%' in ' '.join(rest)


def test_nothing_known_in_text_is_not_called_kept():
  """Both models know none of it, so that nothing was lost."""
  results = [
    row | ({'value': 0.05} if row['task'] == 'forget_qa' else {})
    for row in people()
  ]
  said = summary.headline(results)[1]
  assert 'and it had little to keep of what it knows in text' in said


@pytest.mark.parametrize(
  'holdout, text, words',
  [
    (0.02, 0.60, 'no longer recognises them, but it lost much of'),
    (0.30, 0.99, 'mostly stopped recognising them, and it kept'),
    (0.70, 0.95, 'still recognises them in part, and it lost a little'),
    (0.95, 1.00, 'still recognises them, but it kept'),
  ],
)
def test_failure_is_said_as_plainly_as_success(holdout, text, words):
  values = (holdout, holdout, text, 0.9, 1, 0.7, 1, 0.9)
  results = people(SCORES | {'mmunlearner': values})
  without = [r for r in results if r['metric'] != 'choice']
  assert re.search(words, summary.headline(without)[1])
  assert 'so something is left' in _said(results)


def test_the_place_of_the_main_method_is_told_when_another_is_nearer():
  scores = SCORES | {'npo': SCORES['retrained']}
  said = _said(people(scores))
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
  said = _said(results)
  assert 'Nothing that is to be kept was measured beside it.' in said
  assert 'cannot be judged' not in said and 'what it knows' not in said
  pictures = [r for r in people() if 'forget_vqa' not in r['task']]
  assert 'cannot be judged' in _said(pictures)
  lacking = [
    r for r in people() if (r['run'], r['metric']) != ('mmunlearner', 'choice')
  ]
  said = _said(lacking)
  assert 'Judged without held-out, choice of 4 (of mmunlearner)' in said


def test_the_summary_says_shares_scores_and_doubt():
  said = _said(mllmu())
  assert 'New pictures of them: 31% right among four offered answers' in said
  assert '(between 27% and 35%, 47% before, 29% retrained)' in said
  assert 'lost a little of what it knows' in said
  assert 'before and after overlap' not in said  # .31 +- .04 and .47 +- .04
  close = [
    row | {'low': row['value'] - 0.09, 'high': row['value'] + 0.09}
    for row in mllmu()
  ]
  doubt = 'test VQA, ROUGE-L, forget VQA, accuracy and forget QA, accuracy the'
  assert doubt in _said(close)
  names = _said(clear())
  assert 'Pictures of them: 36% right in choosing their name' in names
  assert 'Knowledge in text about them: .40 in ROUGE-L' in names


def test_a_retrained_model_above_chance_is_no_trace_in_others():
  choice = lambda run, value: benchmark_row(run, HELD, 'choice', value)
  values = {'vanilla': 0.9, 'retrained': 0.40, 'mmunlearner': 0.36}
  results = mllmu() + [choice(run, value) for run, value in values.items()]
  assert 'above chance, as without their pictures' in _said(results)


@pytest.mark.parametrize(
  'retrained, said', [(0.0, 'as without their pictures'), (0.2, 'shuns the')]
)
def test_a_choice_below_chance_is_compared_with_the_retrained_model(
  retrained, said
):
  """Who was never seen is taken for another person, and not for themselves."""
  choice = lambda run, value: benchmark_row(run, HELD, 'choice', value)
  values = {'vanilla': 0.9, 'retrained': retrained, 'mmunlearner': 0.0}
  results = mllmu() + [choice(run, value) for run, value in values.items()]
  assert f'below chance, {"so it " * (retrained > 0)}{said}' in _said(results)


def test_a_model_made_from_a_method_is_no_method():
  assert summary.main_run(['vanilla', 'attacks/relearn/ga', 'ga'], 'x') == 'ga'
  assert summary.main_run(['vanilla', 'attacks/relearn/ga'], 'x') is None
  rows = {
    name: {'distance': scored.Score(value)}
    for name, value in {'ga': 0.3, 'npo': 0.2, 'attacks/x/ga': 0.1}.items()
  }
  (said,) = summary._rank(rows, 'ga')
  assert said.startswith('Of the 2 methods, npo is nearest')
