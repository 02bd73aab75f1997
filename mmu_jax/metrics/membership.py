"""Membership: scores that tell known answers from others, and how well.

Every score is higher for an answer that a model takes for known:

``loss``     mean log-probability of its tokens
``zlib``     the same over the bytes that zlib needs for the text
``min-k``    mean of the k % least likely tokens
``min-k++``  the same of tokens as deviations from the mean over the vocabulary;
             for a token of which the model is sure, p near 1, it falls with p

References:
  Carlini et al., Extracting Training Data from Large Language Models, 2021
  (https://arxiv.org/abs/2012.07805);
  Shi et al., Detecting Pretraining Data from Large Language Models, 2024
  (https://arxiv.org/abs/2310.16789);
  Zhang et al., Min-K%++: Improved Baseline for Detecting Pre-Training Data,
  2025 (https://arxiv.org/abs/2404.02936).
"""

import zlib

import numpy as np


def membership_scores(
  text: str,
  log_probs: np.ndarray,
  mean: np.ndarray,
  std: np.ndarray,
  share: float,
) -> dict[str, float]:
  """Returns the scores of one answer, all but the gradient.

  Args:
    text: the answer.
    log_probs: ``[n]`` log-probability of each token, nats.
    mean: ``[n]`` expectation of the log-probability of a drawn token.
    std: ``[n]`` its standard deviation.
    share: k of min-k, share of the tokens in (0, 1].

  Example:
    >>> log_probs, one = np.array([-1., -8., -2., -1.]), np.ones(4)
    >>> found = membership_scores('a', log_probs, -one, one, 0.5)
    >>> found['loss'], found['min-k'], found['min-k++']
    (-3.0, -5.0, -4.0)
  """
  number = max(1, int(share * len(log_probs)))
  lowest = lambda x: float(np.sort(x)[:number].mean())
  loss = float(log_probs.mean())
  return {
    'loss': loss,
    'zlib': loss / len(zlib.compress(text.encode())),
    'min-k': lowest(log_probs),
    'min-k++': lowest((log_probs - mean) / np.maximum(std, 1e-6)),
  }


def auc(members: np.ndarray, others: np.ndarray) -> float:
  r"""Returns how often a member has the higher score; ties count a half.

  .. math:: \mathrm{AUC} = P(s > s') + P(s = s') / 2

  Args:
    members: ``[n]`` scores of members.
    others: ``[m]`` scores of others.

  Example:
    >>> auc(np.array([1, 2]), np.array([0, 2]))
    0.625
  """
  both = np.concatenate([members, others])
  _, place, counts = np.unique(both, return_inverse=True, return_counts=True)
  ranks = np.cumsum(counts) - (counts - 1) / 2  # the mean rank of equal ones
  n, m = len(members), len(others)
  return float((ranks[place[:n]].sum() - n * (n + 1) / 2) / (n * m))
