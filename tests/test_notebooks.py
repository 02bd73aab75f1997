"""The notebooks run from top to bottom, and were committed with outputs."""

import pathlib

import compiling
import nbclient
import nbformat
import pytest

NOTEBOOKS = sorted(
  (pathlib.Path(__file__).parent.parent / 'notebooks').glob('*.ipynb')
)


def _read(path):
  return nbformat.read(path, as_version=4)


def _code(notebook):
  return [cell for cell in notebook.cells if cell.cell_type == 'code']


def test_there_is_a_quickstart():
  assert [path.name for path in NOTEBOOKS][:1] == ['01_quickstart.ipynb']


@pytest.mark.slow
@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_in_its_fast_mode(path, tmp_path, monkeypatch):
  monkeypatch.setenv('MMU_FAST', '1')
  monkeypatch.setenv('XLA_FLAGS', compiling.flags(1))  # as a notebook has
  monkeypatch.setenv('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')  # compiles fast
  monkeypatch.setenv('MMU_WORKDIR', str(tmp_path / 'quickstart'))
  notebook = _read(path)
  nbclient.NotebookClient(
    notebook, timeout=600, resources={'metadata': {'path': path.parent}}
  ).execute()
  pictures = [
    output
    for cell in _code(notebook)
    for output in cell.outputs
    if 'image/png' in output.get('data', {})
  ]
  assert len(pictures) >= 6  # people, answers, mask, after, kept, scores


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_committed_with_the_outputs_of_one_clean_run(path):
  cells = _code(_read(path))
  counts = [cell.execution_count for cell in cells]
  assert counts == list(range(1, len(cells) + 1))
  outputs = [output for cell in cells for output in cell.outputs]
  assert not any(output.output_type == 'error' for output in outputs)
  assert sum('image/png' in o.get('data', {}) for o in outputs) >= 6


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_names_no_folder_of_the_machine_it_was_run_on(path):
  text = path.read_text()
  for folder in ('/home/', '/root/', '/work/', '/tmp/'):
    assert folder not in text, folder
