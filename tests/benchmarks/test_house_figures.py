"""Figures of a small package that is written here, counted by hand."""

import house_figures
import pytest

_MODULE = '''"""Says what is in that of another."""
# One comment.
from typing import NamedTuple
class Pair(NamedTuple):
  """Two.

  Attributes:
    left: of the whole batch.
    right: array ``[B]``.
  """
def read(rows, more):  # fmt: skip
  """Reads.

  Args:
    rows: rows of the whole batch,
      of which some are read.
    more: whose rows they are.
  """
def _hidden(): pass
'''


@pytest.fixture
def checkout(tmp_path):
  for name in ('top', 'data/one', 'data/two'):
    path = tmp_path / 'mmu_jax' / f'{name}.py'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_MODULE if name != 'top' else 'X = 1\n')
  test = tmp_path / 'tests' / 'data' / 'test_one.py'
  test.parent.mkdir(parents=True)
  test.write_text('')
  (tmp_path / 'README.md').write_text('# Title\n```python\n```\n')
  return tmp_path


def test_figures_of_a_small_package(checkout):
  figures = house_figures.measure(checkout).figures
  assert figures['package lines'] == 1 + 2 * 19
  assert figures['modules'] == 3
  assert figures[house_figures.TOP] == 1
  assert figures[house_figures.FULLEST] == 2
  assert figures['public names'] == 4  # `Pair` and `read`, twice
  assert figures[house_figures.SHARED] == 2
  assert figures[house_figures.SKIPS] == 2
  assert figures[house_figures.FIRST_PYTHON] == 2
  # Of four entries one opens with 'of' and another with 'whose'.
  assert figures[house_figures.FRAGMENTS] == 25
  assert figures[house_figures.NOUNLESS] == 50
  assert figures[house_figures.UNTESTED] == 2
  words = 7 + (1 + 1 + 5 + 3) + (1 + 1 + 11 + 5)
  assert figures[house_figures.THAT_OF] == pytest.approx(1000 / words)


def test_check_names_the_figures_that_are_beyond_their_limits(checkout, capsys):
  assert house_figures.main([str(checkout)]) is None
  message = house_figures.main([str(checkout), '--check', '--list'])
  assert '`fmt: skip`: at most 0, is 2' in message
  assert 'data/one.py:4 Pair(left): of the whole batch.' in (
    capsys.readouterr().out
  )
