"""Ten kinds of broken input: each has a clear error or a stated handling.

What a reader says of the first problem, and `check` of all.
"""

import json
import pathlib
import re

import benchmark_folders
import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmu_jax.data import datasets
from mmu_jax.data.checks import check

rewrite = benchmark_folders.rewrite


@pytest.fixture(name='root')
def _root(tmp_path):
  return benchmark_folders.mllmu_bench(tmp_path / 'bench')


def _file(root, config='forget_5') -> pathlib.Path:
  return next((root / config).glob('*.parquet'))


def _load(root):
  return datasets.load('mllmu_bench', 0, path=root)


def _said(root, state='FAIL'):
  """What `check` says of one state, in one text."""
  return '\n'.join(
    f'{f.what}: {f.message} {f.fix}'
    for f in check.check(root).findings
    if f.state == state
  )


def _both_say(root, reader, checker):
  with pytest.raises((ValueError, OSError), match=reader):
    _load(root)
  assert checker in _said(root)


def _change(root, config='forget_5', **values):
  rewrite(root, config, lambda rows: [r | values for r in rows])


def test_a_missing_column_is_named_with_the_nearest(root):
  rewrite(
    root,
    'forget_5',
    lambda rows: [
      {k.replace('Mask_Task', 'mask task'): v for k, v in r.items()}
      for r in rows
    ],
  )
  _both_say(
    root,
    r"lacks column 'Mask_Task' \(is 'mask task' meant\?\); it has",
    "column 'Mask_Task' is missing Rename 'mask task' to 'Mask_Task'.",
  )


def test_a_null_image_is_named_by_its_row(root):
  rewrite(
    root, 'retain_95', lambda rows: [rows[0] | {'image': None}, *rows[1:]]
  )
  _both_say(
    root,
    'row 002 of retain_95 has none',
    'retain_95: 1 x no image where there must be one: row 0 (002).',
  )


def test_a_truncated_file_is_told_by_its_size(root):
  path = _file(root)
  path.write_bytes(path.read_bytes()[:-200])
  size = path.stat().st_size
  _both_say(
    root,
    rf'\({size} bytes\) is no whole parquet file.*cut off.*again',
    f'({size} bytes) is no whole parquet file',
  )


def test_a_wrong_split_name_lists_what_is_there(root):
  path = _file(root)
  path.rename(path.with_name('test-00000-of-00001.parquet'))
  _both_say(
    root, "has no split 'train'; it has test", "the split 'test' is not read"
  )


def test_a_misnamed_config_is_named_with_the_nearest(root):
  (root / 'forget_5').rename(root / 'forget5')
  _both_say(
    root,
    r"no config 'forget_5' \(is 'forget5' meant\?\)",
    'forget5: a config of this name is not read Rename the folder to forget_5.',
  )


def test_duplicated_ids_are_listed(root):
  rewrite(root, 'retain_95', lambda rows: rows + rows[:1])
  _both_say(
    root,
    'an ID occurs once in .*; 1 occur more often: 002',
    'an ID that occurs twice: 002 (row 0 (002) and row 19 (002)).',
  )


def test_empty_answers_of_training_rows_are_left_out_and_counted(root):
  text = '[{"Question": "Who?", "Answer": ""}, {"Question": "?", "Answer": 1}]'
  write = lambda rows: [r | {'metadata': text} for r in rows]
  for path in (root / 'ft_Data').glob('*00000*.parquet'):
    pq.write_table(
      pa.Table.from_pylist(write(pq.read_table(path).to_pylist())), path
    )
  data = _load(root)
  assert len(data.train['vqa/forget']) == 1
  (note,) = data.notes
  assert note.startswith(
    'left out 10 empty training questions or answers: 001/0, 002/0, '
  )
  assert '10 x an empty answer: row 0 (001) metadata 0' in _said(root, 'WARN')
  assert not check.check(root).failed


def test_empty_answers_of_scored_rows_are_left_out_and_an_error_of_check(root):
  blank = {'Question': 'Who?', 'Ground_Truth': ' ', 'Type': 'Pure_Text'}
  _change(root, Generation_Task=[blank])
  data = _load(root)
  assert data.notes == (
    'left out 1 generation questions without question or answer: '
    '001/generation0',
  )
  assert 'forget_5: 1 x an empty answer: row 0 (001) Generation_Task 0.' in (
    _said(root)
  )


def test_options_without_the_answer_are_left_out_and_counted(root):
  choice = {
    'Question': 'Which?',
    'Options': {'A': 'cat', 'B': 'dog'},
    'Correct_Answer': 'C',
  }
  _change(
    root,
    Classification_Task={
      'Image_Textual_Questions': [choice],
      'Pure_Text_Questions': [],
    },
  )
  data = _load(root)
  assert data.notes == (
    'left out 1 classification questions without their answer: '
    '001/classification0',
  )
  assert not any(r.options for r in data.tasks['forget_vqa'].rows)
  assert '1 x options without the answer: row 0 (001) Image_Textual' in (
    _said(root)
  )


