"""`check` says what a folder is, and everything that is wrong with it."""

import io
import json
import shutil

import benchmark_folders
import PIL.Image
import pyarrow.parquet as pq
import pytest
import rich.console

from mmu_jax.data.checks import check
from mmu_jax.data.checks import check_rows
from mmu_jax.data.checks import look

rewrite = benchmark_folders.rewrite


def _errors(report):
  return [f for f in report.findings if f.state == 'FAIL']


def _text(report):
  console = rich.console.Console(width=200, record=True, file=io.StringIO())
  for part in check.tables(report):
    console.print(part)
  return console.export_text()


@pytest.fixture(name='mllmu')
def _mllmu(tmp_path):
  return benchmark_folders.mllmu_bench(
    tmp_path / 'bench', train_path=tmp_path / 'train'
  )


def test_every_kind_of_folder_is_recognised_and_clean(mllmu, tmp_path):
  clear = benchmark_folders.clear(tmp_path / 'clear')
  own = tmp_path / 'own' / 'own.jsonl'
  own.parent.mkdir()
  own.write_text(json.dumps(dict(question='Who?', answer='Ana')))
  kinds = {
    mllmu: ('MLLMU-Bench', 6, 83),
    mllmu.parent / 'train': ('MLLMU training', 2, 20),
    clear: ('CLEAR', 10, 328),
    own: ('own data', 1, 1),
    own.parent: ('own data', 1, 1),
  }
  for folder, expected in kinds.items():
    report = check.check(folder)
    found = report.kind, len(report.rows), sum(report.rows.values())
    assert found == expected
    assert not report.failed and not _errors(report)


def test_row_counts_that_differ_from_the_published_are_noted(mllmu):
  text = _text(check.check(mllmu))
  assert 'OK   forget_5: 1 rows; 25 were published' in text
  assert text.strip().endswith('0 errors, 0 warnings, 6 notes')


def test_all_problems_are_found_at_once(mllmu):
  """Five files, five kinds of problems, one look."""
  rewrite(
    mllmu,
    'Full_Set',
    lambda rows: [
      {k: v for k, v in r.items() if k != 'Mask_Task'} for r in rows
    ],
  )
  rewrite(mllmu, 'Test_Set', lambda rows: rows + rows[:2])
  rewrite(
    mllmu,
    'Retain_Set',
    lambda rows: [r | {'image': benchmark_folders.column(b'x')} for r in rows],
  )
  rewrite(mllmu, 'forget_5', lambda rows: [r | {'image': None} for r in rows])
  (mllmu / 'retain_95' / 'train-00000-of-00001.parquet').write_bytes(b'PAR1')
  report = check.check(mllmu)
  assert report.failed
  by_config = {}
  for finding in _errors(report):
    by_config.setdefault(finding.what, []).append(finding.message)
  assert {config: len(found) for config, found in by_config.items()} == {
    'Full_Set': 1,
    'Test_Set': 1,
    'Retain_Set': 3,
    'forget_5': 1,
    'retain_95': 1,
  }
  assert by_config['Test_Set'][0].startswith('2 x an ID that occurs twice')
  states = [f.state for f in report.findings]
  assert states == sorted(states, key=['FAIL', 'WARN', 'OK'].index)


def test_a_person_picture_and_text_in_both_sets_are_found(mllmu):
  """One row of the forget set, copied into the retain set."""
  (row,) = pq.read_table(mllmu / 'forget_5').to_pylist()
  rewrite(mllmu, 'retain_95', lambda rows: [*rows, row])
  found = {
    f.message.split(':')[0]: f.message for f in _errors(check.check(mllmu))
  }
  assert set(found) == {
    '1 x the same person in both',
    '1 x the same picture in both',
    '4 x the same text in both',
  }
  assert (
    '001 (forget_5 row 0 (001); retain_95 row 19 (001))'
    in (found['1 x the same person in both'])
  )


def test_a_picture_is_the_same_in_another_file_format(tmp_path):
  """Equal pixels, whatever the bytes of the file."""
  root = benchmark_folders.clear(tmp_path)
  (row, *_) = pq.read_table(root / 'forget05').to_pylist()
  image = PIL.Image.open(io.BytesIO(row['image']['bytes']))
  again = benchmark_folders.encoded(image, 'BMP')
  rewrite(
    root,
    'retain95',
    lambda rows: [
      rows[0] | {'image': benchmark_folders.column(again)},
      *rows[1:],
    ],
  )
  (error,) = _errors(check.check(root))
  assert 'the same picture in both: (forget05 row 0; retain95 row 0)' in (
    error.message
  )


def test_sets_of_other_ratios_are_not_compared(mllmu):
  """forget_10 has people of retain_95, as it must."""
  shutil.copytree(mllmu / 'retain_95', mllmu / 'forget_10')
  assert not check.check(mllmu).failed


def test_a_folder_of_something_else_is_an_error(tmp_path):
  benchmark_folders.write(tmp_path, 'sales', [{'month': 1}])
  report = check.check(tmp_path)
  assert report.kind == '' and report.failed
  assert 'no benchmark and no file of own data; it has sales' in _text(report)
  with pytest.raises(FileNotFoundError, match='is no folder'):
    check.check(tmp_path / 'none')


def test_configs_that_are_needed_are_named(mllmu):
  shutil.rmtree(mllmu / 'retain_95')
  shutil.rmtree(mllmu / 'Test_Set')
  text = _text(check.check(mllmu))
  assert 'Download forget_5 with retain_95 or forget_10 with retain_90' in text
  assert 'WARN Test_Set: this config is not here' in text


def test_own_data_is_checked_row_by_row(tmp_path):
  path = tmp_path / 'own.jsonl'
  (tmp_path / 'a.png').write_bytes(b'no image')
  rows = [
    dict(question='Who?', answer='', split='forget'),
    dict(question='Who?', answer='Ana', image='a.png'),
    dict(question='Who?', answer='Ana', split='tests'),
  ]
  path.write_text('\n'.join(map(json.dumps, rows)))
  text = _text(check.check(path))
  assert '3 errors' in text
  assert '1 x an empty answer: line 1 answer' in text
  assert 'the image of line 2 cannot be read' in text
  assert "the split 'tests' (there are forget, retain" in text


def test_every_bad_line_of_own_data_is_named(tmp_path):
  good = '{"question": "Who?", "answer": "Ana."}'
  lines = [
    good,
    '{"question": "Who?"',
    '["a"]',
    '{"question": "Who?"}',
    '{"question": "Where?", "answer": ""}',
    good,
  ]
  path = tmp_path / 'own.jsonl'
  latin = b'{"question": "\xff"}'
  path.write_bytes(b'\n'.join([*map(str.encode, lines), latin]))
  report = check.check(path)
  errors = ' '.join(f.message for f in report.findings if f.state == 'FAIL')
  for number in (2, 3, 4, 7):
    assert f'line {number} of' in errors
  assert 'empty' in errors
  assert report.rows == {'own.jsonl': 3} and report.failed


@pytest.mark.parametrize('place', ['entry', 'LazyImage', 'open_file'])
def test_a_bug_is_not_taken_for_a_problem_of_the_data(
  place, mllmu, monkeypatch
):
  def fail(*_):
    raise ValueError('a bug')

  where = {'entry': check_rows, 'LazyImage': look, 'open_file': check.parquet}[
    place
  ]
  monkeypatch.setattr(where, place, fail)
  with pytest.raises(ValueError, match='^a bug$'):
    check.check(mllmu)
