"""The notebooks were committed with outputs; tests/test_docs.py runs them."""

import notebook_files
import pytest


def test_there_is_a_quickstart():
  assert [path.name for path in notebook_files.PATHS][:1] == [
    '01_quickstart.ipynb'
  ]


@pytest.mark.parametrize(
  'path', notebook_files.PATHS, ids=lambda path: path.stem
)
def test_notebook_is_committed_with_the_outputs_of_one_clean_run(path):
  made = notebook_files.read(path)
  cells = notebook_files.code(made)
  counts = [cell.execution_count for cell in cells]
  assert counts == list(range(1, len(cells) + 1))
  outputs = [output for cell in cells for output in cell.outputs]
  assert not any(output.output_type == 'error' for output in outputs)
  assert notebook_files.pictures(made) >= 6


@pytest.mark.parametrize(
  'path', notebook_files.PATHS, ids=lambda path: path.stem
)
def test_notebook_names_no_folder_of_the_machine_it_was_run_on(path):
  text = path.read_text()
  for folder in ('/home/', '/root/', '/work/', '/tmp/'):
    assert folder not in text, folder
