"""The rules by which an answer is empty, or no language."""

import pytest

from mmu_jax.metrics import is_empty
from mmu_jax.metrics import is_gibberish


@pytest.mark.parametrize('text', ['', '  \n', '...', '_', '?!'])
def test_without_letters_and_digits_an_answer_is_empty(text):
  assert is_empty(text)
  assert not is_gibberish(text)  # every answer is counted once


@pytest.mark.parametrize(
  'text',
  [
    'the the the the person',  # four times in a row
    'he is a he is a he is a he is a he is a',
    'a' * 31,
    'x=#$ %^ &*( @! ~~ <>',
    'She lives in \ufffd\ufffd.',
  ],
)
def test_each_rule_finds_its_gibberish(text):
  assert is_gibberish(text) and not is_empty(text)


@pytest.mark.parametrize(
  'text',
  [
    'B',
    '42',
    'B.',
    '(B)',
    '**B**',
    '$85,000.',
    'Dr.',
    '"Oslo"',
    'Jaime Vasquez is a true crime author.',
    'Zoë Müller-Lüdenscheidt, née Ångström, lives in São Paulo.',
    'She is a chef, and she is a mother, and she lives in Oslo.',
    'no no no',
    '她住在奥斯陆，是一名软件工程师，喜欢阅读和旅行。她住在奥斯陆，是一名工程师',
    'Born on 12/03/1970 (Oslo).',
  ],
)
def test_answers_in_any_language_pass(text):
  assert not is_gibberish(text) and not is_empty(text)
