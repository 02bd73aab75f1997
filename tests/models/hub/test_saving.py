"""Saved checkpoints: the bytes of the source, whole or not at all."""

import errno
import json
import shutil

import hub_folder
import jax
import numpy as np
import pytest
import syncing
import toy

from mmu_jax import errors
from mmu_jax import models
from mmu_jax import tree as tree_lib
from mmu_jax.models.hub import safetensors_files

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


def test_an_export_is_on_disk_before_it_has_its_name(tmp_path, monkeypatch):
  arrays = hub_folder.tensors('llava', 3)
  folder = hub_folder.write(tmp_path / 'hub', 'llava', arrays, shards=2)
  model = models.load(folder)
  (folder / 'tokenizer.model').write_bytes(b'\x00')
  events = syncing.record(monkeypatch)
  path = tmp_path / 'out' / 'saved'
  models.save(model, model.params, path, dtype='float32')
  *earlier, last = syncing.before(events, path)
  assert last.held == {file.name for file in path.iterdir()}  # the folder
  assert last.held <= {e.path.name for e in earlier if e.kind == 'sync'}
  assert syncing.is_lasting(events, path)
  assert any(e.path == tmp_path and 'out' in e.held for e in events)


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
    for family in ('llava', 'qwen2_vl')
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
  write = safetensors_files.write_tensors

  def failing(file, header, make):
    def once(name, left=[count]):  # noqa: B006
      left[0] -= 1
      if left[0] < 0:
        raise error
      return make(name)

    write(file, header, once)

  monkeypatch.setattr(safetensors_files, 'write_tensors', failing)
