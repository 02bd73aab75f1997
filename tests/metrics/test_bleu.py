"""BLEU against a hand-worked product and against nltk itself."""

import math

from nltk.translate.bleu_score import sentence_bleu
from nltk.translate.bleu_score import SmoothingFunction
import pytest

from mmu_jax.metrics import bleu


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
def test_it_agrees_with_nltk(prediction, reference):
  expected = sentence_bleu(
    [reference.split()],
    prediction.split(),
    smoothing_function=SmoothingFunction().method1,
  )
  assert bleu(prediction, reference) == expected
