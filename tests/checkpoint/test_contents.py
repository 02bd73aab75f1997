"""The content of a tree is its values, wherever they are."""

import jax
import jax.numpy as jnp
import numpy as np
import process_group
import pytest

from mmu_jax import checkpoint
from mmu_jax import sharding
from mmu_jax.checkpoint import contents


def _tree(seed=0, dtype=np.float32):
  rng = np.random.default_rng(seed)
  make = lambda *shape: jnp.asarray(rng.normal(size=shape), dtype)
  return {'a': {'w': make(8, 16), 'b': make(16)}, 'c': make(2, 8, 8)}


@pytest.mark.parametrize('spec', ['data=2,fsdp=4', 'fsdp=2,tensor=4'])
def test_it_is_the_same_on_every_mesh_and_on_the_host(spec, monkeypatch):
  monkeypatch.setattr(contents, '_SMALL', 0)
  tree = _tree()
  want = checkpoint.digest(tree)
  assert checkpoint.digest(jax.tree.map(np.asarray, tree)) == want
  mesh = sharding.make_mesh(spec)
  rules = ((r'.*', ('fsdp', None)),)
  places = sharding.shardings(tree, rules, mesh)
  with jax.set_mesh(mesh):
    assert checkpoint.digest(jax.device_put(tree, places)) == want


@pytest.mark.parametrize('dtype', [np.float32, jnp.bfloat16, np.bool_])
def test_the_devices_and_the_host_find_the_same(dtype, monkeypatch):
  rng = np.random.default_rng(0)
  make = lambda *shape: jnp.asarray(rng.normal(size=shape) > 0, dtype)
  tree = {'w': make(3, 5, 7), 'b': make(11), 'x': make()}
  found = []
  for most in (0, 2**16):
    monkeypatch.setattr(contents, '_SMALL', most)
    found.append(checkpoint.digest(tree))
  assert found[0] == found[1]


@pytest.mark.parametrize('seed', range(20))
def test_every_bit_counts(seed):
  rng = np.random.default_rng(seed)
  tree = jax.tree.map(np.array, _tree(seed))
  before = checkpoint.digest(tree)
  bits = tree['c'].view(np.uint32).reshape(-1)
  bits[rng.integers(bits.size)] ^= np.uint32(1) << np.uint32(rng.integers(32))
  assert checkpoint.digest(tree) != before


def test_a_single_number_counts_with_a_mesh_that_is_set():
  """As the count of steps of an optimizer, on one device or on all."""
  mesh = sharding.make_mesh('fsdp=-1')
  everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  number = np.int32(7)
  with jax.set_mesh(mesh):
    found = {
      checkpoint.digest({'n': x})
      for x in (
        np.asarray(number),
        jax.device_put(number, jax.devices()[0]),
        jax.device_put(number, everywhere),
      )
    }
  assert len(found) == 1


def test_place_name_shape_and_dtype_count():
  row = np.arange(1.0, 9.0, dtype=np.float32)
  found = [
    {'w': row},
    {'w': row[::-1].copy()},
    {'v': row},
    {'w': row.reshape(2, 4)},
    {'w': row.reshape(4, 2)},
    {'w': row.astype(jnp.bfloat16)},
    {'w': row.astype(np.int32)},
    {'w': row, 'v': row},
    {'w': np.roll(row, 1)},
    {'w': row > 4},
    {'w': (row > 4).astype(np.uint8)},
    {'w': np.zeros(8, np.float32)},
    {'w': -np.zeros(8, np.float32)},
  ]
  assert len({checkpoint.digest(tree) for tree in found}) == len(found)


def test_places_of_many_axes_are_all_different():
  """Two equal sums for two trees that differ by a swap would be a collision."""
  values = np.zeros((16, 16, 16), np.float32)
  seen = set()
  for flat in range(0, values.size, 7):
    values.flat[flat] = 1
    seen.add(checkpoint.digest({'w': values}))
    values.flat[flat] = 0
  assert len(seen) == -(-values.size // 7)


PROGRAM = """
  import jax, numpy as np
  from mmu_jax import checkpoint, distributed, sharding
  distributed.initialize()
  mesh = sharding.make_mesh('fsdp=-1')
  rng = np.random.default_rng(3)
  host = {k: rng.normal(size=(8, 6)).astype(np.float32) for k in 'ab'}
  put = lambda x, *spec: jax.make_array_from_callback(
    x.shape,
    jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec)),
    lambda index: x[index])
  tree = {'a': put(host['a'], 'fsdp'), 'b': put(host['b'])}
  print('found', checkpoint.digest(tree), checkpoint.digest(host))
"""


def test_processes_find_together_what_one_finds():
  rng = np.random.default_rng(3)
  host = {k: rng.normal(size=(8, 6)).astype(np.float32) for k in 'ab'}
  want = checkpoint.digest(host)
  for output in process_group.results(PROGRAM, processes=2, devices=2):
    assert f'found {want} {want}' in output
