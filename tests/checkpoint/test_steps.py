"""Disks that flip a byte or lose a file, and kills: whole steps are kept."""

import pathlib
import shutil
import subprocess
import sys
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmu_jax import checkpoint
from mmu_jax.checkpoint import digests
from mmu_jax.checkpoint import steps as step_folders

SEED = np.random.SeedSequence().entropy  # fresh; in every message
# Made when all is there; they say when, and to whom, and nothing reads them.
UNREAD = ('_CHECKPOINT_METADATA', 'commit_success.txt')


def _tree(step):
  """Noise, which compression leaves as it is, and a small and an int leaf."""
  rng = np.random.default_rng(step)
  return {
    'w': jnp.asarray(rng.normal(size=(60, 50)), jnp.float32),
    'inner': {
      'bits': jnp.asarray(rng.integers(0, 256, 400), jnp.uint8),
      'step': jnp.int32(step),
    },
  }


def _bytes(tree):
  return [np.asarray(x).tobytes() for x in jax.tree.leaves(tree)]


def _files(folder):
  found = (
    p.relative_to(folder) for p in sorted(folder.rglob('*')) if p.is_file()
  )
  return [path for path in found if path.name not in UNREAD]


def _flip(path, rng):
  data = bytearray(path.read_bytes())
  data[rng.integers(len(data))] ^= 1 << rng.integers(8)
  path.write_bytes(data)


DAMAGES = {
  'a bit flipped': _flip,
  'cut': lambda path, rng: path.write_bytes(
    path.read_bytes()[: rng.integers(path.stat().st_size)]
  ),
  'deleted': lambda path, rng: path.unlink(),
  'longer': lambda path, rng: path.write_bytes(path.read_bytes() + b'\0'),
}


@pytest.fixture(scope='module')
def series(tmp_path_factory):
  """Three steps; copied by the tests that damage them."""
  folder = tmp_path_factory.mktemp('made') / 'series'
  with checkpoint.Series(folder, keep_last=3) as made:
    for step in (10, 20, 30):
      made.save(step, _tree(step), {'round': step})
  return folder


@pytest.fixture
def copied(series, tmp_path):
  return shutil.copytree(series, tmp_path / 'series')


@pytest.mark.parametrize('damage', DAMAGES.values(), ids=DAMAGES.keys())
def test_any_damage_to_any_file_falls_back_to_the_step_before(
  series, tmp_path, damage
):
  rng = np.random.default_rng(SEED)
  for file in _files(series / '30'):
    folder = shutil.copytree(series, tmp_path / 'x')
    before = (folder / '30' / file).read_bytes()
    damage(folder / '30' / file, rng)
    said = f'{file}, seed {SEED}, {len(before)} bytes'
    with pytest.warns(UserWarning, match='step 30 is damaged') as warned:
      restored = checkpoint.restore(folder, _tree(0))
    assert restored.step == 20, said
    assert _bytes(restored.tree) == _bytes(_tree(20)), said
    assert restored.note == {'round': 20}, said
    assert 'Step 20, the one before' in str(warned[0].message)
    assert checkpoint.latest_step(folder) == 20
    assert (folder / '30.damaged').is_dir()
    shutil.rmtree(folder)


def test_what_says_when_a_step_was_made_is_not_needed(copied):
  for name in UNREAD:
    (copied / '30' / name).unlink()
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    restored = checkpoint.restore(copied, _tree(0))
  assert _bytes(restored.tree) == _bytes(_tree(30))


def test_without_checksums_a_flipped_bit_would_be_restored(copied, monkeypatch):
  """So they are needed: neither Orbax nor TensorStore notices."""
  noise = np.asarray(_tree(30)['w']).tobytes()
  files = [copied / '30' / file for file in _files(copied / '30')]
  (file,) = [path for path in files if noise in path.read_bytes()]
  data = bytearray(file.read_bytes())
  at = data.find(noise) + np.random.default_rng(SEED).integers(len(noise))
  data[at] ^= 1  # of the array: a file holds more, and not all of it is read
  file.write_bytes(data)
  monkeypatch.setattr(digests, 'blocks', lambda path: ([], []))
  restored = checkpoint.restore(copied, _tree(0))
  assert restored.step == 30
  assert _bytes(restored.tree) != _bytes(_tree(30)), SEED


def test_only_the_first_process_warns(copied, monkeypatch):
  (copied / '30' / '_METADATA').unlink()
  monkeypatch.setattr(step_folders.distributed, 'is_first', lambda: False)
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    assert checkpoint.restore(copied, _tree(0)).step == 20


def test_two_damaged_steps_fall_back_to_the_third(copied):
  rng = np.random.default_rng(SEED)
  for step in ('20', '30'):
    _flip(copied / step / '_METADATA', rng)
  with pytest.warns(UserWarning, match='step 30 is damaged.*step 20 is'):
    restored = checkpoint.restore(copied, _tree(0))
  assert (restored.step, restored.note) == (10, {'round': 10})
  assert _bytes(restored.tree) == _bytes(_tree(10))


def test_where_no_step_is_whole_every_attempt_says_so(copied):
  """A second attempt must not find an empty folder and start from nothing."""
  for step in ('10', '20', '30'):
    shutil.rmtree(copied / step / 'ocdbt.process_0')
  for _ in range(2):
    with pytest.raises(ValueError, match='no other is left') as error:
      checkpoint.restore(copied, _tree(0))
    for step in (10, 20, 30):
      assert f'step {step} is damaged' in str(error.value)
    assert 'Delete this step' in str(error.value)
    assert checkpoint.latest_step(copied) == 30


