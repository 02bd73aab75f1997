"""Files of the hub are read in every layout that it has."""

import os
import shutil

import benchmark_folders
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmu_jax.data.readers import parquet
from mmu_jax.errors import UserError

ROWS = [{'ID': f'{i:03d}', 'n': i} for i in range(10)]


def _ids(root, **options):
  return [
    row['ID'] for row in parquet.read_config(root, 'data', ['ID'], **options)
  ]


def _file(path, rows):
  path.parent.mkdir(parents=True, exist_ok=True)
  pq.write_table(pa.Table.from_pylist(rows), path)


@pytest.mark.parametrize('shards', [1, 2, 3])
def test_shards_are_read_in_their_order(shards, tmp_path):
  benchmark_folders.write(tmp_path, 'data', ROWS, shards=shards)
  assert _ids(tmp_path) == [row['ID'] for row in ROWS]


@pytest.mark.parametrize(
  'name', ['data.parquet', 'data/train/0000.parquet', 'data/train.parquet']
)
def test_other_layouts_of_the_hub_are_read(name, tmp_path):
  _file(tmp_path / name, ROWS)
  assert _ids(tmp_path) == [row['ID'] for row in ROWS]
  assert parquet.configs(tmp_path) == ['data']


def test_only_the_columns_asked_for_are_read(tmp_path):
  benchmark_folders.write(tmp_path, 'data', ROWS)
  (row, *_) = parquet.read_config(
    tmp_path, 'data', ['n'], optional=['image', 'ID']
  )
  assert row == {'n': 0, 'ID': '000', 'image': None}


def test_a_missing_shard_is_an_error(tmp_path):
  benchmark_folders.write(tmp_path, 'data', ROWS, shards=3)
  (tmp_path / 'data' / 'train-00001-of-00003.parquet').unlink()
  with pytest.raises(ValueError, match='has 3 files, of which 2 are here'):
    _ids(tmp_path)


def test_an_unknown_config_names_those_that_are_there(tmp_path):
  benchmark_folders.write(tmp_path, 'forget_5', ROWS)
  with pytest.raises(FileNotFoundError, match=r"\(is 'forget_5' meant\?\)"):
    list(parquet.read_config(tmp_path, 'forget5', ['ID']))
  with pytest.raises(FileNotFoundError, match='it has forget_5. Download'):
    list(parquet.read_config(tmp_path, 'Test_Set', ['ID']))
  with pytest.raises(FileNotFoundError, match='is no folder'):
    list(parquet.read_config(tmp_path / 'none', 'Test_Set', ['ID']))


def test_a_pointer_of_git_lfs_is_told_from_a_damaged_file(tmp_path):
  path = tmp_path / 'data' / 'train-00000-of-00001.parquet'
  path.parent.mkdir()
  path.write_text('version https://git-lfs.github.com/spec/v1\noid sha256:0\n')
  with pytest.raises(ValueError, match='pointer of Git LFS.*git lfs pull'):
    _ids(tmp_path)


def test_hidden_copies_of_a_download_are_no_configs(tmp_path):
  benchmark_folders.write(tmp_path, 'data', ROWS)
  cache = tmp_path / '.cache' / 'huggingface'
  shutil.copytree(tmp_path / 'data', cache)
  assert parquet.configs(tmp_path) == ['data']


def test_text_that_is_no_json_is_shown():
  assert parquet.parse_json('[1]', 'x') == parquet.parse_json([1], 'x') == [1]
  with pytest.raises(ValueError, match="metadata of row 3.*begins with '{oops"):
    parquet.parse_json('{oops', 'metadata of row 3')


def _repeated(path, size, number):
  """A file of a few kilobytes: one large text in many rows."""
  path.parent.mkdir(parents=True, exist_ok=True)
  texts = pa.array(['x' * size])
  column = pa.DictionaryArray.from_arrays(pa.array([0] * number), texts)
  pq.write_table(pa.table({'ID': column}), path, compression='zstd')
  return path


def test_a_small_file_that_becomes_large_is_refused(tmp_path, monkeypatch):
  path = _repeated(tmp_path / 'data.parquet', 10**6, 1000)
  assert path.stat().st_size < 10_000  # and 1 GB in memory
  monkeypatch.setattr(parquet, '_most_bytes', lambda path: 2 * 10**7)
  read = []
  with pytest.raises(UserError, match=r'data.parquet has .* unpacks to more'):
    read.extend(parquet.read_file(path, ['ID']))
  assert len(read) == 20  # the rest was never made
  (tmp_path / 'plain').mkdir()
  path = tmp_path / 'plain' / 'data.parquet'
  table = pa.table({'ID': ['x' * 10**6 + str(i) for i in range(30)]})
  pq.write_table(table, path, compression='zstd', use_dictionary=False)
  with pytest.raises(UserError, match='data.parquet .*unpacks to more'):
    parquet.open_file(path)


def test_an_ordinary_file_is_far_from_the_bound(tmp_path):
  path = tmp_path / 'data.parquet'
  _file(path, ROWS)
  assert parquet._most_bytes(path) >= 2**30
  assert parquet._size({'image': {'bytes': b'123', 'path': None}}) == 11


def test_a_file_of_too_many_rows_is_refused(tmp_path, monkeypatch):
  path = tmp_path / 'data.parquet'
  _file(path, ROWS)
  monkeypatch.setattr(parquet, '_MOST_ROWS', 9)
  with pytest.raises(UserError, match='in 10 rows; the most are .* in 9 rows'):
    parquet.open_file(path)


@pytest.mark.parametrize('seed', range(60))
def test_a_damaged_file_is_named(seed, tmp_path):
  """Random bytes flipped or cut away: it is read, or its path is said."""
  rng = np.random.default_rng(seed)
  path = tmp_path / 'data.parquet'
  _file(path, ROWS)
  data = bytearray(path.read_bytes())
  for place in rng.integers(0, len(data), rng.integers(1, 20)):
    data[place] = rng.integers(256)
  path.write_bytes(data[: rng.integers(1, len(data) + 1)] if seed % 3 else data)
  try:
    list(parquet.read_file(path, ['ID'], optional=['n']))
  except UserError as error:
    assert str(path) in str(error)


@pytest.mark.parametrize('text', ['[' * 100_000, '9' * 5000, '{', 'nil'])
def test_json_of_any_kind_has_a_clear_error(text):
  with pytest.raises(UserError, match='metadata of row 3 must be JSON'):
    parquet.parse_json(text, 'metadata of row 3')


def test_a_pipe_and_a_folder_are_no_parquet_files(tmp_path):
  os.mkfifo(tmp_path / 'pipe.parquet')
  (tmp_path / 'folder.parquet').mkdir()
  for name in ('pipe', 'folder'):
    with pytest.raises(UserError, match=f'{name}.parquet must be a file'):
      parquet.open_file(tmp_path / f'{name}.parquet')
