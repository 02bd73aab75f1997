"""Errors keep the class that callers catch, and findings are one line."""

import pytest

from mmu_jax import errors


@pytest.mark.parametrize(
  'kind, caught',
  [
    (errors.MissingError, (ValueError, FileNotFoundError)),
    (errors.DiskError, (ValueError, OSError)),
    (errors.Collapse, (ArithmeticError,)),
  ],
)
def test_an_error_is_caught_as_what_it_is(kind, caught):
  assert all(issubclass(kind, other) for other in caught)
  assert str(kind('what to do')) == 'what to do'


def test_a_finding_is_one_sentence_and_its_fix():
  finding = errors.Finding(errors.FAIL, 'disk', '1 GB free', 'Free some.')
  assert finding.line() == '[red]FAIL[/] disk: 1 GB free. Free some.'
  assert finding._replace(fix='').line().endswith('disk: 1 GB free')
