"""Disks that are full: the last whole step is kept, and every process hears."""

import resource
import signal

import jax
import jax.numpy as jnp
import numpy as np
import process_group
import pytest

from mmu_jax import checkpoint
from mmu_jax import workdir
from mmu_jax.checkpoint import orbax_handler


def _bytes(tree):
  return [np.asarray(x).tobytes() for x in jax.tree.leaves(tree)]


def test_a_leaf_that_is_left_out_is_not_read(tmp_path):
  checkpoint.save(tmp_path, {'a': jnp.arange(3), 'b': jnp.ones(2)}, {})
  stored = orbax_handler.describe_arrays(tmp_path / '0')
  assert stored['a'].shape == (3,) and stored['b'].dtype == jnp.float32
  like = {
    'a': jax.ShapeDtypeStruct((3,), jnp.int32),
    'b': orbax_handler.LEFT_OUT,
  }
  read = orbax_handler.read_arrays(tmp_path / '0', like)
  assert read['a'].tolist() == [0, 1, 2]
  assert read['b'] is orbax_handler.LEFT_OUT


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
