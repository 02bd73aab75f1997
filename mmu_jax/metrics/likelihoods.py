"""How likely a model finds given answers, from the nll of their tokens."""

from collections.abc import Sequence
import math

import numpy as np

from mmu_jax.errors import UserError

_LOG_MOST = 700  # its exponential is the largest ratio


def answer_probability(nll: float, num_tokens: int) -> float:
  """The probability of an answer, per token.

      p(a | q)^(1 / |a|) = exp(-nll(a | q) / |a|)

  A long answer is not less likely for its length alone. |a| counts the tokens
  that were scored, the end token among them.

  Args:
    nll: nll of the whole answer, nats, >= 0.
    num_tokens: |a| >= 1.

  Returns:
    The geometric mean of the probabilities of its tokens, in (0, 1].

  Raises:
    ValueError: if there are no tokens.

  Example:
    >>> round(answer_probability(-math.log(0.25 * 0.5 * 0.5), 3), 4)
    0.3969

  References:
    Maini et al., `TOFU: A Task of Fictitious Unlearning for LLMs
    <https://arxiv.org/abs/2401.06121>`_, 2024
  """
  if num_tokens < 1:
    raise UserError(
      f'an answer has at least one token, got {num_tokens}. Is it empty?'
    )
  return math.exp(-nll / num_tokens)


def option_shares(
  nll: Sequence[float], num_tokens: Sequence[int] | None = None
) -> np.ndarray:
  """The distribution of a model over the options of a question.

      share_i = p_i^(1 / |a_i|) / sum_j p_j^(1 / |a_j|)

  Without ``num_tokens`` it is ``p_i / sum_j p_j``: the chance of an option,
  given that one of them is the answer.

  Args:
    nll: nll of each option, nats.
    num_tokens: |a_i|, tokens of each option, >= 1.

  Returns:
    ``[options]`` that sum to 1.

  Example:
    >>> option_shares([-math.log(0.3), -math.log(0.1)]).round(2).tolist()
    [0.75, 0.25]

  References:
    Maini et al., `TOFU: A Task of Fictitious Unlearning for LLMs
    <https://arxiv.org/abs/2401.06121>`_, 2024
  """
  scores = -np.asarray(nll, np.float64)
  if num_tokens is not None:
    scores = scores / np.asarray(num_tokens)
  shares = np.exp(scores - scores.max())
  return shares / shares.sum()


def truth_ratio(paraphrase: float, perturbed: Sequence[float]) -> float:
  """How likely wrong answers are, relative to the right one in other words.

      R = (prod_{k=1..K} p(a_k | q)^(1 / |a_k|))^(1 / K) / p(a' | q)^(1 / |a'|)

  where a' is the paraphrased answer and a_1 ... a_K are the perturbed ones:
  of the same form, with another fact. The geometric mean is taken by the code
  of TOFU and CLEAR; TOFU's paper writes the arithmetic one. The paraphrase
  stands for the answer because unlearning may lower the trained wording
  alone.

  R is near 0 where the model knows the truth, 1 where it cannot tell, and
  above 1 where it shuns the truth, which is a trace too. So for people to
  forget read ``forget_score`` (or compare all R with the ratios of a retrained
  model: ``forget_quality``), and for people to keep ``retain_score``; of both,
  more is better.

  Args:
    paraphrase: nll of the paraphrased answer per token, nats.
    perturbed: nll per token of each perturbed answer, at least one.

  Returns:
    R >= 0, cut to at most exp(700), 1e304, for JSON has no infinity. Of such
    ratios forget quality sees a tie, and both scores are 0 (the one of
    forgetting but for 1e-304).

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


def exposure(nll: float, others: Sequence[float]) -> float:
  """How far an answer stands out among the answers of others, in bits.

      exposure = log2 |R| - log2 rank

  R is the answer and the others, and its rank is 1 where it is the likeliest
  of them by the sum of its log-probabilities; of equal ones each has the mean
  rank. So it is log2 |R| where the model always knows the answer, and 0 where
  it is the least likely of all. Guessing gives .85 bits of 2 among four, 1.09
  of 3 among eight. It sees a memory that greedy decoding does not write.

  Args:
    nll: nll of the whole true answer, nats.
    others: nll of each other answer to the same question, true of somebody
      else; at least one.

  Returns:
    Bits, from 0 to log2 |R|.

  Raises:
    ValueError: if there are no others.

  Example:
    >>> exposure(1.0, [2.0, 3.0, 4.0]), exposure(4.0, [2.0, 3.0, 1.0])
    (2.0, 0.0)

  References:
    Carlini et al., `The Secret Sharer: Evaluating and Testing Unintended
    Memorization in Neural Networks <https://arxiv.org/abs/1802.08232>`_, 2019;
    there R is every possible secret, here those that are at hand
  """
  if not len(others):
    raise UserError(
      'exposure ranks an answer among others, and there are none. Give the '
      'row answers that are true of others.'
    )
  given = np.asarray(others, np.float64)
  rank = 1 + np.sum(given < nll) + np.sum(given == nll) / 2
  return float(np.log2(1 + given.size) - np.log2(rank))


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
