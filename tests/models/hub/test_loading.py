"""Loaded checkpoints: which values live where, and in which dtype."""

import gc
import tracemalloc

import families
from families import tensors
import hub_folder
import jax
import numpy as np
import pytest
import toy

from mmu_jax import models
from mmu_jax import sharding
from mmu_jax import tree as tree_lib

MESHES = ('fsdp=8', 'fsdp=4,tensor=2', 'data=2,fsdp=2,tensor=2')


def _save(folder, tmp_path, *, others=None, **load):
  """Loads a folder and saves it; the bytes of the new one."""
  model = models.load(folder, **load)
  for name, data in (others or {}).items():  # a tokenizer is not read here
    (folder / name).write_bytes(data)
  models.save(model, model.params, tmp_path / 'saved')
  return hub_folder.content(tmp_path / 'saved')


def _leaves(folder, **load):
  return tree_lib.flatten(models.load(folder, **load).params)


def _same_bits(got, want):
  assert got.keys() == want.keys()
  for name, x in want.items():
    assert got[name].dtype == x.dtype and got[name].shape == x.shape, name
    assert np.array_equal(toy.bits(got[name]), toy.bits(x)), name


@pytest.mark.parametrize('family', hub_folder.FAMILIES)
def test_values_are_those_of_the_files(family, tmp_path):
  """By a path of its own: tensors transposed and stacked in NumPy."""
  arrays = hub_folder.tensors(family, 2, 'bfloat16')
  folder = hub_folder.write(tmp_path / 'hub', family, arrays)
  for dtype, kind in (('float32', 'float32'), (None, 'bfloat16')):
    leaves = _leaves(folder, dtype=dtype)
    assert {x.dtype.name for x in leaves.values()} == {kind}
    exact = {k: np.asarray(x, np.float64) for k, x in leaves.items()}
    q = 'self_attn.q_proj.weight'
    text = families.CASES[family].decoder
    stack = exact[text.replace('.', '/') + '/layers/self_attn/q_proj/kernel']
    for i in range(tensors.TEXT_LAYERS):
      want = arrays[f'{text}.layers.{i}.{q}'].astype(np.float64)
      np.testing.assert_array_equal(stack[i], want.T)
    patches = families.CASES[family].patches
    kernel = exact[patches.replace('.', '/').replace('/weight', '/kernel')]
    convolution = arrays[patches].astype(np.float64)
    np.testing.assert_array_equal(kernel.T, convolution.reshape(32, -1))
    assert sum(x.size for x in exact.values()) == sum(
      x.size for x in arrays.values()
    )


