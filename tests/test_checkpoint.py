"""What was saved comes back bit for bit, or an error says what is wrong."""

import json
import shutil
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mmu_jax import checkpoint


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

  for owner, name in (
      (checkpoint.pathlib.Path, 'write_text'),
      (checkpoint.Series, 'save'),
  ):
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
    'array file deleted': lambda f: _largest_file(f / '0' / 'tree').unlink(),
    'array file cut': lambda f: _cut(_largest_file(f / '0' / 'tree')),
    'array file empty': lambda f: _largest_file(
        f / '0' / 'tree'
    ).write_bytes(b''),
    'description deleted': lambda f: (
        f / '0' / 'tree' / '_METADATA'
    ).unlink(),
    'description cut': lambda f: _cut(f / '0' / 'tree' / '_METADATA'),
    'manifest deleted': lambda f: (
        f / '0' / 'tree' / 'manifest.ocdbt'
    ).unlink(),
    'tree deleted': lambda f: shutil.rmtree(f / '0' / 'tree'),
    'note cut': lambda f: _cut(f / '0' / 'note' / 'metadata'),
    'note deleted': lambda f: shutil.rmtree(f / '0' / 'note'),
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
  with checkpoint.Series(tmp_path, keep=2) as series:
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
