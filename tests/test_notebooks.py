"""The notebooks were committed with outputs; tests/test_docs.py runs them."""

import re

import notebook_files
from paths import ROOT
import pytest

each_notebook = pytest.mark.parametrize(
  'path', notebook_files.PATHS, ids=lambda path: path.stem
)


def test_there_are_three_notebooks():
  assert {path.stem for path in notebook_files.PATHS} == {*notebook_files.NEEDS}


@each_notebook
def test_notebook_is_committed_with_the_outputs_of_one_clean_run(path):
  made = notebook_files.read(path)
  cells = notebook_files.code(made)
  counts = [cell.execution_count for cell in cells]
  assert counts == list(range(1, len(cells) + 1))
  outputs = [output for cell in cells for output in cell.outputs]
  assert not any(output.output_type == 'error' for output in outputs)
  assert notebook_files.pictures(made) >= notebook_files.PICTURES


@each_notebook
def test_notebook_ends_with_a_picture_and_a_word_on_what_comes_next(path):
  made = notebook_files.read(path)
  last = made.cells[-1]
  assert last.cell_type == 'markdown' and 'docs/results.md' in last.source
  outputs = [out for c in notebook_files.code(made)[-2:] for out in c.outputs]
  assert any('image/png' in output.get('data', {}) for output in outputs)


@each_notebook
def test_files_that_a_notebook_names_exist(path):
  text = '\n'.join(cell.source for cell in notebook_files.read(path).cells)
  for name in re.findall(r'`([\w/]+\.(?:md|ipynb))`', text):
    folder = 'notebooks' if name.endswith('ipynb') else ''
    assert (ROOT / folder / name).exists(), name


@each_notebook
def test_helper_code_of_a_notebook_is_hidden(path):
  """Jupyter and Colab fold a cell that begins with a title."""
  for cell in notebook_files.code(notebook_files.read(path)):
    hidden = cell.source.startswith('#@title')
    assert hidden == (cell.metadata.get('cellView') == 'form')
    assert hidden or len(cell.source.splitlines()) <= 40


@each_notebook
def test_notebook_names_no_folder_of_the_machine_it_was_run_on(path):
  text = path.read_text()
  for folder in ('/home/', '/root/', '/work/', '/tmp/'):
    assert folder not in text, folder
