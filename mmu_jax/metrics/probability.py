"""How likely a model finds an answer, from the nll of its tokens."""

from collections.abc import Sequence
import math

import numpy as np

from mmu_jax.errors import UserError


def answer_probability(nll: float, num_tokens: int) -> float:
  """The probability of an answer, per token.

      p(a | q)^(1 / |a|) = exp(-nll(a | q) / |a|)

  A long answer is not less likely for its length alone. |a| counts the tokens
  that were scored: those of the answer and the end token.

  Args:
    nll: of the whole answer, nats, >= 0.
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
    nll: of each option, nats.
    num_tokens: |a_i| of each option, >= 1.

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
