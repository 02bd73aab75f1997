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
SPLITS = ('forget', 'retain')


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
  rows = [dict(question='Who?', answer=a, split=a) for a in SPLITS]
  own.write_text('\n'.join(map(json.dumps, rows)))
  kinds = {
    mllmu: ('MLLMU-Bench', 6, 83),
    mllmu.parent / 'train': ('MLLMU training', 2, 20),
    clear: ('CLEAR', 10, 328),
    own: ('own data', 1, 2),
    own.parent: ('own data', 1, 2),
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
  with pytest.raises(FileNotFoundError, match="no file .* 'sales' meant"):
    check.check(tmp_path / 'sale')


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


def _own(folder, *rows):
  path = folder / 'own.jsonl'
  path.write_text('\n'.join(map(json.dumps, rows)))
  return path


def _two(name, other, **more):
  """A row to forget and one to retain, about two entities."""
  return (
    dict(question='Who is 1?', answer='A.', person=name, split='forget'),
    dict(question='Who is 2?', answer='B.', person=other) | more,
  )


@pytest.mark.parametrize(
  'name, other',
  [
    ('Ana Ruiz', 'ana  ruiz '),
    ('José', 'Jose\u0301'),
    ('José', 'JOSE'),
    ('Jean-Luc Roy', 'Jean Luc Roy'),
    ('Jean\u2010Luc', 'jean_luc'),
    ('Søren', 'Soren'),
    ('Straße 3', 'STRASSE 3'),
    ("O'Neil", 'O’Neil'),
    ('ＡＮＡ', 'Ana'),
    (7, '7'),
  ],
)
def test_one_name_in_two_spellings_is_one_entity(name, other, tmp_path):
  path = _own(tmp_path, *_two(name, other))
  errors = _errors(check.check(path))
  (error,) = (e for e in errors if 'the same person in both' in e.message)
  assert 'own.jsonl line 1; own.jsonl line 2' in error.message
  assert str(name) in error.message and str(other) in error.message


@pytest.mark.parametrize(
  'name, other', [('Ana', 'Anna'), ('1', '11'), ('李', '王'), ('!', '?')]
)
def test_other_names_are_other_entities(name, other, tmp_path):
  assert not check.check(_own(tmp_path, *_two(name, other))).failed


def test_a_split_without_rows_is_an_error(tmp_path):
  one, other = _two('a', 'b')
  (error,) = _errors(check.check(_own(tmp_path, one)))
  assert 'nothing to retain' in error.message
  (error,) = _errors(check.check(_own(tmp_path, other)))
  assert 'nothing to forget' in error.message
  real = other | {'split': 'real'}
  assert len(_errors(check.check(_own(tmp_path, real)))) == 2
  (error,) = _errors(check.check(_own(tmp_path)))
  assert 'no rows' in error.message


def test_a_row_that_says_and_shows_the_same_is_named(tmp_path):
  for name in 'abc':  # a and b: the same pixels in files of two formats
    seed, kind = ord(name) // 99, 'PNG' if name == 'a' else 'BMP'
    image = PIL.Image.new('RGB', (8, 8), (seed, 7, 7))
    (tmp_path / name).write_bytes(benchmark_folders.encoded(image, kind))
  one, other = _two('a', 'b')
  rows = [one | {'image': name} for name in 'abc'] + [other, other]
  (error,) = _errors(check.check(_own(tmp_path, *rows)))
  assert error.message.startswith('2 x a row with the content of another')
  assert 'line 2 (as line 1), line 5 (as line 4)' in error.message


def test_many_errors_of_one_kind_are_some_lines_and_a_number(tmp_path):
  one, other = _two('a', 'b')
  lost = [
    one | {'question': f'Who {i}?', 'image': f'{chr(97 + i % 26)}/{i}.png'}
    for i in range(300)
  ]
  report = check.check(_own(tmp_path, one, other, *lost))
  errors = _errors(report)
  assert len(errors) == 6 and '295 more like this' in errors[-1].message
  assert 'line 3' in errors[0].message and len(_text(report)) < 4000


def test_the_parts_are_counted_as_a_stage_reads_them(tmp_path):
  for name in 'ab':
    (tmp_path / name).write_bytes(benchmark_folders.file(ord(name)))
  one, other = _two('a', 'b')
  rows = [one | {'image': name} for name in 'ab']
  rows += [one, other, dict(question='Why?', answer='So.')]
  rows += [one | {'split': 'holdout', 'image': 'b', 'question': 'Again?'}]
  report = check.check(_own(tmp_path, *rows))
  assert not report.failed
  shown = {part[:3]: part[3:] for part in report.counts}
  assert shown == {
    ('forget', 'vqa', 'train'): (2, 2, 1),
    ('forget', 'qa', 'train'): (1, 0, 1),
    ('retain', 'qa', 'train'): (2, 0, 1),
    ('forget', 'vqa', 'score'): (2, 2, 1),
    ('forget', 'qa', 'score'): (1, 0, 1),
    ('retain', 'qa', 'score'): (2, 0, 1),
    ('forget, holdout', 'vqa', 'score'): (1, 1, 1),
  }
  text = _text(report)
  assert 'pictures' in text and 'entities' in text and 'holdout' in text


@pytest.mark.parametrize('name', ['ft_Data', 'Test_Set', 'Retain_Set'])
def test_the_check_fails_where_the_reader_stops(name, mllmu):
  assert check.check(mllmu).counts
  shutil.rmtree(mllmu / name)
  errors = _errors(check.check(mllmu))
  assert any(f"no config '{name}'" in error.message for error in errors)
  if name == 'ft_Data':
    assert 'MLLMMU/baseline_train_split' in errors[0].fix


def test_a_picture_that_no_processor_takes_is_an_error(tmp_path):
  image = PIL.Image.new('RGB', (1, 201))
  (tmp_path / 'a.png').write_bytes(benchmark_folders.encoded(image))
  one, other = _two('a', 'b', image='a.png')
  (error,) = _errors(check.check(_own(tmp_path, one, other)))
  assert '200 times' in error.message and 'line 2' in error.message


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


@pytest.mark.parametrize('field', ['question', 'answer'])
def test_the_field_with_the_mark_of_a_picture_is_named(field, tmp_path):
  rows = [*_two('a', 'b'), _two('c', 'd')[1] | {field: 'Who <image> is it?'}]
  (error,) = _errors(check.check(_own(tmp_path, *rows)))
  said = f"the mark of a picture, '<image>', in the {field}: line 3 {field}."
  assert said in error.message
