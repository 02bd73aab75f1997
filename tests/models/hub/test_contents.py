"""The content of a checkpoint folder names its files."""

import numpy as np
import pytest

from mmu_jax.models.hub import contents


@pytest.fixture(name='folder')
def _folder(tmp_path, monkeypatch):
  """A folder of 64 KiB of weights, of which 8 pieces of 256 bytes are read."""
  monkeypatch.setattr(contents, 'SAMPLES', 8)
  monkeypatch.setattr(contents, 'PIECE', 256)
  (tmp_path / 'config.json').write_text('{"model_type": "llava"}')
  (tmp_path / 'merges.txt').write_text('a b')
  (tmp_path / 'README.md').write_text('A model.')
  weights = np.random.default_rng(0).bytes(2**16)
  (tmp_path / 'model.safetensors').write_bytes(weights)
  return tmp_path


def test_every_file_that_is_loaded_is_named_with_its_size(folder):
  found = contents.digest(folder)
  assert set(found) == {'config.json', 'merges.txt', 'model.safetensors'}
  assert found['model.safetensors'].startswith('65536 bytes, ')
  assert contents.digest(folder) == found


@pytest.mark.parametrize('name', ['config.json', 'merges.txt'])
def test_every_byte_of_a_text_counts(folder, name):
  before = contents.digest(folder)
  text = (folder / name).read_text()
  (folder / name).write_text(text.replace('a', 'e'))
  assert contents.digest(folder)[name] != before[name]


@pytest.mark.parametrize('seed', range(3))
def test_other_weights_of_the_same_size_are_noticed(folder, seed):
  before = contents.digest(folder)
  weights = np.random.default_rng(seed + 1).bytes(2**16)
  (folder / 'model.safetensors').write_bytes(weights)
  assert contents.digest(folder) != before


@pytest.mark.parametrize('place', [0, 2**16 - 1])
def test_the_first_and_the_last_byte_of_weights_count(folder, place):
  """The header is at the start, and a cut file ends elsewhere."""
  before = contents.digest(folder)
  path = folder / 'model.safetensors'
  weights = bytearray(path.read_bytes())
  weights[place] ^= 1
  path.write_bytes(weights)
  assert contents.digest(folder) != before
