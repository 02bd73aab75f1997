"""BLEU of one answer against one reference."""


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