@pytest.mark.parametrize(
  'family, mesh',
  [('qwen2_vl', MESHES[0]), ('llava', MESHES[1]), ('qwen2_vl', MESHES[2])],
)
def test_each_device_holds_its_part_of_the_same_values(family, mesh, tmp_path):
  folder = hub_folder.write(
    tmp_path / 'hub', family, hub_folder.tensors(family, 3, 'float16')
  )
  want = _leaves(folder)
  mesh = sharding.make_mesh(mesh)
  model = models.load(folder, mesh=mesh)
  got = tree_lib.flatten(model.params)
  rules = tree_lib.flatten(
    sharding.shardings(model.abstract_params, model.partition_rules, mesh)
  )
  split = 0
  for name, x in got.items():
    assert x.sharding.is_equivalent_to(rules[name], x.ndim), name
    assert len(x.addressable_shards) == 8
    axes = [axis for axis in rules[name].spec if axis]
    parts = int(np.prod([mesh.shape[axis] for axis in axes]))
    assert {s.data.size for s in x.addressable_shards} == {x.size // parts}
    split += parts == mesh.shape['fsdp'] * mesh.shape['tensor']
  assert split >= 15  # all kernels but the odd one, and the embeddings
  _same_bits({k: np.asarray(x) for k, x in got.items()}, want)
  models.save(model, model.params, tmp_path / 'saved')
  assert hub_folder.content(tmp_path / 'saved') == hub_folder.content(folder)


def test_rules_of_the_caller_count(tmp_path):
  folder = hub_folder.write(
    tmp_path / 'hub', 'llava', hub_folder.tensors('llava', 4)
  )
  spec = jax.sharding.PartitionSpec
  rules = ((r'.*lm_head/kernel', spec(None, 'fsdp')), (r'.*', spec()))
  leaves = _leaves(folder, mesh=sharding.make_mesh('fsdp=8'), rules=rules)
  split = {k for k, x in leaves.items() if not x.is_fully_replicated}
  assert split == {'language_model/lm_head/kernel'}


def test_layers_of_unequal_dtype_become_the_widest(tmp_path):
  arrays = hub_folder.tensors('llava', 7, 'bfloat16')
  narrow = 'language_model.model.layers.{}.mlp.up_proj.weight'
  arrays[narrow.format(1)] = arrays[narrow.format(1)].astype(np.float32)
  gate = 'language_model.model.layers.2.mlp.gate_proj.weight'
  halves = np.random.default_rng(7).normal(size=arrays[gate].shape)
  arrays[gate] = halves.astype(np.float16)
  folder = hub_folder.write(tmp_path / 'hub', 'llava', arrays)
  leaves = _leaves(folder, dtype=None)
  wide = {k for k, x in leaves.items() if x.dtype.name == 'float32'}
  mlp = 'language_model/model/layers/mlp'
  # No 16-bit format holds both bfloat16 and float16.
  assert wide == {f'{mlp}/up_proj/kernel', f'{mlp}/gate_proj/kernel'}
  assert _save(folder, tmp_path, dtype=None) == hub_folder.content(folder)


@pytest.mark.parametrize('call', ['load', 'save'])
@pytest.mark.parametrize('dtype', ['int8', 'float64', 'half'])
def test_parameters_are_in_one_of_three_dtypes(call, dtype, tmp_path):
  folder = hub_folder.write(
    tmp_path / 'hub', 'llava', hub_folder.tensors('llava', 8)
  )
  message = f"dtype is one of float32, float16, bfloat16, got '{dtype}'"
  with pytest.raises(ValueError, match=message):
    if call == 'load':
      models.load(folder, dtype=dtype)
    model = models.build(models.load(folder).config)
    models.save(model, None, tmp_path / 'saved', like=folder, dtype=dtype)


@pytest.mark.parametrize(
  'dtype, mesh', [('float32', None), (None, None), ('float32', MESHES[2])]
)
def test_the_host_holds_less_than_two_tensors(mesh, dtype, tmp_path):
  """Of NumPy's memory; that of XLA is the parameters themselves."""
  width, inner = 256, 4096
  folder = _wide(tmp_path / 'hub', width, inner)
  most = 2 * width * inner * (2 if dtype is None else 4) + 2**20  # bytes
  mesh = mesh and sharding.make_mesh(mesh)
  _save(folder, tmp_path, dtype=dtype, mesh=mesh)  # compiles
  gc.collect()
  tracemalloc.start()
  try:
    model = models.load(folder, dtype=dtype, mesh=mesh)
    # On the CPU, XLA takes some arrays of NumPy over: parameters, too.
    taken, load_peak = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    models.save(model, model.params, tmp_path / 'again')
    save_peak = tracemalloc.get_traced_memory()[1]
  finally:
    tracemalloc.stop()
  assert load_peak - taken < most
  assert save_peak - taken < most


def _wide(folder, width, inner):
  """A LLaVA of three layers whose 11 largest tensors are [inner, width]."""
  rng = np.random.default_rng(18)
  sizes = {
    tensors.WIDTH: width,
    tensors.KEYS: width // 2,
    tensors.INNER: inner,
    tensors.VOCAB: inner,
  }
  shapes = hub_folder.shapes('llava')
  for name, shape in shapes.items():
    if not name.startswith('vision_tower'):
      shapes[name] = tuple(sizes.get(n, n) for n in shape)
  arrays = {
    name: rng.normal(size=shape).astype(np.float16)
    for name, shape in shapes.items()
  }
  text = dict(hidden_size=width, intermediate_size=inner)
  return hub_folder.write(folder, 'llava', arrays, text_config=text)