def test_pictures_that_are_not_rgb_are_converted_and_noted(root):
  grey = benchmark_folders.encoded(PIL.Image.new('L', (20, 30), 9))
  _change(root, image=benchmark_folders.column(grey))
  (row, *_) = _load(root).tasks['forget_vqa'].rows
  assert np.asarray(row.picture.image).shape == (30, 20, 3)
  assert 'image of mode L, converted to RGB: row 0 (001)' in _said(root, 'OK')
  assert not check.check(root).failed


@pytest.mark.filterwarnings('ignore:Image size')
def test_huge_and_undecodable_pictures_are_named_by_their_rows(root):
  """Both at once in `check`; a reader says so when the picture is used."""
  huge = benchmark_folders.encoded(PIL.Image.new('1', (9_500, 9_500)))
  bad = {0: huge, 1: b'no image'}
  rewrite(
    root,
    'retain_95',
    lambda rows: [
      r | {'image': benchmark_folders.column(bad[i])} if i in bad else r
      for i, r in enumerate(rows)
    ],
  )
  rows = {r.person: r for r in _load(root).tasks['retain_vqa'].rows}
  with pytest.raises(ValueError, match='89478485 pixels; the image of row 002'):
    np.asarray(rows['002'].picture.image)
  with pytest.raises(ValueError, match='row 003 of retain_95 cannot be read'):
    np.asarray(rows['003'].picture.image)
  said = _said(root)
  assert 'the image of row 0 (002) has more (9500 x 9500 pixels)' in said
  assert 'the image of row 1 (003) cannot be read' in said


def test_text_and_picture_rows_are_told_apart_in_clear(tmp_path):
  """A ``+tofu`` row that is neither is left out, and counted."""
  root = benchmark_folders.clear(tmp_path)
  nothing = dict(image=None, caption=None, question=None, answer=None)
  rewrite(root, 'forget05+tofu', lambda rows: rows[::-1] + [nothing])
  data = datasets.load('clear', 0, path=root)
  assert len(data.train['qa/forget']) == 3
  assert all(r.picture is None for r in data.train['qa/forget'])
  assert data.notes == (
    'left out 1 rows without picture, question or answer: forget05+tofu/5',
  )
  assert 'a row with neither a picture nor a question: row 5.' in _said(root)


def test_a_caption_without_its_picture_is_an_error(tmp_path):
  root = benchmark_folders.clear(tmp_path)
  _change(root, 'forget05', image=None)
  with pytest.raises(ValueError, match='row 0 of .*forget05 has no picture'):
    datasets.load('clear', 0, path=root)
  assert '2 x no image where there must be one: row 0, row 1.' in _said(root)


def test_text_that_is_not_utf_8_is_found_by_row_and_column(root):
  path = _file(root, 'Full_Set')
  table = pq.read_table(path)
  texts = [t.encode() for t in table['biography'].to_pylist()]
  texts[7] = 'Zoë'.encode('latin-1')
  index = table.schema.get_field_index('biography')
  pq.write_table(table.set_column(index, 'biography', _unchecked(texts)), path)
  with pytest.raises(ValueError, match="row 7 of .*in column 'biography'"):
    _load(root)


def test_metadata_that_is_no_json_shows_its_row(root):
  for path in (root / 'ft_Data').glob('*00001*.parquet'):
    rows = pq.read_table(path).to_pylist()
    rows[0]['metadata'] = "[{'Question': 'single quotes'}]"
    pq.write_table(pa.Table.from_pylist(rows), path)
  _both_say(root, 'metadata of row 10 of ft_Data must be JSON', 'must be JSON')


def _teach(root, change):
  """Changes the rows of ft_Data, which has two files."""
  for path in (root / 'ft_Data').glob('*.parquet'):
    rows = [row for row in map(change, pq.read_table(path).to_pylist()) if row]
    pq.write_table(pa.Table.from_pylist(rows), path)


def test_a_forget_set_that_nobody_learns_is_an_error(root):
  _teach(root, lambda row: row | {'ID': f'x{row["ID"]}'})
  _both_say(
    root,
    r'none of the 1 people to forget \(001\) has training questions in .*bench'
    r', so .* are about x001, x002, x003, x004, x005, \.\.\.\. Compare',
    'bench: the reader stops: none of the 1 people to forget (001) has ',
  )


def test_people_who_lack_something_are_noted(tmp_path):
  """Two are forgotten: 001 has no lessons, 002 no other pictures."""
  root = benchmark_folders.mllmu_bench(tmp_path, ratio=10)
  renamed = {'001': 'x', '003': ''}
  _teach(
    root,
    lambda row: (
      row | {'ID': i} if (i := renamed.get(row['ID'], row['ID'])) else None
    ),
  )
  rewrite(
    root, 'Test_Set', lambda rows: [row for row in rows if row['ID'] != '002']
  )
  notes = (
    '1 people of the forget set without training questions: 001',
    '1 people of the retain set without training questions: 003',
    '1 people with training questions who are in neither set: x',
    '1 people of the forget set without pictures in Test_Set: 002',
  )
  assert datasets.load('mllmu_bench', 0, path=root, ratio=10).notes == notes
  said = _said(root, 'WARN')
  assert all(f': {note}' in said for note in notes)
  assert not check.check(root).failed


