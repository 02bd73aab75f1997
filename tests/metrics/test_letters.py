"""The letter that an answer names, as the published parser and ours read it."""

import pytest

from mmu_jax.metrics import find_letter, first_letter, letter_of

CITIES = ('Oslo', 'Paris', 'Rome', 'New York')


@pytest.mark.parametrize(
    'text, letter',
    [
        ('B', 'B'), (' b. something', 'B'), ('(C)', 'C'), ('', ' '),
        ('...', ' '), ('1', '1'),
        # Its errors, which the published scores hold.
        ('The answer is C', 'T'), ('A nice city', 'A'), ('Paris', 'P'),
    ],
)  # fmt: skip
def test_the_published_parser_takes_the_first_letter_or_digit(text, letter):
  assert first_letter(text) == letter


@pytest.mark.parametrize(
    'text, letter',
    [
        # A letter, alone or in front.
        ('A', 'A'), ('d', 'D'), ('B.', 'B'), ('(c)', 'C'), ('**B**', 'B'),
        ('"B"', 'B'), ('B: Paris', 'B'), ('c) Rome', 'C'), ('B\nParis', 'B'),
        (' b. something', 'B'), ('C is right', 'C'),
        # A letter that is named.
        ('The answer is C', 'C'), ('The correct answer is (B).', 'B'),
        ('Answer: D', 'D'), ('I would choose option B', 'B'),
        ('The answer is option C because', 'C'), ('the answer is a.', 'A'),
        ('The answer is **A**', 'A'),
        # The words of an option.
        ('The person lives in Rome.', 'C'), ('new york', 'D'),
        ('A city in Norway: Oslo', 'A'), ('The answer is a city, Paris', 'B'),
        # A letter in brackets.
        ('It must be (B), I think', 'B'),
        # Nothing, several, or one beyond the options.
        ('', None), ('I do not know', None), ('Oslo or Paris', None),
        ('Z', None), ('E', None), ('The answer is F', None), ('1', None),
        ('A nice city', None), ('either (A) or (B)', None),
    ],
)  # fmt: skip
def test_the_careful_parser_reads_what_is_named(text, letter):
  assert find_letter(text, CITIES) == letter


def test_an_option_within_a_longer_one_does_not_count():
  options = ('York', 'New York', 'Paris')
  assert find_letter('She lives in New York now', options) == 'B'
  assert find_letter('She lives in York now', options) == 'A'
  assert find_letter('Yorkshire', options) is None  # words, not substrings


def test_only_the_options_have_letters():
  assert find_letter('C', CITIES[:2]) is None
  assert letter_of('New York', CITIES) == 'D'
  with pytest.raises(ValueError, match="one of the options; got 'Bergen'"):
    letter_of('Bergen', CITIES)
