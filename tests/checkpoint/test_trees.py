"""What was saved comes back bit for bit, or an error says what is wrong."""

import json
import pathlib
import shutil
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import process_group
import pytest
import syncing

from mmu_jax import checkpoint
from mmu_jax import sharding

IO = pathlib.Path('/proc/self/io')


class Inner(NamedTuple):
  moments: dict
  count: jax.Array


class Outer(NamedTuple):
  params: dict
  state: Inner


def _tree(seed=0):
  """Every dtype that a run keeps, in NamedTuples within NamedTuples."""
  rng = np.random.default_rng(seed)
  numbers = jnp.asarray(rng.normal(size=(3, 5)), jnp.float32)
  half = jnp.asarray(rng.normal(size=(7,)), jnp.bfloat16)
  bits = jnp.asarray(rng.integers(0, 256, size=(2, 3)), jnp.uint8)
  special = jnp.array([-0.0, 1e-45, np.inf, -1.5], jnp.float32)
  return Outer(
    params={'a': {'w': numbers, 'special': special}, 'half': half},
    state=Inner({'bits': bits, 'w': numbers * 2}, jnp.int32(seed + 1)),
  )


def _bytes(tree):
  return [
    (x.dtype, x.shape, np.asarray(x).tobytes()) for x in jax.tree.leaves(tree)
  ]


def _like(tree):
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
  """A folder with one tree; copied by the tests that damage it."""
  folder = tmp_path_factory.mktemp('saved') / 'tree'
  checkpoint.save(folder, _tree(), {'threshold': 1.0, 'kinds': ['a', 'b']})
  return folder


@pytest.fixture
def copied(saved, tmp_path):
  return shutil.copytree(saved, tmp_path / 'tree')


def test_a_tree_comes_back_bit_for_bit(saved):
  restored = checkpoint.restore(saved, _like(_tree()))
  assert _bytes(restored.tree) == _bytes(_tree())
  assert isinstance(restored.tree, Outer)
  assert isinstance(restored.tree.state, Inner)
  assert restored.step == 0
  assert restored.note == {'threshold': 1.0, 'kinds': ['a', 'b']}


def test_arrays_are_tied_to_devices_only_where_it_is_wanted(saved):
  """Or every function compiles twice: once beside new arrays, once not."""
  free = checkpoint.restore(saved, _like(_tree())).tree
  assert not any(x.committed for x in jax.tree.leaves(free))
  device = jax.devices()[-1]
  tied = jax.sharding.SingleDeviceSharding(device)
  like = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=tied), _tree()
  )
  restored = checkpoint.restore(saved, like).tree
  assert all(x.devices() == {device} for x in jax.tree.leaves(restored))
  assert _bytes(restored) == _bytes(_tree())


def test_the_note_can_be_read_without_the_tree(saved):
  want = {'threshold': 1.0, 'kinds': ['a', 'b']}
  assert checkpoint.read_note(saved) == want
  assert json.loads((saved / 'note.json').read_text()) == want


def test_the_state_of_an_optimizer_comes_back_bit_for_bit(tmp_path):
  params = {'w': jnp.asarray(np.random.default_rng(0).normal(size=(4, 2)))}
  tx = optax.inject_hyperparams(optax.adamw)(learning_rate=0.1)
  state = tx.init(params)
  for _ in range(2):
    _, state = tx.update(params, state, params)
  checkpoint.save(tmp_path / 's', state, {})
  restored = checkpoint.restore(tmp_path / 's', tx.init(params)).tree
  assert jax.tree.structure(restored) == jax.tree.structure(state)
  assert _bytes(restored) == _bytes(state)


def test_saving_again_replaces_tree_and_note(copied):
  checkpoint.save(copied, _tree(9), {'threshold': 2.0})
  restored = checkpoint.restore(copied, _tree())
  assert _bytes(restored.tree) == _bytes(_tree(9))
  assert restored.note == checkpoint.read_note(copied) == {'threshold': 2.0}
  assert [p.name for p in copied.iterdir() if p.is_dir()] == ['1']


