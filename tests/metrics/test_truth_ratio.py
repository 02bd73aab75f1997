"""Truth ratios against hand-worked products of probabilities."""

import json
import math

import numpy as np
import pytest

from mmu_jax.metrics import truth_ratio
from mmu_jax.metrics.truth_ratio import forget_score
from mmu_jax.metrics.truth_ratio import retain_score


def test_a_ratio_worked_by_hand():
  # Per token: the paraphrase 1/2; wrong answers 1/4, 1/16: sqrt(1/64) / (1/2).
  ratio = truth_ratio(math.log(2), [math.log(4), math.log(16)])
  assert ratio == pytest.approx(0.25)
  assert forget_score(ratio) == pytest.approx(0.25)
  assert retain_score(ratio) == pytest.approx(0.75)


def test_a_model_that_cannot_tell_has_ratio_one():
  assert truth_ratio(1.3, [1.3, 1.3]) == 1
  assert forget_score(1.0) == 1 and retain_score(1.0) == 0


def test_shunning_the_truth_is_as_far_from_forgetting_as_knowing_it():
  knows, shuns = truth_ratio(1.0, [3.0]), truth_ratio(3.0, [1.0])
  assert knows == pytest.approx(1 / shuns) and knows < 1
  assert forget_score(knows) == pytest.approx(forget_score(shuns))
  assert retain_score(shuns) == 0


def test_it_is_what_the_code_of_tofu_computes():
  """exp(perturbed - paraphrased) there is 1 / R."""
  rng = np.random.default_rng(0)
  for _ in range(5):
    paraphrase, perturbed = rng.exponential(), rng.exponential(size=5)
    tofu = np.exp(perturbed.mean(axis=-1) - paraphrase)
    ratio = truth_ratio(paraphrase, perturbed)
    assert retain_score(ratio) == pytest.approx(max(0, 1 - 1 / tofu))
    assert forget_score(ratio) == pytest.approx(min(tofu, 1 / tofu))


def test_extremes_have_scores():
  largest = truth_ratio(2000.0, [1.0])
  assert largest == truth_ratio(3000.0, [1.0]) == math.exp(700)
  assert forget_score(largest) == pytest.approx(0)
  assert retain_score(largest) == 0
  assert forget_score(math.inf) == 0 and retain_score(math.inf) == 0
  assert truth_ratio(1.0, [2000.0]) == 0.0
  assert forget_score(0.0) == 0 and retain_score(0.0) == 1


def test_every_ratio_is_json():
  for paraphrase in (0.0, 700.0, 710.0, 1e6):
    json.dumps(truth_ratio(paraphrase, [0.0]), allow_nan=False)


def test_without_wrong_answers_there_is_no_ratio():
  with pytest.raises(ValueError, match='there are none'):
    truth_ratio(1.0, [])
