"""Disks that flip a byte, lose a file or are full: what is whole is kept."""

import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import process_group
import pytest

from mmu_jax import checkpoint
from mmu_jax import workdir
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


@pytest.fixture
def small_files():
  """Lets this process write no file above some size: a full disk, nearly."""
  before = resource.getrlimit(resource.RLIMIT_FSIZE)

  def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))

  old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
  yield limit
  resource.setrlimit(resource.RLIMIT_FSIZE, before)
  signal.signal(signal.SIGXFSZ, old)


def _large(step):
  noise = np.random.default_rng(step).normal(size=200_000)
  return {'x': jnp.asarray(noise, jnp.float32)}


def _check_message(error, folder):
  message = str(error.value)
  assert str(folder) in message
  assert 'step 1 there is whole' in message
  assert 'Free space' in message and 'run the same command again' in message
  assert 'File too large' in message  # what the system says


@pytest.mark.parametrize('where', ['save', 'wait', 'end'])
def test_a_full_disk_leaves_the_last_step_and_says_so(
  tmp_path, small_files, where, caplog
):
  with pytest.raises(OSError, match='cannot be written') as error:
    with checkpoint.Series(tmp_path) as series:
      series.save(1, _large(1), {'round': 1})
      series.wait()
      small_files(100_000)
      series.save(2, _large(2), {'round': 2})
      if where == 'save':
        series.save(3, {'x': jnp.zeros(2)}, {})
      elif where == 'wait':
        series.wait()
  _check_message(error, tmp_path)
  assert 'Traceback' not in caplog.text  # said once, not by every thread
  small_files(resource.RLIM_INFINITY)
  restored = checkpoint.restore(tmp_path, _large(0))
  assert (restored.step, restored.note) == (1, {'round': 1})
  assert _bytes(restored.tree) == _bytes(_large(1))
  with checkpoint.Series(tmp_path) as series:  # the same command again
    assert [p.name for p in tmp_path.iterdir()] == ['1']  # no half one left
    series.save(2, _large(2), {'round': 2})
  assert _bytes(checkpoint.restore(tmp_path, _large(0)).tree) == _bytes(
    _large(2)
  )


def test_the_first_error_of_a_run_is_the_one_that_is_shown(
  tmp_path, small_files
):
  with pytest.raises(FloatingPointError, match='round 7') as error:
    with checkpoint.Series(tmp_path) as series:
      series.save(1, _large(1), {})
      series.wait()
      small_files(100_000)
      series.save(2, _large(2), {})
      raise FloatingPointError('round 7')
  assert 'step 1 there is whole' in ' '.join(error.value.__notes__)


def test_a_final_tree_on_a_full_disk_leaves_the_old_one(tmp_path, small_files):
  checkpoint.save(tmp_path / 'p', _large(1), {'rounds': 1})
  small_files(100_000)
  with pytest.raises(OSError, match='step 0 there is whole'):
    checkpoint.save(tmp_path / 'p', _large(2), {'rounds': 2})
  small_files(resource.RLIM_INFINITY)
  restored = checkpoint.restore(tmp_path / 'p', _large(0))
  assert _bytes(restored.tree) == _bytes(_large(1))
  assert restored.note == checkpoint.read_note(tmp_path / 'p') == {'rounds': 1}


def test_a_folder_that_is_not_writable_is_an_error_before_training(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(OSError, match='none is there yet.*writable'):
    checkpoint.Series(tmp_path / 'file' / 'checkpoints')


def test_a_json_file_on_a_full_disk_leaves_the_old_one(tmp_path, small_files):
  path = tmp_path / 'results.jsonl'
  workdir.write_jsonl(path, [{'n': 1}])
  small_files(1_000)
  with pytest.raises(OSError, match='Free space') as error:
    workdir.write_jsonl(path, [{'text': 'x' * 2_000}])
  assert str(path) in str(error.value)
  assert workdir.read_jsonl(path) == [{'n': 1}]
  assert [p.name for p in tmp_path.iterdir()] == ['results.jsonl']


FULL = """
  import pathlib, resource, signal, sys
  from mmu_jax import distributed
  distributed.initialize()
  import jax
  import numpy as np
  from mmu_jax import checkpoint, sharding

  folder, full = sys.argv[1:]
  place = jax.NamedSharding(
      sharding.make_mesh('fsdp=2'), jax.sharding.PartitionSpec('fsdp'))

  def tree(step):
    noise = np.random.default_rng(step).normal(size=(2, 100_000))
    return {'x': jax.make_array_from_callback(
        noise.shape, place, lambda index: np.float32(noise[index]))}

  signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  try:
    with checkpoint.Series(folder) as series:
      series.save(1, tree(1), {})
      series.wait()
      if jax.process_index() == int(full):
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
      settle = series._settle
      def killed():  # what a job leaves that is killed before it deletes
        there = sorted(p.name for p in pathlib.Path(folder).iterdir())
        print('there:', there, checkpoint.latest_step(folder))
        return settle()
      series._settle = killed
      series.save(2, tree(2), {})
      series.save(3, tree(3), {})
  except OSError as error:
    print('told:', error, getattr(error, '__notes__', []))
  resource.setrlimit(resource.RLIMIT_FSIZE, before)
  assert checkpoint.restore(folder, tree(0)).step == 1
  with checkpoint.Series(folder) as series:
    series.save(2, tree(2), {})
  restored = checkpoint.restore(folder, tree(0))
  assert restored.step == 2
  for got, want in zip(restored.tree['x'].addressable_shards,
                       tree(2)['x'].addressable_shards):
    np.testing.assert_array_equal(got.data, want.data)
"""


@pytest.mark.parametrize('full', [0, 1])
def test_where_one_process_cannot_write_all_hear_of_it(tmp_path, full):
  """None waits for the other, and the job can go on when there is space."""
  outputs = process_group.results(
    FULL, arguments=[str(tmp_path), str(full)], timeout=60
  )
  for output in outputs:
    assert 'told: a checkpoint cannot be written' in output
    assert 'step 1 there is whole' in output
  assert "there: ['1', '2'] 1" in outputs[0]  # 2 has its name, and is none
  assert 'File too large' in outputs[full]
  if full:
    assert 'processes [1] have not written their parts' in outputs[0]


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
