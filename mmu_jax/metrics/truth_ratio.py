"""The truth ratio: does a model still prefer the truth to what is like it?"""

from collections.abc import Sequence
import math

import numpy as np

from mmu_jax.errors import UserError

_LOG_MOST = 700  # its exponential is the largest ratio


def truth_ratio(paraphrase: float, perturbed: Sequence[float]) -> float:
  """How likely wrong answers are, relative to the right one in other words.

      R = (prod_{k=1..K} p(a_k | q)^(1 / |a_k|))^(1 / K) / p(a' | q)^(1 / |a'|)

  where a' is the paraphrased answer and a_1 ... a_K are the perturbed ones:
  of the same form, with another fact. The geometric mean is that of the code
  of TOFU and CLEAR; TOFU's paper writes the arithmetic one. The paraphrase
  stands for the answer because unlearning may lower the trained wording
  alone.

  R is near 0 where the model knows the truth, 1 where it cannot tell, and
  above 1 where it shuns the truth, which is a trace too. So for what is to be
  forgotten read ``forget_score`` (or compare all R with those of a retrained
  model: ``forget_quality``), and for what is to stay ``retain_score``; of both,
  more is better.

  Args:
    paraphrase: nll of the paraphrased answer per token, nats.
    perturbed: the same of each perturbed answer, at least one.

  Returns:
    R >= 0, at most exp(700), 1e304: what is larger than that is cut to it,
    for JSON has no infinity. Of such ratios forget quality sees a tie, and
    both scores are 0 (the one of forgetting but for 1e-304).

  Raises:
    ValueError: if there are no perturbed answers.

  Example:
    >>> half, eighth = math.log(2), math.log(8)
    >>> round(truth_ratio(half, [eighth, half]), 6)  # sqrt(1/8 * 1/2) / (1/2)
    0.5

  References:
    Maini et al., `TOFU: A Task of Fictitious Unlearning for LLMs
    <https://arxiv.org/abs/2401.06121>`_, 2024;
    Dontsov et al., `CLEAR: Character Unlearning in Textual and Visual
    Modalities <https://arxiv.org/abs/2410.18057>`_, 2024
  """
  if not len(perturbed):
    raise UserError(
      'a truth ratio compares the paraphrase with perturbed answers, and '
      'there are none. Give the row its perturbed answers.'
    )
  log_ratio = paraphrase - float(np.mean(perturbed))
  return math.exp(log_ratio if log_ratio < _LOG_MOST else _LOG_MOST)


def forget_score(ratio: float) -> float:
  """``min(R, 1 / R)`` in [0, 1]: 1 where a model cannot tell truth from error.

  Example:
    >>> forget_score(0.25), forget_score(4.0)
    (0.25, 0.25)
  """
  return min(ratio, 1 / ratio) if ratio > 0 else 0.0


def retain_score(ratio: float) -> float:
  """``max(0, 1 - R)`` in [0, 1]: near 1 where a model knows the truth.

  Example:
    >>> retain_score(0.25), retain_score(4.0)
    (0.75, 0.0)
  """
  return max(0.0, 1 - ratio)
