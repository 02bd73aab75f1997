"""Checkpoints: what is loaded, where it lives, and that it comes back."""

import errno
import gc
import json
import shutil
import tracemalloc

import families
from families import tensors
import hub_folder
import jax
import numpy as np
import pytest
import toy

from mmu_jax import errors
from mmu_jax import models
from mmu_jax import sharding
from mmu_jax import tree as tree_lib
from mmu_jax.models.hub import safetensors_files

MESHES = ('fsdp=8', 'fsdp=4,tensor=2', 'data=2,fsdp=2,tensor=2')
OTHERS = {
  'tokenizer.json': b'{"version": "1.0"}\n',
  'tokenizer.model': b'\x00\xff\x0e',
  'chat_template.jinja': '{{ réponse }}'.encode(),
  'preprocessor_config.json': b'{\r\n}',
  'pytorch_model.bin': b'PK old weights',
  'pytorch_model.bin.index.json': b'{}',
}


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


def _partial(folder):
  return [file.name for file in folder.iterdir() if 'partial' in file.name]


@pytest.mark.parametrize('family', hub_folder.FAMILIES)
@pytest.mark.parametrize('shards', [1, 3])
@pytest.mark.parametrize('loaded_as', ['float32', None])
@pytest.mark.parametrize('dtype', hub_folder.DTYPES)
def test_a_checkpoint_comes_back_byte_for_byte(
  family, shards, loaded_as, dtype, tmp_path
):
  arrays = hub_folder.tensors(family, 1, dtype)
  folder = hub_folder.write(tmp_path / 'hub', family, arrays, shards=shards)
  saved = _save(folder, tmp_path, dtype=loaded_as, others=OTHERS)
  source = hub_folder.content(folder)
  left_out = {'pytorch_model.bin', 'pytorch_model.bin.index.json'}
  assert set(source) - set(saved) == left_out
  assert len(saved) == (6 if shards == 1 else 9)
  assert all(source[name] == data for name, data in saved.items())


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


@pytest.mark.parametrize('family', hub_folder.FAMILIES)
@pytest.mark.parametrize('mesh', MESHES)
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


def test_buffers_of_old_writers_are_copied_through(tmp_path):
  rng = np.random.default_rng(5)
  arrays = hub_folder.tensors('llava', 5, 'float16') | {
    'vision_tower.vision_model.embeddings.position_ids': np.arange(5)[None],
    'language_model.model.layers.1.self_attn.rotary_emb.inv_freq': (
      rng.uniform(size=4).astype(np.float32)
    ),
  }
  folder = hub_folder.write(tmp_path / 'hub', 'llava', arrays)
  model = models.load(folder)
  assert tree_lib.count(model.params) == sum(
    x.size for k, x in arrays.items() if 'ids' not in k and 'freq' not in k
  )
  models.save(model, model.params, tmp_path / 'same')
  assert hub_folder.content(tmp_path / 'same') == hub_folder.content(folder)
  models.save(model, model.params, tmp_path / 'wide', dtype='float32')
  wide = hub_folder.read(tmp_path / 'wide')
  kinds = {name: x.dtype.name for name, x in wide.items()}
  assert kinds.pop([k for k in kinds if 'position_ids' in k][0]) == 'int64'
  assert set(kinds.values()) == {'float32'}


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


@pytest.mark.parametrize('family', hub_folder.FAMILIES)
@pytest.mark.parametrize('shards', [1, 2])
def test_another_dtype_is_said_in_config_and_index(family, shards, tmp_path):
  rng = np.random.default_rng(9)
  shapes = hub_folder.shapes(family)
  arrays = {k: rng.normal(size=s).astype(np.float32) for k, s in shapes.items()}
  folder = hub_folder.write(
    tmp_path / 'hub',
    family,
    arrays,
    shards=shards,
    vision_config={'dtype': 'float32'},
  )
  model = models.load(folder)
  saved = tmp_path / 'saved'
  models.save(model, model.params, saved, dtype='bfloat16')
  bfloat16 = hub_folder.DTYPES['bfloat16']
  want = {name: x.astype(bfloat16) for name, x in arrays.items()}
  _same_bits(hub_folder.read(saved), want)
  config = json.loads((saved / 'config.json').read_text())
  before = json.loads((folder / 'config.json').read_text())
  assert before['torch_dtype'] == hub_folder.config(family)['torch_dtype']
  assert config['torch_dtype'] == 'bfloat16'
  assert config['vision_config']['dtype'] == 'bfloat16'
  assert set(config) == set(before)  # and no field more or less
  if shards > 1:
    index = json.loads((saved / 'model.safetensors.index.json').read_text())
    assert index['metadata']['total_size'] == 2 * sum(
      x.size for x in arrays.values()
    )
  again = models.load(saved, dtype=None)
  assert {x.dtype.name for x in jax.tree.leaves(again.params)} == {'bfloat16'}


def test_a_config_that_states_no_dtype_does_so_after_a_cast(tmp_path):
  rng = np.random.default_rng(10)
  shapes = hub_folder.shapes('llava').items()
  arrays = {k: rng.normal(size=s).astype(np.float32) for k, s in shapes}
  folder = hub_folder.write(tmp_path / 'hub', 'llava', arrays)
  config = json.loads((folder / 'config.json').read_text())
  del config['torch_dtype'], config['text_config']['torch_dtype']
  (folder / 'config.json').write_text(json.dumps(config))
  model = models.load(folder)
  models.save(model, model.params, tmp_path / 'saved', dtype='float16')
  saved = json.loads((tmp_path / 'saved' / 'config.json').read_text())
  assert saved == dict(config, torch_dtype='float16')


