"""A whole job gives the same on any number of devices and processes.

Every layout runs the command line in processes of its own: base, vanilla,
retrained, importances, the mask, two runs, evaluation, report.
"""

import json
import os
import pathlib
import subprocess
import sys

import compiling
import numpy as np
import pytest
import workdirs

from mmu_jax import masks as masks_lib

pytestmark = pytest.mark.scale
HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]
# Name -> processes, devices of each, mesh: every axis, processes that hold
# parts of one copy, and processes that hold copies.
LAYOUTS = {
  '1 device': (1, 1, 'fsdp=-1'),
  '8 devices': (1, 8, 'data=2,fsdp=2,tensor=2'),
  '2 processes': (2, 2, 'fsdp=-1'),
  '4 processes': (4, 1, 'data=2,fsdp=2'),
}
# Four processes compile everything four times: MMU_LAYOUTS=all runs them, too.
OTHERS = ['8 devices', '2 processes']
if os.environ.get('MMU_LAYOUTS') == 'all':
  OTHERS.append('4 processes')


def _command(layout, workdir):
  processes, devices, mesh = LAYOUTS[layout]
  job = [
    sys.executable,
    '-m',
    'mmu_jax',
    'pipeline',
    f'--config={HERE / "small_job.py"}',
    f'--workdir={workdir}',
    f'--config.mesh={mesh}',
  ]
  if processes == 1:
    return job
  return [*_local(processes, devices), '--', *job]


def _local(processes, devices):
  """The launcher, as docs/many_devices.md calls it."""
  (line,) = (
    line
    for line in (ROOT / 'docs' / 'many_devices.md').read_text().splitlines()
    if 'launch/local.py' in line
  )
  python, path, *flags = line.split()
  assert python == 'python' and flags[-2:] == ['--', '\\']
  assert flags[:-2] == ['--processes=2', '--devices=2']
  counts = [f'--processes={processes}', f'--devices={devices}']
  return [sys.executable, path, *counts]


def _run(layout, workdir):
  """Runs the job in a layout."""
  devices = LAYOUTS[layout][1]
  done = subprocess.run(
    _command(layout, workdir),
    cwd=ROOT,
    env=os.environ
    | {
      'JAX_PLATFORMS': 'cpu',
      'XLA_FLAGS': compiling.flags(devices),
      'JAX_DISABLE_MOST_OPTIMIZATIONS': '1',  # compiles fast
    },
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
  return workdir


@pytest.fixture(scope='module')
def alone(tmp_path_factory):
  """The workdir of one device."""
  return _run('1 device', tmp_path_factory.mktemp('alone') / 'job')


@pytest.fixture(scope='module', params=OTHERS)
def shared(request, tmp_path_factory):
  """The workdir of several devices or processes."""
  return _run(request.param, tmp_path_factory.mktemp('shared') / 'job')


def test_the_manifest_says_where_the_job_ran(shared, request):
  layout = request.node.callspec.params['shared']
  manifest = json.loads((shared / 'manifest.json').read_text())
  processes, devices, _ = LAYOUTS[layout]
  assert manifest['processes'] == processes
  assert int(np.prod(list(manifest['mesh'].values()))) == processes * devices


def test_losses_agree_to_one_in_a_hundred_thousand(alone, shared):
  want, got = workdirs.losses(alone), workdirs.losses(shared)
  assert got.keys() == want.keys() and len(want) >= 6
  worst = max(abs(got[k] / want[k] - 1) for k in want)
  print(f'largest relative difference of {len(want)} losses: {worst:.1e}')
  assert worst < 1e-5


def test_masks_differ_in_near_ties_alone(alone, shared):
  """A bit may differ where the saliency is 1 but for rounding."""
  a, b = workdirs.trees(alone), workdirs.trees(shared)
  assert a.keys() == b.keys()
  scores = _scores(a)
  bits = {k: _bits(t['mask/saliency'], scores) for k, t in (('a', a), ('b', b))}
  different = {k: bits['a'][k] != bits['b'][k] for k in scores}
  ties = sum(int(x.sum()) for x in different.values())
  total = sum(x.size for x in different.values())
  print(f'{ties} of {total} bits of the mask differ')
  for name, where in different.items():
    np.testing.assert_allclose(scores[name][where], 1, rtol=1e-3)
  assert ties <= 1e-4 * total


def _scores(trees):
  """The saliency of every entry, from the importances on disk: float64."""
  forget, pictures, text = (
    {k: x.astype(np.float64) for k, x in trees[f'importance/{name}'].items()}
    for name in ('forget', 'retain_vqa', 'text')
  )
  mean = lambda tree, part: (
    sum(x.sum() for k, x in tree.items() if k.startswith(part))
    / sum(x.size for k, x in tree.items() if k.startswith(part))
  )
  found = {}
  for name in forget:
    part = name.partition('/')[0]
    sets = [pictures, text] if part == 'language_model' else [pictures]
    share = lambda tree: tree[name] / (mean(tree, part) or 1) + 1e-15
    found[name] = share(forget) / np.max([share(tree) for tree in sets], axis=0)
  return found


def _bits(packed, like):
  return {
    name: np.asarray(masks_lib.unpack({'x': packed[name]}, {'x': x})['x'])
    for name, x in like.items()
  }


def test_final_scores_are_equal(alone, shared):
  want, got = workdirs.scores(alone), workdirs.scores(shared)
  assert got.keys() == want.keys() and len(want) > 100
  # Nats are rounded to four places; shares of right answers are exact.
  same = lambda k: (
    got[k]
    == (
      pytest.approx(want[k], rel=1e-5, abs=1e-4) if k[-1] == 'nll' else want[k]
    )
  )
  assert not {k: (got[k], want[k]) for k in want if not same(k)}
