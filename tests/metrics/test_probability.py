"""Probabilities per token, worked by hand."""

import math

import pytest

from mmu_jax.metrics import answer_probability
from mmu_jax.metrics import option_shares


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