ASKED = {'Question': 'Who?', 'Ground_Truth': 'Ana', 'Type': 'Pure_Text'}
CHOICE = {'Question': 'Which?', 'Options': {'A': 'cat'}, 'Correct_Answer': 'A'}


def _choices(**values):
  return json.dumps({'Pure_Text_Questions': [CHOICE | values]})


@pytest.mark.parametrize(
  'column, value, message',
  [
    (
      'Generation_Task',
      '["a"]',
      'Generation_Task[0] of {} is an object, got a (str)',
    ),
    ('Mask_Task', '[null]', 'Mask_Task[0] of {} is an object, got None'),
    ('Mask_Task', '{"a": 1}', 'Mask_Task of {} is a list, got'),
    (
      'Generation_Task',
      json.dumps([ASKED | {'Question': ['Who?']}]),
      "Generation_Task[0].Question of {} is text, got ['Who?'] (list)",
    ),
    (
      'Generation_Task',
      json.dumps([ASKED | {'Ground_Truth': {}}]),
      'Generation_Task[0].Ground_Truth of {} is text or a number, got',
    ),
    (
      'Generation_Task',
      json.dumps([ASKED | {'Type': ['Pure_Text']}]),
      'Generation_Task[0].Type of {} is text, got',
    ),
    (
      'Classification_Task',
      '[1]',
      'Classification_Task of {} is an object, got [1] (list)',
    ),
    (
      'Classification_Task',
      _choices(Options=['cat', 'dog']),
      'Classification_Task.Pure_Text_Questions[0].Options of {} is an '
      "object, got ['cat', 'dog'] (list)",
    ),
    (
      'Classification_Task',
      _choices(Options={'A': ['cat']}),
      'Pure_Text_Questions[0].Options.A of {} is text or a number, got',
    ),
    (
      'Classification_Task',
      _choices(Question=3),
      'Pure_Text_Questions[0].Question of {} is text, got 3 (int)',
    ),
  ],
)
def test_a_column_of_another_form_is_named(root, column, value, message):
  _change(root, **{column: value})
  _both_say(
    root,
    re.escape(message.format('row 001 of forget_5')),
    message.format('row 0 (001)'),
  )


@pytest.mark.parametrize('field, value', [('Answer', {}), ('ID', ['001'])])
def test_metadata_of_another_form_is_named(root, field, value):
  item = {'ID': '001', 'Question': 'Who?', 'Answer': 'Ana'} | {field: value}
  for path in (root / 'ft_Data').glob('*00000*.parquet'):
    rows = pq.read_table(path).to_pylist()
    rows[0]['metadata'] = json.dumps([item])
    pq.write_table(pa.Table.from_pylist(rows), path)
  said = f'metadata[0].{field} of row 0'
  _both_say(root, re.escape(said), said)


@pytest.mark.parametrize(
  'config, column, value',
  [
    ('forget05', 'caption', 3),
    ('forget05', 'name', ['Ana']),
    ('forget05+tofu', 'question', 3),
    ('real_faces', 'options', [[1]]),
    ('forget05_perturbed', 'perturbed_names', [3]),
    ('real_faces', 'answer', ['Ana']),
  ],
)
def test_a_column_of_clear_of_another_form_is_named(
  tmp_path, config, column, value
):
  root = benchmark_folders.clear(tmp_path)
  _change(root, config, image=None, **{column: value})
  if config != 'forget05+tofu':
    image = benchmark_folders.column(benchmark_folders.file(0))
    _change(root, config, image=image)
  with pytest.raises(
    ValueError, match=f'{column}.* of row {re.escape(config)}/0 is text, got'
  ):
    datasets.load('clear', 0, path=root)
  said = [line for line in _said(root).split('\n') if 'is text, got' in line]
  assert said and all(line.startswith(f'{config}: {column}') for line in said)


@pytest.mark.parametrize(
  'field, value, form',
  [
    ('split', ['forget'], 'text'),
    ('person', ['Ana'], 'text or a number'),
    ('question', {'a': 1}, 'text or a number'),
    ('answer', [], 'text'),
  ],
)
def test_own_data_of_another_form_is_named(tmp_path, field, value, form):
  path = tmp_path / 'own.jsonl'
  row = {'question': 'Who?', 'answer': 'Ana', 'person': 3, field: value}
  path.write_text(json.dumps(row))
  with pytest.raises(ValueError, match=f'{field} of line 1 of .* is {form}'):
    datasets.load('own', 0, path=path)
  assert f'{field} of line 1 is {form}' in _said(path)


def _unchecked(texts):
  """Bytes as an Arrow string column, without the check for UTF-8."""
  column = pa.array(texts, pa.binary())
  return pa.Array.from_buffers(pa.string(), len(texts), column.buffers())
