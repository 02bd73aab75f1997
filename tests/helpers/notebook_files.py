"""The notebooks of the checkout, and how tests run one."""

import pathlib

import compiling
import nbclient
import nbformat
from paths import ROOT

PATHS = sorted((ROOT / 'notebooks').glob('*.ipynb'))
PICTURES = 5  # at least
# The models that each starts from.
NEEDS = {
  '01_quickstart': ('vanilla', 'retrained', 'mmunlearner', 'counterfactual'),
  '02_what_the_mask_selects': ('vanilla',),
  '03_forget_retain_tradeoff': (
    'vanilla',
    'retrained',
    'ga_diff',
    'mmunlearner',
    'counterfactual',
  ),
}


def read(path: pathlib.Path):
  """A notebook with its outputs."""
  return nbformat.read(path, as_version=4)


def code(notebook) -> list:
  """Its cells of code."""
  return [cell for cell in notebook.cells if cell.cell_type == 'code']


def pictures(notebook) -> int:
  """The number of pictures among its outputs."""
  outputs = [output for cell in code(notebook) for output in cell.outputs]
  return sum('image/png' in output.get('data', {}) for output in outputs)


def run(path: pathlib.Path, workdir: pathlib.Path, patch):
  """Runs a notebook in its fast mode on a workdir; returns it.

  Args:
    path: the notebook.
    workdir: folder of its job, finished or not.
    patch: a ``pytest.MonkeyPatch``, for the variables of the process.
  """
  patch.setenv('MMU_FAST', '1')
  patch.setenv('XLA_FLAGS', compiling.flags(1))  # as a notebook has
  patch.setenv('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')  # compiles fast
  patch.setenv('MMU_WORKDIR', str(workdir))
  made = read(path)
  where = {'metadata': {'path': path.parent}}
  nbclient.NotebookClient(made, timeout=600, resources=where).execute()
  return made