def test_a_save_that_is_killed_never_leaves_a_tree_without_its_note(
  tmp_path, monkeypatch
):
  def killed(*_, **__):
    raise KeyboardInterrupt

  for owner, name in ((pathlib.Path, 'replace'), (checkpoint.Series, 'save')):
    with monkeypatch.context() as patch:
      patch.setattr(owner, name, killed)
      with pytest.raises(KeyboardInterrupt):
        checkpoint.save(tmp_path / 'tree', _tree(), {'n': 1})
    assert checkpoint.latest_step(tmp_path / 'tree') is None
  checkpoint.save(tmp_path / 'tree', _tree(), {'n': 2})
  assert checkpoint.read_note(tmp_path / 'tree') == {'n': 2}
  assert checkpoint.restore(tmp_path / 'tree', _tree()).note == {'n': 2}


@pytest.mark.parametrize(
  'change, named',
  [
    (lambda t: t._replace(params=t.params['a']), 'params/a/w'),
    (
      lambda t: t._replace(params=t.params | {'new': jnp.ones(2)}),
      'params/new',
    ),
    (
      lambda t: t._replace(params=t.params | {'half': jnp.ones(8)}),
      r'params/half: \(7,\) instead of \(8,\)',
    ),
  ],
  ids=['unexpected', 'missing', 'shape'],
)
def test_another_tree_is_refused_and_its_leaves_are_named(saved, change, named):
  with pytest.raises(ValueError, match=named) as error:
    checkpoint.restore(saved, change(_tree()))
  assert str(saved / '0') in str(error.value)


@pytest.mark.parametrize('step', [None, 4])
def test_a_missing_checkpoint_names_folder_and_next_step(tmp_path, step):
  with pytest.raises(FileNotFoundError, match='Run the stage') as error:
    checkpoint.restore(tmp_path / 'nowhere', _tree(), step=step)
  assert str(tmp_path / 'nowhere') in str(error.value)
  with pytest.raises(FileNotFoundError, match='Run the stage') as error:
    checkpoint.read_note(tmp_path / 'nowhere')
  assert str(tmp_path / 'nowhere') in str(error.value)
  assert not (tmp_path / 'nowhere').exists()  # reading makes no folders


def _largest_file(folder):
  files = [path for path in folder.rglob('*') if path.is_file()]
  return max(files, key=lambda path: path.stat().st_size)


