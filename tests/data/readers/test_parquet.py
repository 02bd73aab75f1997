"""Files of the hub are read in every layout that it has."""

import shutil

import benchmark_folders
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmu_jax.data.readers import parquet

ROWS = [{'ID': f'{i:03d}', 'n': i} for i in range(10)]


def _ids(root, **options):
  return [
    row['ID'] for row in parquet.read_rows(root, 'data', ['ID'], **options)
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
  (row, *_) = parquet.read_rows(
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
    list(parquet.read_rows(tmp_path, 'forget5', ['ID']))
  with pytest.raises(FileNotFoundError, match='it has forget_5. Download'):
    list(parquet.read_rows(tmp_path, 'Test_Set', ['ID']))
  with pytest.raises(FileNotFoundError, match='is no folder'):
    list(parquet.read_rows(tmp_path / 'none', 'Test_Set', ['ID']))


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
