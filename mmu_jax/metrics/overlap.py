"""How many words an answer shares with its reference: ROUGE and BLEU."""

import functools
from typing import Any

_KINDS = ('rouge1', 'rouge2', 'rougeL')


@functools.cache
def _scorer() -> Any:
  """One scorer per process: building the stemmer costs more than a score."""
  from rouge_score import rouge_scorer

  return rouge_scorer.RougeScorer(_KINDS, use_stemmer=True)


def rouge(prediction: str, reference: str) -> dict[str, float]:
  """Measures of the overlap between an answer and its reference.

  MLLMU-Bench and CLEAR score free answers by ROUGE, with Porter stemming, so
  'paints' counts as 'painted'. Words are runs of ``[a-z0-9]`` after
  lower-casing; punctuation does not count.

  Args:
    prediction: the model's answer.
    reference: the right answer.

  Returns:
    ``{'rouge1', 'rouge2', 'rougeL', 'rougeL_recall'}``, each in [0, 1]:
    F-measure of the shared unigrams, bigrams and longest common subsequence;
    and the recall of the last, its share of the reference, which TOFU and
    CLEAR report and which a longer answer does not lower. 0 where either text
    has no such unit, so a one-word answer has rouge2 = 0 even when it is right.

  Example:
    >>> scores = rouge('a red cat', 'a black cat')
    >>> {name: round(value, 2) for name, value in scores.items()}
    {'rouge1': 0.67, 'rouge2': 0.0, 'rougeL': 0.67, 'rougeL_recall': 0.67}

  References:
    Lin, `ROUGE: A Package for Automatic Evaluation of Summaries
    <https://aclanthology.org/W04-1013/>`_, 2004
  """
  scores = _scorer().score(reference, prediction)
  found = {kind: float(scores[kind].fmeasure) for kind in _KINDS}
  return found | {'rougeL_recall': float(scores['rougeL'].recall)}


def bleu(prediction: str, reference: str) -> float:
  """Sentence BLEU-4, smoothed so that a short answer is not always zero.

  The protocol of MLLMU-Bench: whitespace tokens, case kept, and smoothing
  method 1 of Chen & Cherry (an n-gram order without a match counts 0.1
  matches instead of 0). Values of short answers depend strongly on that
  choice: compare them only with values of the same protocol.

  Args:
    prediction: the model's answer.
    reference: the right answer.

  Returns:
    A score in [0, 1]; 0 for an empty answer.

  Example:
    >>> bleu('she owns a small cat', 'she owns a small cat')
    1.0
    >>> bleu('', 'she owns a small cat')
    0.0

  References:
    Papineni et al., `BLEU: a Method for Automatic Evaluation of Machine
    Translation <https://aclanthology.org/P02-1040/>`_, 2002;
    Chen & Cherry, `A Systematic Comparison of Smoothing Techniques for
    Sentence-Level BLEU <https://aclanthology.org/W14-3346/>`_, 2014
  """
  from nltk.translate import bleu_score

  words = prediction.split()
  if not words:
    return 0.0
  smoothing = bleu_score.SmoothingFunction().method1
  return float(
    bleu_score.sentence_bleu(
      [reference.split()], words, smoothing_function=smoothing
    )
  )
