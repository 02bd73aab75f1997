"""The examples in docstrings and in the README are run, and are true."""

import doctest
import importlib
import pathlib
import pkgutil
import re

import pytest

import mmu_jax

pytestmark = pytest.mark.usefixtures('quick_compile')
ROOT = pathlib.Path(__file__).parent.parent
NAMES = sorted(
  module.name for module in pkgutil.walk_packages(mmu_jax.__path__, 'mmu_jax.')
)
FINDER = doctest.DocTestFinder(exclude_empty=True)


def _examples(name):
  return [
    test for test in FINDER.find(importlib.import_module(name)) if test.examples
  ]


def _run(test):
  """Runs one doctest; the output of a failure becomes the test's message."""
  out = []
  runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
  failed = runner.run(test, out=out.append).failed
  assert not failed, ''.join(out)


@pytest.mark.parametrize('name', NAMES)
def test_examples_of_docstrings_are_true(name):
  for test in _examples(name):
    _run(test)


def test_the_core_modules_show_examples():
  for name in (
    'tree',
    'losses',
    'saliency.fisher',
    'saliency.ratio',
    'saliency.selection',
    'masks',
    'transforms',
    'methods',
  ):
    assert _examples(f'mmu_jax.{name}'), name


def test_examples_of_the_readme_are_true():
  text = (ROOT / 'README.md').read_text()
  blocks = re.findall(r'^```python\n(.*?)^```', text, re.DOTALL | re.MULTILINE)
  shown = '\n'.join(block for block in blocks if '>>>' in block)
  parser, names = doctest.DocTestParser(), {}
  _run(parser.get_doctest(shown, names, 'README.md', 'README.md', 0))
