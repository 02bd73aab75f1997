"""Probabilities, shares of options and truth ratios, worked by hand."""

import json
import math

import numpy as np
import pytest

from mmu_jax.metrics import answer_probability
from mmu_jax.metrics import exposure
from mmu_jax.metrics import forget_score
from mmu_jax.metrics import option_shares
from mmu_jax.metrics import retain_score
from mmu_jax.metrics import truth_ratio


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


def test_the_probability_is_the_geometric_mean_of_the_tokens():
  nll = -math.log(0.5 * 0.25 * 0.125)
  assert answer_probability(nll, 3) == pytest.approx(0.25)


def test_length_alone_changes_no_probability():
  per_token = answer_probability(2.0, 4)
  assert answer_probability(4.0, 8) == pytest.approx(per_token)


def test_an_answer_without_tokens_has_none():
  with pytest.raises(ValueError, match='at least one token'):
    answer_probability(0.0, 0)


def test_shares_are_probabilities_made_to_sum_to_one():
  nll = [-math.log(p) for p in (0.2, 0.1, 0.1)]
  assert option_shares(nll).tolist() == pytest.approx([0.5, 0.25, 0.25])


def test_shares_per_token_forgive_a_long_option():
  # p = 1/4 in one token; 1/16 in two tokens, 1/4 each.
  nll = [math.log(4), math.log(16)]
  assert option_shares(nll).tolist() == pytest.approx([0.8, 0.2])
  assert option_shares(nll, [1, 2]).tolist() == pytest.approx([0.5, 0.5])


def test_unlikely_options_still_have_shares():
  assert option_shares([5000.0, 5000.0]).tolist() == [0.5, 0.5]


def test_exposure_is_the_log_of_the_candidates_less_the_log_of_the_rank():
  others = [2.0, 3.0, 5.0]  # of four: log2 4 = 2 bits
  ranks = {1.0: 1, 2.5: 2, 4.0: 3, 6.0: 4, 3.0: 2.5}  # the last is a tie
  for nll, rank in ranks.items():
    assert exposure(nll, others) == pytest.approx(2 - math.log2(rank))
  # A model that cannot tell gives the mean rank, whatever the number.
  assert exposure(1.0, [1.0] * 7) == pytest.approx(3 - math.log2(4.5))
  with pytest.raises(ValueError, match='there are none'):
    exposure(1.0, [])


def test_exposure_by_guessing_is_the_number_in_its_docstring():
  rng = np.random.default_rng(0)
  for size, bits in ((4, 0.85), (8, 1.09)):
    drawn = rng.normal(size=(20_000, size))
    mean = np.mean([exposure(row[0], row[1:]) for row in drawn])
    assert mean == pytest.approx(bits, abs=0.015)