def test_a_step_that_is_asked_for_is_that_one_or_an_error(copied):
  (copied / '30' / '_NOTE').write_text('{"round": 31}')
  with pytest.raises(ValueError, match='30 is damaged.*_NOTE is not as it was'):
    checkpoint.restore(copied, _tree(0), step=30)
  assert checkpoint.latest_step(copied) == 30  # nothing is renamed
  assert checkpoint.restore(copied, _tree(0), step=20).step == 20


def test_after_a_fallback_the_same_step_is_saved_again(copied):
  (copied / '30' / '_METADATA').unlink()
  with pytest.warns(UserWarning, match='step 30 is damaged'):
    assert checkpoint.restore(copied, _tree(0)).step == 20
  with checkpoint.Series(copied, keep_last=2) as again:
    again.save(30, _tree(31), {'round': 'again'})
  restored = checkpoint.restore(copied, _tree(0))
  assert (restored.step, restored.note) == (30, {'round': 'again'})
  assert _bytes(restored.tree) == _bytes(_tree(31))


def test_a_step_that_was_given_up_is_none_and_goes_when_the_run_goes_on(copied):
  """Orbax gives it its number; the job may be killed before it is deleted."""
  step_folders.give_up(copied / '30')
  (copied / '40').mkdir()  # not one of ours
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    assert checkpoint.latest_step(copied) == 20
    assert checkpoint.restore(copied, _tree(0)).step == 20
    with pytest.raises(FileNotFoundError, match='of step 30'):
      checkpoint.restore(copied, _tree(0), step=30)
  for step in (10, 20):
    step_folders.give_up(copied / str(step))
  assert checkpoint.latest_step(copied) is None
  with checkpoint.Series(copied):
    assert [p.name for p in copied.iterdir()] == ['40']


def test_a_damaged_step_that_cannot_be_renamed_is_passed_over(
  copied, monkeypatch
):
  (copied / '30' / '_METADATA').unlink()

  def refused(*_):
    raise PermissionError(13, 'Permission denied')

  monkeypatch.setattr(pathlib.Path, 'rename', refused)
  for _ in range(2):
    with pytest.warns(UserWarning, match='step 30 is damaged'):
      assert checkpoint.restore(copied, _tree(0)).step == 20


def test_a_damaged_single_tree_is_a_clear_error(tmp_path):
  checkpoint.save(tmp_path / 'params', _tree(1), {'rounds': 1})
  files = _files(tmp_path / 'params' / '0')
  rng = np.random.default_rng(SEED)
  _flip(tmp_path / 'params' / '0' / files[rng.integers(len(files))], rng)
  for read in (
    lambda: checkpoint.restore(tmp_path / 'params', _tree(0)),
    lambda: checkpoint.restore_leaf(tmp_path / 'params', 'w', _tree(0)['w']),
  ):
    with pytest.raises(ValueError, match='Delete this step') as error:
      read()
    assert str(tmp_path / 'params' / '0') in str(error.value)


SAVES = """
import sys
import jax.numpy as jnp
import numpy as np
from mmu_jax import checkpoint

def tree(n):
  noise = np.random.default_rng(n).normal(size=(300, 1000))
  return {'x': jnp.asarray(noise, jnp.float32), 'n': jnp.int32(n)}

folder, kind = sys.argv[1:]
first = 1 + (checkpoint.latest_step(folder) or 0)
if kind == 'save':
  for n in range(first, first + 1000):
    checkpoint.save(folder, tree(n), {'n': n})
    print(n, flush=True)
else:
  with checkpoint.Series(folder) as series:
    for n in range(first, first + 1000):
      series.save(n, tree(n), {'n': n})
      print(n, flush=True)
"""


@pytest.mark.parametrize('kind', ['save', 'series'])
def test_a_kill_leaves_the_tree_before_or_the_new_one(tmp_path, kind):
  """Whole, each with its own note; and never less than was said to be there."""
  rng = np.random.default_rng(SEED)
  like = {
    'x': jax.ShapeDtypeStruct((300, 1000), jnp.float32),
    'n': jax.ShapeDtypeStruct((), jnp.int32),
  }
  for _ in range(3):
    started = subprocess.Popen(
      [sys.executable, '-c', SAVES, str(tmp_path), kind],
      stdout=subprocess.PIPE,
      text=True,
    )
    for _ in range(2):  # it is at work: one step at least is on disk
      said = int(started.stdout.readline())
    time.sleep(rng.uniform(0, 0.4))
    started.kill()
    said = int((started.stdout.read().split() or [said])[-1])
    started.wait()
    with warnings.catch_warnings():
      warnings.simplefilter('error')  # nothing is damaged
      restored = checkpoint.restore(tmp_path, like)
    n = restored.note['n']
    assert restored.tree['n'] == n, SEED
    want = np.random.default_rng(n).normal(size=(300, 1000))
    np.testing.assert_array_equal(restored.tree['x'], np.float32(want))
    # A series says when it has begun a step; the one before is on disk then.
    assert n >= said - (kind == 'series'), SEED
    assert checkpoint.read_note(tmp_path) == {'n': n}