def test_what_does_not_fit_into_float16_is_named(tmp_path):
  folder = hub_folder.write(
    tmp_path / 'hub',
    'llava',
    hub_folder.tensors('llava', 11, 'float16'),
    shards=2,
  )
  model = models.load(folder)
  leaf = ('multi_modal_projector', 'linear_1', 'kernel')
  for value, rest, fits in (
    (65519.0, 1.0, True),
    (65520.0, 1.0, False),
    (7e4, np.inf, False),
  ):
    kernel = np.array(model.params[leaf[0]][leaf[1]][leaf[2]])
    kernel[3, 5], kernel[4, 4] = value, rest
    linear = dict(model.params[leaf[0]][leaf[1]], kernel=kernel)
    projector = dict(model.params[leaf[0]], **{leaf[1]: linear})
    params = dict(model.params, **{leaf[0]: projector})
    target = tmp_path / f'saved {value}'
    if fits:  # it rounds to the greatest number
      models.save(model, params, target)
      name = 'multi_modal_projector.linear_1.weight'
      assert hub_folder.read(target)[name][5, 3] == 65504
      continue
    message = rf'linear_1.weight has values up to {value:g}, too large for flo'
    with pytest.raises(ValueError, match=message.replace('+', r'\+')):
      models.save(model, params, target)
    assert not target.exists() and not _partial(tmp_path)


def test_save_wants_a_new_folder_and_the_source(tmp_path):
  folder = hub_folder.write(
    tmp_path / 'hub', 'llava', hub_folder.tensors('llava', 14)
  )
  model = models.load(folder)
  before = hub_folder.content(folder)
  with pytest.raises(errors.DiskError, match=f'new folder; {folder} exists'):
    models.save(model, model.params, folder)
  assert hub_folder.content(folder) == before
  bare = models.build(model.config)
  with pytest.raises(ValueError, match='save needs like='):
    models.save(bare, model.params, tmp_path / 'saved')
  moved = folder.rename(tmp_path / 'moved')
  with pytest.raises(FileNotFoundError, match=f'{folder} is gone. Give anoth'):
    models.save(model, model.params, tmp_path / 'saved')
  models.save(model, model.params, tmp_path / 'saved', like=moved)
  assert hub_folder.content(tmp_path / 'saved') == before


def test_parameters_of_another_model_are_an_error(tmp_path):
  folders = {
    family: hub_folder.write(
      tmp_path / family, family, hub_folder.tensors(family, 15)
    )
    for family in hub_folder.FAMILIES
  }
  llava, qwen = (models.load(folder) for folder in folders.values())
  target = tmp_path / 'saved'
  with pytest.raises(ValueError, match='save must have the leaves of the mod'):
    models.save(llava, qwen.params, target)
  with pytest.raises(ValueError, match=f'the checkpoint {qwen.source}'):
    models.save(llava, llava.params, target, like=folders['qwen2_vl'])
  wide = jax.tree.map(lambda x: x[..., :1], llava.params)
  with pytest.raises(ValueError, match=r'0 unexpected, \d+ \(.* of another sh'):
    models.save(llava, wide, target)
  assert not target.exists() and not _partial(tmp_path)


@pytest.mark.parametrize('tensors_written', [0, 1, 30])
def test_a_full_disk_leaves_nothing_behind(
  tensors_written, tmp_path, monkeypatch
):
  folder = hub_folder.write(
    tmp_path / 'hub', 'llava', hub_folder.tensors('llava', 16), shards=2
  )
  model = models.load(folder)
  models.save(model, model.params, tmp_path / 'earlier')
  before = hub_folder.content(tmp_path / 'earlier')
  _fail_after(monkeypatch, tensors_written, OSError(errno.ENOSPC, 'disk full'))
  with pytest.raises(OSError, match='disk full'):
    models.save(model, model.params, tmp_path / 'saved')
  assert sorted(x.name for x in tmp_path.iterdir()) == ['earlier', 'hub']
  assert hub_folder.content(tmp_path / 'earlier') == before


def test_a_crash_leaves_a_partial_folder_alone(tmp_path, monkeypatch):
  """As after a kill: nothing is cleaned up, and the next save is not hurt."""
  folder = hub_folder.write(
    tmp_path / 'hub', 'llava', hub_folder.tensors('llava', 17)
  )
  model = models.load(folder)
  with monkeypatch.context() as patch:
    patch.setattr(shutil, 'rmtree', lambda *args, **kwargs: None)
    _fail_after(patch, 5, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
      models.save(model, model.params, tmp_path / 'saved')
  assert not (tmp_path / 'saved').exists()
  assert len(_partial(tmp_path)) == 1
  models.save(model, model.params, tmp_path / 'saved')
  assert hub_folder.content(tmp_path / 'saved') == hub_folder.content(folder)


def _fail_after(monkeypatch, count, error):
  """Makes the writer of tensors raise after some of them."""
  write = safetensors_files.write

  def failing(file, header, make):
    def once(name, left=[count]):  # noqa: B006
      left[0] -= 1
      if left[0] < 0:
        raise error
      return make(name)

    write(file, header, once)

  monkeypatch.setattr(safetensors_files, 'write', failing)


@pytest.mark.parametrize('mesh', [None, *MESHES])
@pytest.mark.parametrize('dtype', ['float32', None])
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