def _cut(path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGES = {
  'array file deleted': lambda f: _largest_file(f / '0').unlink(),
  'array file cut': lambda f: _cut(_largest_file(f / '0')),
  'array file empty': lambda f: _largest_file(f / '0').write_bytes(b''),
  'description deleted': lambda f: (f / '0' / '_METADATA').unlink(),
  'description cut': lambda f: _cut(f / '0' / '_METADATA'),
  'manifest deleted': lambda f: (f / '0' / 'manifest.ocdbt').unlink(),
  'tree deleted': lambda f: shutil.rmtree(f / '0' / 'ocdbt.process_0'),
  'note cut': lambda f: _cut(f / '0' / '_NOTE'),
  'note deleted': lambda f: (f / '0' / '_NOTE').unlink(),
}


@pytest.mark.parametrize('damage', DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_checkpoint_is_a_clear_error(copied, damage):
  damage(copied)
  with pytest.raises(ValueError) as error:
    checkpoint.restore(copied, _tree())
  message = str(error.value)
  assert str(copied / '0') in message
  assert 'Delete this step' in message


def test_a_series_keeps_the_newest(tmp_path):
  with checkpoint.Series(tmp_path, keep_last=2) as series:
    for step in (2, 4, 6):
      series.save(step, {'w': jnp.full(3, step)}, {'round': step})
  assert checkpoint.latest_step(tmp_path) == 6
  steps = sorted(int(p.name) for p in tmp_path.iterdir() if p.is_dir())
  assert steps == [4, 6]
  like = {'w': jnp.zeros(3, int)}
  for step in (4, 6):
    restored = checkpoint.restore(tmp_path, like, step=step)
    assert restored.note == {'round': step}
    np.testing.assert_array_equal(restored.tree['w'], [step] * 3)
  assert checkpoint.restore(tmp_path, like).step == 6
  with pytest.raises(FileNotFoundError, match='step 2'):
    checkpoint.restore(tmp_path, like, step=2)


def test_arrays_may_be_donated_while_they_are_written(tmp_path):
  values = np.random.default_rng(3).normal(size=100_000).astype(np.float32)
  overwrite = jax.jit(lambda x: x * 0, donate_argnums=0)
  with checkpoint.Series(tmp_path) as series:
    x = jnp.asarray(values)
    series.save(1, {'x': x}, {})
    overwrite(x)
  restored = checkpoint.restore(tmp_path, {'x': jnp.zeros(100_000)})
  np.testing.assert_array_equal(restored.tree['x'], values)


def test_unfinished_steps_do_not_count(copied):
  assert checkpoint.latest_step(copied) == 0
  half = copied / '7.orbax-checkpoint-tmp-1732150000'
  shutil.copytree(copied / '0', half)
  assert checkpoint.latest_step(copied) == 0
  assert checkpoint.restore(copied, _tree()).step == 0
  assert _bytes(checkpoint.restore(copied, _tree()).tree) == _bytes(_tree())


def test_an_empty_or_missing_folder_has_no_step(tmp_path):
  assert checkpoint.latest_step(tmp_path) is None
  assert checkpoint.latest_step(tmp_path / 'nowhere') is None


def test_steps_that_a_number_divides_are_kept_for_good(tmp_path):
  with checkpoint.Series(tmp_path, keep_last=2, keep_every=4) as series:
    for step in range(1, 10):
      series.save(step, {'w': jnp.full(3, step)}, {})
      series.wait()
  steps = sorted(int(p.name) for p in tmp_path.iterdir())
  assert steps == [4, 8, 9]
  with checkpoint.Series(tmp_path, keep_last=1, keep_every=8) as series:
    series.save(10, {'w': jnp.full(3, 10)}, {})
  assert sorted(int(p.name) for p in tmp_path.iterdir()) == [8, 10]


def test_a_step_is_on_disk_before_it_counts(tmp_path, monkeypatch):
  """Its files before its name, and its name before states are deleted."""
  events = syncing.record(monkeypatch)
  path = tmp_path / 'run' / 'params' / '7'
  with checkpoint.Series(path.parent) as series:
    series.save(7, {'w': jnp.arange(3.0)}, {'n': 1})
  assert syncing.is_lasting(events, path)
  assert any(e.path == tmp_path and 'run' in e.held for e in events)
  earlier = syncing.before(events, path)
  synced = {e.path.name for e in earlier}
  synced |= {e.path.name for e in earlier if e.kind == 'rename'}  # of ours
  unread = {'_CHECKPOINT_METADATA', 'commit_success.txt'}
  assert {file.name for file in path.rglob('*')} <= synced | unread
  half = [e for e in earlier if e.path.name.startswith('7.')][-1]
  assert half.held >= {'_NOTE', '_DIGESTS', '_METADATA'}


@pytest.mark.parametrize('keep', [{'keep_last': 0}, {'keep_every': -1}])
def test_numbers_out_of_their_range_are_refused(tmp_path, keep):
  with pytest.raises(ValueError, match='keep_last >= 1 and keep_every >= 0'):
    checkpoint.Series(tmp_path / 'x', **keep)
  assert not (tmp_path / 'x').exists()


def test_a_new_series_clears_what_a_killed_one_left(copied):
  for name in ('7.orbax-checkpoint-tmp-1732150000', '3.deleting'):
    shutil.copytree(copied / '0', copied / name)
  with checkpoint.Series(copied):
    pass
  assert sorted(p.name for p in copied.iterdir()) == ['0', 'note.json']


def test_split_arrays_may_be_donated_and_come_back_on_another_mesh(tmp_path):
  rng = np.random.default_rng()
  values = rng.normal(size=(64, 5000)).astype(np.float32)
  spread = jax.NamedSharding(
    sharding.make_mesh('fsdp=8'), jax.sharding.PartitionSpec('fsdp')
  )
  overwrite = jax.jit(lambda x: x * 0, donate_argnums=0)
  with checkpoint.Series(tmp_path) as series:
    x = jax.device_put(values, spread)
    series.save(1, {'x': x}, {})
    overwrite(x)
  other = jax.NamedSharding(
    sharding.make_mesh('fsdp=2,tensor=4'),
    jax.sharding.PartitionSpec('tensor', 'fsdp'),
  )
  for place in (spread, other, None):
    like = jax.ShapeDtypeStruct(values.shape, values.dtype, sharding=place)
    restored = checkpoint.restore(tmp_path, {'x': like}).tree['x']
    np.testing.assert_array_equal(restored, values)
    assert place is None or restored.sharding == place


def _bytes_read():
  """How many bytes this process has read from files so far."""
  return int(IO.read_text().split()[1])


@pytest.mark.skipif(not IO.exists(), reason='it is Linux that counts')
def test_one_leaf_is_read_alone(tmp_path):
  """Of 8 leaves of 4 MB; the first call looks at the checksums of all."""
  rng = np.random.default_rng()
  tree = {
    'layers': {
      f'w{i}': rng.normal(size=2**20).astype(np.float32) for i in range(8)
    },
    'state': Inner({'n': rng.integers(0, 9, 5, np.int32)}, np.int32(3)),
  }
  checkpoint.save(tmp_path, tree, {})
  like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)
  read = {}

  def leaf(name, like, title):
    before = _bytes_read()
    found = checkpoint.restore_leaf(tmp_path, name, like)
    read[title] = (_bytes_read() - before) / 2**22
    return found

  n = leaf('state/moments/n', like['state'].moments['n'], 'first')
  np.testing.assert_array_equal(n, tree['state'].moments['n'])
  w = leaf('layers/w3', like['layers']['w3'], 'second')
  np.testing.assert_array_equal(w, tree['layers']['w3'])
  assert 6 < read['first'] < 9
  assert 0.8 < read['second'] < 1.1


def test_one_leaf_goes_where_it_is_wanted(tmp_path):
  values = np.random.default_rng().normal(size=(16, 3)).astype(np.float32)
  checkpoint.save(tmp_path, {'a': {'w': values, 'b': np.ones(3)}}, {})
  place = jax.NamedSharding(
    sharding.make_mesh('fsdp=8'), jax.sharding.PartitionSpec('fsdp')
  )
  like = jax.ShapeDtypeStruct((16, 3), jnp.float32, sharding=place)
  leaf = checkpoint.restore_leaf(tmp_path, 'a/w', like)
  assert leaf.sharding == place
  np.testing.assert_array_equal(leaf, values)
  assert not checkpoint.restore_leaf(
    tmp_path, 'a/w', jax.ShapeDtypeStruct((16, 3), jnp.float32)
  ).committed


@pytest.mark.parametrize(
  'name, shape, said',
  [
    ('a/x', (3,), 'no such leaf'),
    ('a', (3,), 'no such leaf'),
    ('a/w', (4,), r'one of shape \(3,\)'),
  ],
)
def test_a_leaf_that_is_not_there_is_refused(tmp_path, name, shape, said):
  checkpoint.save(tmp_path, {'a': {'w': np.ones(3)}}, {})
  with pytest.raises(ValueError, match=f'{name!r}.*{said}'):
    checkpoint.restore_leaf(
      tmp_path, name, jax.ShapeDtypeStruct(shape, jnp.float32)
    )


GROUP = """
  import json, pathlib, sys, warnings
  from mmu_jax import distributed
  distributed.initialize()
  import jax
  import jax.numpy as jnp
  import numpy as np
  from mmu_jax import checkpoint, sharding

  P = jax.sharding.PartitionSpec
  folder = pathlib.Path(sys.argv[1])
  count = jax.device_count()
  values = np.arange(8 * 4000, dtype=np.float32).reshape(8, 4000)

  def make(values, mesh, spec):
    return jax.make_array_from_callback(
        values.shape,
        jax.NamedSharding(sharding.make_mesh(mesh), spec),
        lambda index: values[index],
    )

  def tree(step):
    return {
        'w': make(values + step, f'fsdp={count}', P('fsdp')),
        'same': make(values[:2] * step, f'fsdp={count}', P()),
        'n': np.int32(step),
    }

  def check(tree, step):
    for name, want in (('w', values + step), ('same', values[:2] * step)):
      for part in tree[name].addressable_shards:
        np.testing.assert_array_equal(part.data, want[part.index])
    assert tree['n'] == step

  overwrite = jax.jit(
      lambda t: jax.tree.map(lambda x: x * 0, t), donate_argnums=0
  )
  run = folder / 'run'
  with checkpoint.Series(run, keep_last=2) as series:
    for step in (1, 2, 3):
      made = tree(step)
      series.save(step, made, {'round': step})
      overwrite({k: made[k] for k in ('w', 'same')})
  assert checkpoint.latest_step(run) == 3
  check(checkpoint.restore(run, tree(0)).tree, 3)

  like = {
      'w': jax.ShapeDtypeStruct(values.shape, values.dtype,
          sharding=jax.NamedSharding(
              sharding.make_mesh(f'data=2,tensor={count // 2}'),
              P(None, 'tensor'))),
      'same': tree(0)['same'], 'n': np.int32(0),
  }
  restored = checkpoint.restore(run, like)
  check(restored.tree, 3)
  assert restored.tree['w'].sharding == like['w'].sharding
  leaf = checkpoint.restore_leaf(run, 'w', like['w'])
  check(restored.tree | {'w': leaf}, 3)

  try:
    checkpoint.save(folder / 'local', {'a': {'b': jnp.ones(3)}}, {})
  except ValueError as error:
    print('refused:', error)
  checkpoint.save(folder / 'final', tree(7), {'rounds': 7})
  assert checkpoint.read_note(folder / 'final') == {'rounds': 7}

  def damage():
    listed = json.loads((run / '3' / '_DIGESTS').read_text())
    mine = [k for k in listed if k.startswith('ocdbt.process_1/d')]
    path = run / '3' / max(mine, key=lambda k: listed[k][0])
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)

  distributed.first(damage)
  with warnings.catch_warnings(record=True) as warned:
    warnings.simplefilter('always')
    restored = checkpoint.restore(run, tree(0))
  assert restored.step == 2 and restored.note == {'round': 2}
  check(restored.tree, 2)
  print('warned:', [str(w.message) for w in warned])
  assert checkpoint.latest_step(run) == 2
  with checkpoint.Series(run) as series:
    series.save(3, tree(33), {'round': 33})
  check(checkpoint.restore(run, tree(0)).tree, 33)
"""


@pytest.mark.parametrize('processes, devices', [(2, 2), (4, 1)])
def test_processes_save_and_restore_together(tmp_path, processes, devices):
  outputs = process_group.results(
    GROUP, processes=processes, devices=devices, arguments=[str(tmp_path)]
  )
  for output in outputs:
    assert "'a/b' is on devices of one alone" in output
    assert 'np.asarray(x)' in output
    told = 'step 3 is damaged (ocdbt.process_1/d/' in output
    assert told == (output is outputs[0])  # said once
  # And one process takes over.
  like = {
    'w': jnp.zeros((8, 4000)),
    'same': jnp.zeros((2, 4000)),
    'n': np.int32(0),
  }
  values = np.arange(8 * 4000, dtype=np.float32).reshape(8, 4000)
  for folder, step in (('final', 7), ('run', 33)):
    tree = checkpoint.restore(tmp_path / folder, like).tree
    np.testing.assert_array_equal(tree['w'], values + step)
    np.testing.assert_array_equal(tree['same'], values[:2] * step)
    assert tree['n'] == step
