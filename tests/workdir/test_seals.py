"""A seal fits one file of one name: every change of either is seen."""

import json

import numpy as np
import pytest

from mmu_jax import errors
from mmu_jax.workdir import seals

ROWS = [{'run': f'r{i}', 'value': i / 7} for i in range(9)]
NOTE = {'answers': {'ga': 'f3'}}


@pytest.fixture(name='path')
def _path(tmp_path):
  path = tmp_path / 'rows.jsonl'
  seals.write_rows(path, ROWS, 'rows', NOTE)
  return path


def test_what_was_written_is_read_with_its_note(path):
  assert seals.fault(path, 'rows') == ''
  assert seals.read_rows(path, 'rows', '') == (ROWS, NOTE)
  assert seals.hash_of(path) and seals.read_note(path) == NOTE


@pytest.mark.parametrize('seed', range(40))
def test_every_change_of_a_byte_of_file_or_seal_is_seen(path, seed):
  rng = np.random.default_rng(seed)
  harmed = [path, path.with_name('rows.jsonl.seal')][seed % 2]
  content = bytearray(harmed.read_bytes())
  place = int(rng.integers(len(content)))
  content[place] ^= 1 << int(rng.integers(8))
  before = harmed.read_bytes()
  harmed.write_bytes(content)
  if harmed == path or _value(content) != _value(before):
    assert str(path) in seals.fault(path, 'rows')


def _value(text):
  """What a seal says, whatever blanks stand in it."""
  try:
    return json.loads(bytes(text))
  except ValueError:
    return None


@pytest.mark.parametrize(
  'harm',
  [
    lambda seal: b'',
    lambda seal: seal[:-5],
    lambda seal: b'[]',
    lambda seal: b'{"hash": "00"}',
    lambda seal: seal.replace(b'"f3"', b'"f4"'),
  ],
)
def test_a_harmed_seal_has_no_hash(path, harm):
  seal = path.with_name('rows.jsonl.seal')
  seal.write_bytes(harm(seal.read_bytes()))
  assert seals.fault(path, 'rows') and seals.hash_of(path) == ''


@pytest.mark.parametrize('length', [0, 1, 57, -1])
def test_a_cut_file_is_not_whole(path, length):
  path.write_bytes(path.read_bytes()[:length])
  with pytest.raises(errors.UserError, match='not as it was written.* Do it.'):
    seals.read_rows(path, 'rows', 'Do it.')


def test_a_copy_under_another_name_is_not_whole(path):
  assert "'rows', not as 'others'" in seals.fault(path, 'others')


def test_a_file_without_its_seal_is_not_finished(path):
  seals.remove(path)
  seals.remove(path)
  with pytest.raises(FileNotFoundError, match='not finished'):
    seals.read_rows(path, 'rows', '')
  assert seals.hash_of(path) == ''
  path.unlink()
  with pytest.raises(FileNotFoundError, match='there is no .*rows.jsonl'):
    seals.read_rows(path, 'rows', '')


def test_a_hash_does_not_see_the_order_of_keys_and_sees_values():
  a = {'x': [1, 2.5], 'y': None}
  assert seals.hash_json(a) == seals.hash_json({'y': None, 'x': (1, 2.5)})
  assert len({seals.hash_json(v) for v in (a, {}, {'x': [2.5, 1]}, [])}) == 4
