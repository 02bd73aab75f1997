"""Right or wrong, up to case and whitespace."""

import pytest

from mmu_jax.metrics import contains
from mmu_jax.metrics import exact_match


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
