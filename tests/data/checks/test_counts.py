"""A dataset is counted by part, and read at each ratio that is there."""

import shutil

import benchmark_folders

from mmu_jax.data.checks import check_rows
from mmu_jax.data.checks import counts


def test_every_ratio_that_is_there_is_read(tmp_path):
  root = benchmark_folders.mllmu_bench(tmp_path / 'bench')
  assert len(list(counts.read_all(check_rows.MLLMU, root))) == 1
  for old, new in (('forget_5', 'forget_10'), ('retain_95', 'retain_90')):
    shutil.copytree(root / old, root / new)
  one, other = counts.read_all(check_rows.MLLMU, root)
  assert counts.count_parts(one) == counts.count_parts(other)
  assert not list(counts.read_all(check_rows.TRAIN, root))


def test_a_picture_that_rows_share_counts_once(tmp_path):
  root = benchmark_folders.mllmu_bench(tmp_path / 'bench')
  (data,) = counts.read_all(check_rows.MLLMU, root)
  part = counts.count_parts(data)[0]
  assert part[:3] == ('forget', 'vqa', 'train')
  assert part.rows > part.pictures == part.entities == 1
