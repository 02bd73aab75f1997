"""Overlaps worked by hand, and against rouge_score and nltk themselves."""

import math

from nltk.translate.bleu_score import sentence_bleu
from nltk.translate.bleu_score import SmoothingFunction
import pytest
from rouge_score import rouge_scorer

from mmu_jax.metrics import bleu
from mmu_jax.metrics import rouge


def test_overlaps_worked_by_hand():
  # Shared words: the, cat, sat (3); pairs: 'the cat', 'cat sat' (2).
  # Prediction has 4 words and 3 pairs, the reference 6 and 5.
  scores = rouge('the cat sat down', 'the cat sat on the mat')
  assert scores['rouge1'] == pytest.approx(2 * 3 / (4 + 6))
  assert scores['rouge2'] == pytest.approx(2 * 2 / (3 + 5))
  assert scores['rougeL'] == pytest.approx(2 * 3 / (4 + 6))
  assert scores['rougeL_recall'] == pytest.approx(3 / 6)


def test_a_reordered_answer_keeps_its_words_and_loses_its_order():
  scores = rouge('lopez maria', 'maria lopez')
  half = {'rougeL': 0.5, 'rougeL_recall': 0.5}
  assert scores == {'rouge1': 1, 'rouge2': 0, **half}


def test_a_longer_answer_lowers_the_f_measure_and_not_the_recall():
  short, long = (rouge(f'a red cat{more}', 'a cat') for more in ('', ' x' * 9))
  assert short['rougeL_recall'] == long['rougeL_recall'] == 1
  assert long['rougeL'] < short['rougeL'] < 1


def test_stemming_joins_the_forms_of_a_word():
  assert rouge('she paints houses', 'she painted a house')['rouge1'] > 0.8


@pytest.mark.parametrize(
  'prediction, reference', [('', 'a cat'), ('a cat', ''), ('dog', 'cat')]
)
def test_nothing_shared_scores_zero(prediction, reference):
  assert set(rouge(prediction, reference).values()) == {0}


@pytest.mark.parametrize(
  'prediction, reference',
  [
    ('Maria Lopez, who owns cats.', 'maria lopez , cat'),
    ('He was born in Oslo', 'She was born near Oslo in 1970'),
  ],
)
def test_rouge_agrees_with_rouge_score(prediction, reference):
  scorer = rouge_scorer.RougeScorer(['rouge1', 'rouge2', 'rougeL'], True)
  expected = scorer.score(reference, prediction)
  found = rouge(prediction, reference)
  assert found.pop('rougeL_recall') == expected['rougeL'].recall
  for kind, value in found.items():
    assert value == expected[kind].fmeasure


def test_precisions_worked_by_hand():
  # 'a b c d e' against 'a b c d f': 4/5 words, 3/4 pairs, 2/3 triples, 1/2
  # quadruples; equal lengths, so no brevity penalty.
  expected = (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25
  assert bleu('a b c d e', 'a b c d f') == pytest.approx(expected)


def test_a_short_answer_pays_the_brevity_penalty():
  score = bleu('a b c d', 'a b c d e f g h')
  assert score == pytest.approx(math.exp(1 - 8 / 4))


def test_case_counts():
  assert bleu('A B C D', 'a b c d') < 0.1


@pytest.mark.parametrize('blank', ['', '  \n'])
def test_an_empty_answer_scores_zero(blank):
  assert bleu(blank, 'maria lopez , cat') == 0


@pytest.mark.parametrize(
  'prediction, reference',
  [
    ('maria lopez , dog', 'maria lopez , cat'),
    ('cat', 'maria lopez , cat'),
    ('the person is a painter from Rome', 'she is a painter from Oslo'),
  ],
)
def test_bleu_agrees_with_nltk(prediction, reference):
  expected = sentence_bleu(
    [reference.split()],
    prediction.split(),
    smoothing_function=SmoothingFunction().method1,
  )
  assert bleu(prediction, reference) == expected
