"""The code stays as easy to live in as it is: no figure beyond its limit."""

import functools

import house_figures
import pytest

measured = functools.cache(house_figures.measure)


@pytest.mark.parametrize('title, limit', house_figures.LIMITS.items())
def test_no_figure_is_beyond_its_limit(title, limit):
  found = measured()
  lines = '\n'.join(found.lists.get(title, [])[:20])
  assert found.figures[title] <= limit, (
    f'{title}: at most {limit}, is {found.figures[title]}\n{lines}\n'
    'see `python tests/benchmarks/house_figures.py --list`'
  )
