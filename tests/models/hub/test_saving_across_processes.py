"""Several processes that share the parameters write one checkpoint."""

import json

from families import tensors
import hub_folder
import jax
import numpy as np
import process_group
import pytest

from mmu_jax import models

WIDTH, INNER = 256, 4096
# Loads and saves two checkpoints, and a third one whose memory is measured.
PROGRAM = """
  import json, sys, tracemalloc
  from mmu_jax import distributed
  distributed.initialize()
  import jax
  from mmu_jax import models, sharding
  from mmu_jax.models.hub import saving

  def load(source, spec, dtype):
    model = models.load(source, dtype=dtype, mesh=sharding.make_mesh(spec))
    leaves = jax.tree.leaves(model.params)
    assert not all(x.is_fully_addressable for x in leaves)
    return model

  def copy(source, target, spec, dtype):
    model = load(source, spec, dtype)
    models.save(model, model.params, target)

  *copied, (source, target, spec, dtype) = json.loads(sys.argv[1])
  for case in copied:
    copy(*case)
  model = load(source, spec, dtype)

  held = []  # bytes of arrays beside the parameters, on devices of this process
  mine = {id(x) for x in jax.tree.leaves(model.params)}
  entry = saving._here
  def watched(leaf, layer):
    made = entry(leaf, layer)
    held.append(sum(
        part.data.nbytes for x in jax.live_arrays() if id(x) not in mine
        for part in x.addressable_shards))
    return made
  saving._here = watched

  models.save(model, model.params, target + '0')  # compiles
  held.clear()
  tracemalloc.start()
  models.save(model, model.params, target)
  print('peak', tracemalloc.get_traced_memory()[1])
  print('held', max(held))
"""


def _numbers(output):
  return {
    line.split()[0]: int(line.split()[1])
    for line in output.splitlines()
    if line.split()[:1] in (['peak'], ['held'])
  }


def _wide(folder, width, inner):
  """A LLaVA of three layers whose 11 largest tensors are [inner, width]."""
  sizes = {
    tensors.WIDTH: width,
    tensors.KEYS: width // 2,
    tensors.INNER: inner,
    tensors.VOCAB: inner,
  }
  rng = np.random.default_rng()
  arrays = {}
  for name, shape in hub_folder.shapes('llava').items():
    if not name.startswith('vision_tower'):
      shape = tuple(sizes.get(n, n) for n in shape)
    arrays[name] = rng.normal(size=shape).astype(np.float16)
  text = dict(hidden_size=width, intermediate_size=inner)
  return hub_folder.write(folder, 'llava', arrays, text_config=text)


# Family, dtype, mesh and number of files of the two that are copied.
COPIED = (
  ('llava', 'bfloat16', 'fsdp=4', 2),
  ('qwen2_vl', 'float16', 'fsdp=2,tensor=2', 1),
)


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
  """The folder of all checkpoints, and what each process measured."""
  folder, calls = tmp_path_factory.mktemp('saved'), []
  for family, dtype, spec, shards in COPIED:
    arrays = hub_folder.tensors(family, np.random.SeedSequence().entropy, dtype)
    source = folder / family / 'hub'
    hub_folder.write(source, family, arrays, shards=shards)
    calls.append((source, folder / family / 'out', spec, None))
  source = _wide(folder / 'wide' / 'hub', WIDTH, INNER)
  calls.append((source, folder / 'wide' / 'out', 'fsdp=4', 'float32'))
  outputs = process_group.results(
    PROGRAM, devices=2, arguments=[json.dumps(calls, default=str)], timeout=80
  )
  return folder, list(map(_numbers, outputs))


@pytest.mark.parametrize('family', [family for family, *_ in COPIED])
def test_two_processes_give_back_the_bytes_of_the_source(saved, family):
  """With -0.0, subnormal and greatest numbers in every tensor."""
  folder = saved[0] / family
  assert hub_folder.content(folder / 'out') == hub_folder.content(
    folder / 'hub'
  )
  names = sorted(path.name for path in folder.iterdir())
  assert names == ['hub', 'out']  # nothing half is left


def test_every_process_holds_no_more_than_some_tensors(saved):
  """Of 3 layers of 11 large tensors, one at a time is brought together."""
  folder, (first, other) = saved
  tensor = 4 * WIDTH * INNER  # bytes
  assert first['peak'] < 2 * tensor + 2**20
  assert other['peak'] < 2**20  # it does not even make it a NumPy array
  for found in (first, other):
    # Each of the two devices has the tensor, and may still have the last one.
    assert found['held'] <= 4 * tensor + 2**16
  again, want = (models.load(folder / 'wide' / x) for x in ('out', 'hub'))
  for x, y in zip(*map(jax.tree.leaves, (again.params, want.params))):
    np.testing.assert_array_equal(x, y)


REFUSED = """
  import errno, pathlib, sys
  from mmu_jax import distributed
  distributed.initialize()
  import jax
  from mmu_jax import models, sharding
  from mmu_jax.models.hub import safetensors_files

  source, target = sys.argv[1:]
  model = models.load(source, mesh=sharding.make_mesh('data=2'))
  write = safetensors_files.write_tensors
  def full(file, header, make):
    left = [5]
    def once(name):
      left[0] -= 1
      if left[0] < 0:
        raise OSError(errno.ENOSPC, 'No space left on device')
      return make(name)
    write(file, header, once)
  if jax.process_index() == 0:
    safetensors_files.write_tensors = full
  for where in (target, source):
    try:
      models.save(model, model.params, where)
    except OSError as error:
      print(type(error).__name__, error)
  safetensors_files.write_tensors = write
  models.save(model, model.params, target)
"""


def test_an_error_of_the_process_that_writes_is_told_to_all(tmp_path):
  """And nothing half is left, so that the next attempt can do it."""
  arrays = hub_folder.tensors('llava', 5)
  source = hub_folder.write(tmp_path / 'hub', 'llava', arrays)
  outputs = process_group.results(
    REFUSED, arguments=[str(source), str(tmp_path / 'out')]
  )
  for output in outputs:
    assert 'No space left on device' in output
    assert 'a checkpoint is written to a new folder' in output
  assert sorted(p.name for p in tmp_path.iterdir()) == ['hub', 'out']
  assert hub_folder.content(tmp_path / 'out') == hub_folder.content(source)
