"""Scores against hand-made tokens, and the AUC against its definition."""

import zlib

import numpy as np
import pytest

from mmu_jax.metrics import membership

TEXT = 'Maria Lopez keeps a parrot.'


def _scores(logits, targets, share=0.2):
  """Scores of an answer whose tokens have these logits, in float64."""
  log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  mean = (np.exp(log_p) * log_p).sum(-1)
  deviation = log_p - mean[:, None]
  std = np.sqrt((np.exp(log_p) * deviation**2).sum(-1))
  chosen = log_p[np.arange(len(targets)), targets]
  return chosen, membership.membership_scores(TEXT, chosen, mean, std, share)


def test_scores_of_hand_made_logits():
  """Of ten tokens min-k takes two; a sure model is at the mean: 0."""
  rng = np.random.default_rng(0)
  logits, targets = rng.normal(size=(10, 7)), rng.integers(0, 7, 10)
  chosen, found = _scores(logits, targets)
  assert found['loss'] == pytest.approx(chosen.mean())
  size = len(zlib.compress(TEXT.encode()))
  assert found['zlib'] == pytest.approx(chosen.mean() / size)
  assert found['min-k'] == pytest.approx(np.sort(chosen)[:2].mean())
  share = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  deviations = []
  for p, target in zip(share, targets):
    mean = sum(p * np.log(p))
    std = sum(p * (np.log(p) - mean) ** 2) ** 0.5
    deviations.append((np.log(p[target]) - mean) / std)
  want = np.mean(sorted(deviations)[:2])
  assert found['min-k++'] == pytest.approx(want)


def test_min_k_takes_at_least_one_token_and_at_most_all():
  rng = np.random.default_rng(1)
  logits, targets = rng.normal(size=(3, 7)), rng.integers(0, 7, 3)
  chosen, found = _scores(logits, targets)
  assert found['min-k'] == pytest.approx(chosen.min())
  chosen, found = _scores(logits, targets, share=1.0)
  assert found['min-k'] == pytest.approx(found['loss'])


def test_even_logits_divide_by_nothing():
  _, found = _scores(np.zeros((4, 7)), np.arange(4))
  assert all(np.isfinite(value) for value in found.values())
  assert found['min-k++'] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize('seed', range(5))
def test_auc_is_the_share_of_pairs_in_order(seed):
  """Scores of few values: many are equal."""
  rng = np.random.default_rng(seed)
  members, others = rng.integers(0, 6, 31), rng.integers(0, 5, 17)
  pairs = [(a > b) + (a == b) / 2 for a in members for b in others]
  assert membership.auc(members, others) == pytest.approx(np.mean(pairs))
  mirrored = membership.auc(-members, -others)
  assert mirrored == pytest.approx(1 - np.mean(pairs))


def test_auc_of_scores_that_tell_all_or_nothing():
  low, high = np.arange(4), np.arange(4, 9)
  assert membership.auc(high, low) == 1 and membership.auc(low, high) == 0
  assert membership.auc(np.ones(3), np.ones(5)) == 0.5
