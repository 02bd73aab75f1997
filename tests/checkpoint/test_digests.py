"""Checksums find the block that has changed."""

import json
import zlib

import numpy as np
import pytest

from mmu_jax.checkpoint import digests


def test_each_block_has_the_checksum_of_zlib(tmp_path, monkeypatch):
  data = np.random.default_rng().bytes(1000)
  (tmp_path / 'in').mkdir()
  (tmp_path / 'in' / 'x').write_bytes(data)
  monkeypatch.setattr(digests, 'BLOCK', 300)
  digests.write_digests(tmp_path)
  crcs = [zlib.crc32(data[i : i + 300]) for i in range(0, 1000, 300)]
  assert json.loads((tmp_path / '_DIGESTS').read_text()) == {
    'in/x': [1000, *crcs]
  }
  wrong, blocks = digests.blocks(tmp_path)
  assert wrong == [] and not any(digests.changed(tmp_path, blocks))
  (tmp_path / 'in' / 'x').write_bytes(data[:650] + b'!!' + data[652:])
  assert list(digests.changed(tmp_path, blocks)) == [False, False, True, False]


@pytest.mark.parametrize(
  'text, said',
  [
    (None, ['_DIGESTS is missing']),
    ('{"x": [1,', ['_DIGESTS cannot be read']),
    ('{"x": [3, 0]}', ['x has 1 bytes instead of 3']),
    ('{"y": [3, 0]}', ['y is missing']),
    ('{"x": [1, 0]}', []),
  ],
)
def test_what_is_wrong_at_first_sight_is_said(tmp_path, text, said):
  (tmp_path / 'x').write_bytes(b'!')
  if text is not None:
    (tmp_path / '_DIGESTS').write_text(text)
  wrong, blocks = digests.blocks(tmp_path)
  assert wrong == said
  assert blocks == ([] if said else [digests.Block('x', 0, 0)])
