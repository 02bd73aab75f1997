"""Several processes that share the parameters write one checkpoint."""

from families import tensors
import hub_folder
import jax
import numpy as np
import process_group
import pytest

from mmu_jax import models

PROGRAM = """
  import pathlib, sys, tracemalloc
  from mmu_jax import distributed
  distributed.initialize()
  import jax
  from mmu_jax import models, sharding, tree
  from mmu_jax.models.hub import saving

  source, target, spec, dtype = sys.argv[1:]
  model = models.load(
      source, dtype=None if dtype == 'None' else dtype,
      mesh=sharding.make_mesh(spec))
  shared = [x for x in jax.tree.leaves(model.params)
            if not x.is_fully_addressable]
  assert shared

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

  if dtype != 'None':  # memory is measured: compile before
    models.save(model, model.params, target + '0')
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


def _run(source, target, spec, dtype='None', processes=2, devices=2):
  return process_group.results(
    PROGRAM,
    processes=processes,
    devices=devices,
    arguments=[str(source), str(target), spec, dtype],
    timeout=40,
  )


@pytest.mark.parametrize(
  'family, dtype, spec, shards',
  [
    ('llava', 'bfloat16', 'fsdp=4', 2),
    ('qwen2_vl', 'float16', 'fsdp=2,tensor=2', 1),
  ],
)
def test_two_processes_give_back_the_bytes_of_the_source(
  tmp_path, family, dtype, spec, shards
):
  """With -0.0, subnormal and greatest numbers in every tensor."""
  arrays = hub_folder.tensors(family, np.random.SeedSequence().entropy, dtype)
  source = hub_folder.write(tmp_path / 'hub', family, arrays, shards=shards)
  _run(source, tmp_path / 'out', spec)
  assert hub_folder.content(tmp_path / 'out') == hub_folder.content(source)
  names = sorted(path.name for path in tmp_path.iterdir())
  assert names == ['hub', 'out']  # nothing half is left


def test_every_process_holds_no_more_than_some_tensors(tmp_path):
  """Of 3 layers of 11 large tensors, one at a time is brought together."""
  width, inner = 256, 4096
  source = _wide(tmp_path / 'hub', width, inner)
  outputs = _run(source, tmp_path / 'out', 'fsdp=4', 'float32')
  first, other = map(_numbers, outputs)
  tensor = 4 * width * inner  # bytes
  assert first['peak'] < 2 * tensor + 2**20
  assert other['peak'] < 2**20  # it does not even make it a NumPy array
  for found in (first, other):
    # Each of the two devices has the tensor, and may still have the last one.
    assert found['held'] <= 4 * tensor + 2**16
  again, want = models.load(tmp_path / 'out'), models.load(source)
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
