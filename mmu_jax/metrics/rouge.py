"""ROUGE: how many words, word pairs and ordered words two texts share."""

import functools
from typing import Any

KINDS = ('rouge1', 'rouge2', 'rougeL')


@functools.cache
def _scorer() -> Any:
  """One scorer per process: building the stemmer costs more than a score."""
  from rouge_score import rouge_scorer

  return rouge_scorer.RougeScorer(KINDS, use_stemmer=True)


def rouge(prediction: str, reference: str) -> dict[str, float]:
  """F-measures of the overlap between an answer and its reference.

  MLLMU-Bench and CLEAR score free answers by ROUGE, with Porter stemming, so
  'paints' counts as 'painted'. Words are runs of ``[a-z0-9]`` after
  lower-casing; punctuation does not count.

  Args:
    prediction: the model's answer.
    reference: the right answer.

  Returns:
    ``{'rouge1', 'rouge2', 'rougeL'}``, each in [0, 1]: F-measure of the shared
    unigrams, bigrams and longest common subsequence. 0 where either text has
    no such unit, so a one-word answer has rouge2 = 0 even when it is right.

  Example:
    >>> scores = rouge('a red cat', 'a black cat')
    >>> {name: round(value, 2) for name, value in scores.items()}
    {'rouge1': 0.67, 'rouge2': 0.0, 'rougeL': 0.67}

  References:
    Lin, `ROUGE: A Package for Automatic Evaluation of Summaries
    <https://aclanthology.org/W04-1013/>`_, 2004
  """
  scores = _scorer().score(reference, prediction)
  return {kind: float(scores[kind].fmeasure) for kind in KINDS}
