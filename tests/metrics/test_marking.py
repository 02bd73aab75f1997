"""Answers marked by their words, and by the letter that they name."""

import pytest

from mmu_jax.metrics import contains
from mmu_jax.metrics import exact_match
from mmu_jax.metrics import find_letter
from mmu_jax.metrics import first_letter
from mmu_jax.metrics import letter_of

CITIES = ('Oslo', 'Paris', 'Rome', 'New York')


@pytest.mark.parametrize(
  'text, letter',
  [
    ('B', 'B'),
    (' b. something', 'B'),
    ('(C)', 'C'),
    ('', ' '),
    ('...', ' '),
    ('1', '1'),
    # Its errors, which the published scores hold.
    ('The answer is C', 'T'),
    ('A nice city', 'A'),
    ('Paris', 'P'),
  ],
)
def test_the_published_parser_takes_the_first_letter_or_digit(text, letter):
  assert first_letter(text) == letter


@pytest.mark.parametrize(
  'text, letter',
  [
    # A letter, alone or in front.
    ('A', 'A'),
    ('d', 'D'),
    ('B.', 'B'),
    ('(c)', 'C'),
    ('**B**', 'B'),
    ('"B"', 'B'),
    ('B: Paris', 'B'),
    ('c) Rome', 'C'),
    ('B\nParis', 'B'),
    (' b. something', 'B'),
    ('C is right', 'C'),
    # A letter that is named.
    ('The answer is C', 'C'),
    ('The correct answer is (B).', 'B'),
    ('Answer: D', 'D'),
    ('I would choose option B', 'B'),
    ('The answer is option C because', 'C'),
    ('the answer is a.', 'A'),
    ('The answer is **A**', 'A'),
    # The words of an option.
    ('The person lives in Rome.', 'C'),
    ('new york', 'D'),
    ('A city in Norway: Oslo', 'A'),
    ('The answer is a city, Paris', 'B'),
    # A letter in brackets.
    ('It must be (B), I think', 'B'),
    # Nothing, several, or one beyond the options.
    ('', None),
    ('I do not know', None),
    ('Oslo or Paris', None),
    # Several letters.
    ('A, B, C, D', None),
    ('B and C', None),
    ('B, C', None),
    ('Option A and option B', None),
    ('Options A and B', None),
    ('The answer is B or C.', None),
    ('a, b', None),
    ('A and B', None),
    ('A. Oslo\nB. Paris\nC. Rome', None),
    ('(A), (B)', None),
    # One letter, and words about others.
    ('B, i.e. Paris', 'B'),
    ('B, I think', 'B'),
    ('C, A city', 'C'),
    ('The answer is B. Option C is wrong.', 'B'),
    ('A. Unlike Paris, it is in Norway', 'A'),
    ('B and nothing', 'B'),
    ('Z', None),
    ('E', None),
    ('The answer is F', None),
    ('1', None),
    ('A nice city', None),
    ('either (A) or (B)', None),
  ],
)
def test_the_careful_parser_reads_what_is_named(text, letter):
  assert find_letter(text, CITIES) == letter


def test_an_option_within_a_longer_one_does_not_count():
  options = ('York', 'New York', 'Paris')
  assert find_letter('She lives in New York now', options) == 'B'
  assert find_letter('She lives in York now', options) == 'A'
  assert find_letter('Yorkshire', options) is None  # words, not substrings


@pytest.mark.parametrize(
  'text',
  [
    'J.K. Rowling',
    'J. K. Rowling',
    'The answer is J.K. Rowling.',
    'j.k. rowling wrote it',
    'B. J.K. Rowling',
    'B',
  ],
)
def test_initials_of_an_option_are_no_letter(text):
  assert find_letter(text, ('Emma Watson', 'J.K. Rowling')) == 'B'


def test_an_article_before_an_option_is_no_letter():
  for text in ('A parrot', 'a parrot', 'The answer is a parrot.'):
    assert find_letter(text, ('cat', 'parrot')) == 'B'


def test_a_letter_that_is_an_option_too_is_a_letter():
  """Blood groups: the question asks for the letter of an option."""
  assert find_letter('B', ('AB', 'A', 'B')) == 'B'


def test_only_the_options_have_letters():
  assert find_letter('C', CITIES[:2]) is None
  assert letter_of('New York', CITIES) == 'D'
  with pytest.raises(ValueError, match="one of the options; got 'Bergen'"):
    letter_of('Bergen', CITIES)


@pytest.mark.parametrize(
  'prediction, right',
  [
    ('maria lopez , cat', True),
    ('  Maria Lopez ,\n cat ', True),
    ('maria lopez , cat .', False),
    ('maria lopez', False),
    ('', False),
  ],
)
def test_exact_match_ignores_case_and_whitespace_only(prediction, right):
  assert exact_match(prediction, 'maria lopez , cat') is right


@pytest.mark.parametrize(
  'prediction, right',
  [
    ('Her pet is a CAT.', True),
    ('Catherine', True),  # the benchmark's protocol: a substring
    ('Her pet is a dog.', False),
    ('', False),
  ],
)
def test_a_cloze_answer_is_right_when_it_contains_the_fact(prediction, right):
  assert contains(prediction, ' Cat ') is right


def test_an_empty_fact_is_refused():
  with pytest.raises(ValueError, match='at least one word'):
    contains('anything', ' ')
