"""Weight files: which are read, what is kept, and how damage is told."""

import json
import os
import shutil

import hub_folder
import ml_dtypes
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from mmu_jax import models
from mmu_jax.models.hub import safetensors_files

SINGLE = 'model.safetensors'


def _save(folder, tmp_path):
  """Loads a folder and saves it; the bytes of the new one."""
  model = models.load(folder)
  models.save(model, model.params, tmp_path / 'saved')
  return hub_folder.content(tmp_path / 'saved')


def test_metadata_of_the_files_is_kept(tmp_path):
  folder = hub_folder.write(
    tmp_path / 'hub', 'llava', hub_folder.tensors('llava', 6)
  )
  metadata = {'format': 'pt', 'note': 'entraîné à Orsay'}
  arrays = hub_folder.read(folder)
  safetensors_numpy.save_file(arrays, folder / SINGLE, metadata)
  assert _save(folder, tmp_path) == hub_folder.content(folder)


def test_an_index_beside_a_single_file_is_stale(tmp_path):
  """transformers reads the single file where there are both."""
  old = hub_folder.write(
    tmp_path / 'old', 'llava', hub_folder.tensors('llava', 12), shards=2
  )
  new = hub_folder.write(
    tmp_path / 'new', 'llava', hub_folder.tensors('llava', 13)
  )
  shutil.copyfile(new / SINGLE, old / SINGLE)
  saved = _save(old, tmp_path)
  assert saved == hub_folder.content(new)  # and without the index


def _broken(folder, how):
  """Damages the files of a checkpoint of two shards."""
  index = folder / 'model.safetensors.index.json'
  shard = folder / 'model-00002-of-00002.safetensors'
  data = shard.read_bytes()
  if how == 'truncated':
    shard.write_bytes(data[:-7])
  elif how == 'empty':
    shard.write_bytes(b'')
  elif how == 'garbage':
    shard.write_bytes(data[:8] + b'?' * 64 + data[72:])
  elif how == 'a long header':
    shard.write_bytes(b'\xff' * 8 + data[8:])
  elif how == 'no shard':
    shard.unlink()
  elif how == 'no files':
    for file in folder.glob('*.safetensors*'):
      file.rename(file.with_name(f'{file.name}.bin'))
  elif how == 'no config':
    (folder / 'config.json').unlink()
  elif how == 'a page of HTML':
    (folder / 'config.json').write_text('<html>404</html>')
  elif how == 'latin-1':
    (folder / 'config.json').write_bytes(b'{"model_type": "\xe9"}')
  elif how == 'a list':
    (folder / 'config.json').write_text('[1, 2]')
  elif how == 'an index cut short':
    index.write_text(index.read_text()[:-2])
  elif how == 'an index of nothing':
    index.write_text('{"metadata": {}}')
  elif how == 'twice':
    shutil.copyfile(folder / 'model-00001-of-00002.safetensors', shard)
  elif how == 'the files of another':
    shutil.copyfile(shard, folder / SINGLE)


@pytest.mark.parametrize(
  'how, error, words',
  [
    (
      'truncated',
      ValueError,
      '{shard} is not a whole safetensors file; '
      'it has {size} bytes. Fetch or copy it again.',
    ),
    (
      'empty',
      ValueError,
      '{shard} is not a whole safetensors file; it has 0 bytes',
    ),
    ('garbage', ValueError, '{shard} is not a whole safetensors file'),
    ('a long header', ValueError, '{shard} is not a whole safetensors'),
    (
      'no shard',
      FileNotFoundError,
      'index.json in {folder} names 2 files;'
      ' missing: model-00002-of-00002.safetensors. Fetch them again',
    ),
    (
      'no files',
      FileNotFoundError,
      '{folder} has neither. Weights in the '
      '.bin format must be converted to safetensors first',
    ),
    ('no config', FileNotFoundError, '{folder} holds neither'),
    (
      'a page of HTML',
      ValueError,
      '{folder}/config.json is not JSON: '
      'Expecting value: line 1 column 1 (char 0). Fetch or write it again',
    ),
    ('latin-1', ValueError, '{folder}/config.json is not JSON: '),
    (
      'a list',
      ValueError,
      '{folder}/config.json must hold a JSON object, got list',
    ),
    (
      'an index cut short',
      ValueError,
      '{folder}/model.safetensors.index.json is not JSON: ',
    ),
    (
      'an index of nothing',
      ValueError,
      'index.json must map tensors to files under weight_map; got None',
    ),
    ('twice', ValueError, 'every tensor is in one file; '),
    ('the files of another', ValueError, ' missing, 0 unexpected'),
  ],
)
def test_a_damaged_folder_is_named_with_what_to_do(how, error, words, tmp_path):
  folder = hub_folder.write(
    tmp_path / 'hub', 'llava', hub_folder.tensors('llava', 19), shards=2
  )
  shard = folder / 'model-00002-of-00002.safetensors'
  _broken(folder, how)
  size = shard.stat().st_size if shard.exists() else 0
  with pytest.raises(error) as raised:
    models.load(folder)
  message = str(raised.value)
  assert words.format(folder=folder, shard=shard, size=size) in message
  assert str(folder) in message


@pytest.mark.parametrize('dtype', [np.int8, np.float64, 'F8_E4M3'])
def test_quantized_tensors_are_not_read(dtype, tmp_path):
  arrays = hub_folder.tensors('llava', 20)
  rng = np.random.default_rng(20)
  name = 'language_model.model.layers.1.mlp.down_proj.weight'
  codes = rng.integers(1, 100, arrays[name].shape)
  narrow = ml_dtypes.float8_e4m3fn if dtype == 'F8_E4M3' else dtype
  folder = hub_folder.write(
    tmp_path / 'hub', 'llava', arrays | {name: codes.astype(narrow)}
  )
  kind = {np.int8: 'I8', np.float64: 'F64'}.get(dtype, dtype)
  message = (
    f'{name} in {SINGLE} has dtype {kind}, not one of F32, F16, BF16. .*'
    'Quantized checkpoints are not supported'
  )
  with pytest.raises(ValueError, match=message):
    models.load(folder)


def test_a_pipe_holds_no_weights(tmp_path):
  folder = hub_folder.write(
    tmp_path / 'hub', 'llava', hub_folder.tensors('llava', 1)
  )
  (folder / SINGLE).unlink()
  os.mkfifo(folder / SINGLE)
  with pytest.raises(ValueError, match=f'{SINGLE} must be a file'):
    models.load(folder)


@pytest.mark.parametrize(
  'found',
  [{}, None, ['x'], {'a': 3}, {'a': ['x']}, {'a': '../x.safetensors'}]
  + [{'a': '/x.safetensors'}, {'a': 'x.bin'}, {'a': 'x/y.safetensors'}],
)
def test_an_index_names_files_beside_it(found, tmp_path):
  index = tmp_path / 'model.safetensors.index.json'
  index.write_text(json.dumps({'weight_map': found}))
  with pytest.raises(ValueError, match='index.json must map tensors to'):
    safetensors_files.tensors(tmp_path)
