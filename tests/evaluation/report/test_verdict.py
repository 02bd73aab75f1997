"""The worst score decides, by the end of its interval that flatters least."""

import pytest

from mmu_jax.evaluation.report import layouts
from mmu_jax.evaluation.report import verdict
from mmu_jax.evaluation.report.scored import Score

OWN, PEOPLE = layouts.OWN, layouts.PEOPLE
EXACT, CHOICE = 'holdout', 'choice'
ROUGE = 'holdout VQA/rougeL'


def _gone(after, gold, layout=PEOPLE, **before):
  before = {k: Score(v) for k, v in before.items()}
  found = verdict.measures(after, before, gold, layout)
  return {m.told.key: m.gone for m in found}


def test_the_way_is_gone_as_far_as_the_upper_end():
  """From .9 to .1 is .8; an end of .3 leaves .6 of it: three quarters."""
  after = {EXACT: Score(0.2, 0.1, 0.3)}
  gone = _gone(after, {EXACT: Score(0.1)}, holdout=0.9)
  assert gone[EXACT] == pytest.approx(0.75)
  bare = _gone({EXACT: Score(0.2)}, {EXACT: Score(0.1)}, holdout=0.9)
  assert bare[EXACT] == pytest.approx(0.875)


def test_without_a_retrained_model_choices_lead_to_chance_and_others_to_none():
  after = {EXACT: Score(0.0), CHOICE: Score(0.25)}
  gone = _gone(after, {}, holdout=0.8, choice=1.0)
  assert gone == {EXACT: pytest.approx(1), CHOICE: pytest.approx(1)}


def test_a_likeness_counts_beside_a_retrained_model_or_alone():
  exact = 'holdout VQA/exact_match'
  after = {ROUGE: Score(0.4), exact: Score(0.0)}
  before = {ROUGE: 0.9, exact: 0.9}
  assert ROUGE not in _gone(after, {}, OWN, **before)
  assert _gone(after, {ROUGE: Score(0.4)}, OWN, **before)[ROUGE] == 1
  little = before | {exact: 0.0}  # sentences are never the same word for word
  assert _gone(after, {}, OWN, **little)[ROUGE] == pytest.approx(5 / 9)


def test_a_way_of_less_than_a_tenth_had_little_to_forget():
  gone = _gone({EXACT: Score(0.0)}, {EXACT: Score(0.3)}, holdout=0.39)
  assert gone == {EXACT: None}
  found = verdict.measures(
    {EXACT: Score(0.0)}, {EXACT: Score(0.05)}, {}, PEOPLE
  )
  assert verdict.forgot(found, 1.0) == ('had little to forget', False)


def test_a_vanilla_that_chose_no_better_than_chance_had_nothing_to_forget():
  """.30 of four is a guess, however far below it the retrained model is."""
  gone = _gone({CHOICE: Score(0.1)}, {CHOICE: Score(0.0)}, choice=0.30)
  assert gone == {CHOICE: None}
  gone = _gone({CHOICE: Score(0.1)}, {CHOICE: Score(0.0)}, choice=0.36)
  assert gone == {CHOICE: pytest.approx(0.26 / 0.36)}
