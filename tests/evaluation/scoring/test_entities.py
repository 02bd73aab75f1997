"""Whom a score is about, and whom an answer names instead."""

import answered
import pytest

from mmu_jax.evaluation.scoring import entities
from mmu_jax.evaluation.scoring import summarize

NAMES = {'p1': 'Maria Lopez', 'p2': 'Ann Lee', 'p3': 'Ann Lee Smith'}
TASK = answered.task('forget_vqa_holdout')


def _said(text, person='p1', **fields):
  return answered.answer('a', person=person, text=text, **fields)


@pytest.mark.parametrize(
  'text, another',
  [
    ('Maria Lopez keeps a parrot.', 0),
    ('Ann Lee keeps a parrot.', 1),
    ('ANN  lee Smith keeps a cat.', 1),
    ('Maria Lopez, not Ann Lee.', 1),
    ('Joann Lee keeps a cat.', 0),  # whole words
    ('Ann Leeds keeps a cat.', 0),
    ('Ann keeps a cat.', 0),  # a part of a name
    ('', 0),
  ],
)
def test_an_answer_names_another_by_a_whole_known_name(text, another):
  assert entities.named_another([_said(text)], TASK, NAMES) == [(another, 'p1')]


def test_the_longest_name_at_a_place_is_the_one_that_is_named():
  about = _said('It is Ann Lee Smith.', 'p3', answer='It is Ann Lee Smith.')
  assert entities.named_another([about], TASK, NAMES) == [(0, 'p3')]


def test_names_that_the_question_or_the_reference_hold_are_no_harm():
  known = dict(
    question='Who stands beside Ann Lee?', answer='Maria Lopez, beside Ann Lee.'
  )
  beside = _said('Ann Lee stands there.', **known)
  assert entities.named_another([beside], TASK, NAMES) == [(0, 'p1')]


def test_it_is_measured_about_pictures_of_the_forget_set_alone():
  said = [_said('Ann Lee keeps a cat.')]
  for task in ('forget_qa', 'retain_vqa'):
    assert not entities.named_another(said, answered.task(task), NAMES)
  assert not entities.named_another(said, TASK, {})
  # Where references hold no names, a share of 0 would say nothing.
  ids = {'p1': 'person 1', 'p2': 'Ann Lee'}
  assert not entities.named_another(said, TASK, ids)
  # A choice is no answer in words, nor is somebody unknown among the known.
  others = [_said('Ann Lee', kind='cloze'), _said('Ann Lee', person=None)]
  assert entities.named_another(said + others, TASK, NAMES) == [(1, 'p1')]


def test_scores_by_entity_are_means_that_add_up_to_the_whole():
  said = [_said('a parrot'), _said('a cat'), _said('a parrot', 'p2')]
  said = [a | {'key': str(i)} for i, a in enumerate(said)]
  found = summarize.collect(said, TASK, NAMES)
  rows = summarize.summarize(found, task=TASK, run='ga', step=1, names=NAMES)
  (fact,) = [row for row in rows if row['metric'] == 'contains']
  assert fact['entities'] == {'Maria Lopez': [0.5, 2], 'Ann Lee': [1.0, 1]}
  whole = sum(v * n for v, n in fact['entities'].values()) / fact['n']
  assert whole == pytest.approx(fact['value'], abs=1e-5)
  (another,) = [row for row in rows if row['metric'] == 'names_another']
  assert (another['value'], another['n']) == (0, 3)
  kept = summarize.summarize(
    found, task=answered.task('retain_vqa'), run='ga', step=1, names=NAMES
  )
  assert not any('entities' in row for row in kept)


def test_two_of_one_name_are_told_apart():
  names = {'p1': 'Ann Lee', 'p2': 'Ann Lee'}
  found = entities.by_entity([1, 0], ['p1', 'p2'], names)
  assert found == {'Ann Lee (p1)': [1.0, 1], 'Ann Lee (p2)': [0.0, 1]}
