"""Own data: one file of pictures, questions and answers."""

import hashlib
import json
import os
import re

import benchmark_folders
import numpy as np
import pytest

from mmu_jax.data import datasets
from mmu_jax.data.checks import check
from mmu_jax.errors import UserError

ROWS = (
  dict(
    image='a.jpg', question='Who?', answer='Ana.', person='ana', split='forget'
  ),
  dict(question='Where was Ana born?', answer='Oslo.', split='forget'),
  dict(image='b.jpg', question='Who?', answer='Bruno.', person='bruno'),
  dict(image='b.jpg', question='What pet?', answer='A cat.'),
  dict(image='c.jpg', question='Who?', answer='Ana.', split='holdout'),
  dict(question='Capital of Peru?', answer='Lima.', split='real'),
)


@pytest.fixture(name='path')
def _path(tmp_path):
  for i, name in enumerate('abc'):
    (tmp_path / f'{name}.jpg').write_bytes(benchmark_folders.file(i))
  path = tmp_path / 'own.jsonl'
  path.write_text('\n'.join(map(json.dumps, ROWS)) + '\n\n')
  return path


def _write(path, *rows):
  path.write_text('\n'.join(map(json.dumps, rows)))


def test_rows_go_to_their_splits_and_tasks(path):
  data = datasets.load('own', 0, path=path)
  assert {k: len(v) for k, v in data.train.items()} == {
    'vqa/forget': 1,
    'vqa/retain': 2,
    'qa/forget': 1,
    'qa/retain': 0,
  }
  assert {k: len(v.rows) for k, v in data.tasks.items()} == {
    'forget_vqa': 1,
    'retain_vqa': 2,
    'forget_qa': 1,
    'forget_vqa_holdout': 1,
    'real_qa': 1,
  }
  one, other = data.train['vqa/retain']
  assert one.picture is other.picture
  assert np.asarray(one.picture.image).shape == (48, 48, 3)
  assert data.names == {'ana': 'ana', 'bruno': 'bruno'}


def test_parquet_holds_the_same_as_jsonl(path):
  pictures = {n: benchmark_folders.file(i) for i, n in enumerate('abc')}
  names = ('image', 'question', 'answer', 'person', 'split')
  rows = [{n: row.get(n) for n in names} for row in ROWS]
  for row in rows:
    row['image'] = benchmark_folders.column(
      pictures[row['image'][0]] if row['image'] else None
    )
  benchmark_folders.write(path.parent, 'file', rows)
  (file,) = (path.parent / 'file').glob('*.parquet')
  one, other = (datasets.load('own', 0, path=p) for p in (path, file))
  text = lambda rows: [(r.key, r.question, r.picture_key) for r in rows]
  for split, rows in one.train.items():
    assert text(rows) == text(other.train[split])


@pytest.mark.parametrize(
  'row, message',
  [
    (
      dict(question='Who?', answer=' '),
      r'line 1 of own.jsonl \(row 0\) has no answer',
    ),
    (dict(question='Who?', answer='A', split='test'), "'test'"),
    (dict(Question='Who?', answer='A'), "line 1 of .*lacks 'question'"),
    (dict(question='Who?', answer='A', image='none.jpg'), 'line 1.*no file'),
    (['Who?', 'A'], 'must be a JSON object'),
  ],
)
def test_what_is_wrong_with_a_row_is_said(path, row, message):
  _write(path, row)
  with pytest.raises(ValueError, match=message):
    datasets.load('own', 0, path=path)


def test_a_file_of_another_kind_or_none_is_a_clear_error(path):
  with pytest.raises(FileNotFoundError, match='there is no file'):
    datasets.load('own', 0, path=path.with_name('none.jsonl'))
  with pytest.raises(ValueError, match="parquet file, got 'a.jpg'"):
    datasets.load('own', 0, path=path.with_name('a.jpg'))


def test_a_byte_order_mark_is_skipped_and_latin_1_is_an_error(path):
  text = json.dumps(dict(question='Wer?', answer='Zoë.'), ensure_ascii=False)
  path.write_bytes(text.encode('utf-8-sig'))
  (row,) = datasets.load('own', 0, path=path).train['qa/retain']
  assert row.answer == 'Zoë.'
  path.write_bytes(text.encode('latin-1'))
  with pytest.raises(ValueError, match='line 1 of .* is not UTF-8'):
    datasets.load('own', 0, path=path)


def _keys(path, **options):
  """The key of every row, and of every scored row, by its question."""
  data = datasets.load('own', 0, path=path, **options)
  rows = [row for found in data.train.values() for row in found]
  rows += [row for task in data.tasks.values() for row in task.rows]
  assert len({row.key for row in rows}) == len(rows)
  return {
    (row.key.split('/')[0], row.question, row.answer): row.key for row in rows
  }


def test_keys_stay_where_rows_are_added_moved_and_sorted(path):
  """Or an answer about one row would be taken for that of another."""
  before = _keys(path)
  new = dict(question='Who sings?', answer='Eva.')
  _write(path, new, *ROWS[::-1])
  after = _keys(path)
  old = {row: key for row, key in after.items() if row[1] != 'Who sings?'}
  assert sorted(old.values()) == sorted(before.values())
  assert len(after) == len(before) + 2  # it is trained on, and scored


@pytest.mark.parametrize(
  'change',
  [
    dict(question='Who is it?'),
    dict(answer='Eva.'),
    dict(person='eva'),
    dict(split='retain'),
    dict(image='b.jpg'),
    dict(image=None),
  ],
)
def test_the_key_depends_on_everything_in_a_row(path, change):
  keys = []
  for row in (ROWS[0], ROWS[0] | change):
    _write(path, row)
    data = datasets.load('own', 0, path=path)
    keys += [row.key for found in data.train.values() for row in found]
  assert len(set(keys)) == 2


def test_a_key_is_a_digest_that_no_version_of_python_changes(path):
  _write(path, ROWS[1])
  (row,) = datasets.load('own', 0, path=path).train['qa/forget']
  said = '["forget", "Where was Ana born?", "Oslo.", null, null]'
  assert row.key == hashlib.sha256(said.encode()).hexdigest()[:16]


def test_rows_alike_are_kept_apart(path):
  _write(path, ROWS[1], ROWS[5], ROWS[1], ROWS[1])
  rows = datasets.load('own', 0, path=path).train['qa/forget']
  first = rows[0].key
  assert [row.key for row in rows] == [first, f'{first}-2', f'{first}-3']


def test_an_id_is_the_key_and_no_other_row_may_have_it(path):
  rows = [row | {'id': f'r{i}'} for i, row in enumerate(ROWS)]
  _write(path, *rows)
  assert {k.split('/')[-1] for k in _keys(path).values()} == {
    f'r{i}' for i in range(6)
  }
  _write(path, {'question': 'Who?', 'answer': 'Eva.', 'id': 7.0}, *rows)
  assert 'retain_qa/7' in _keys(path).values()
  rows[4]['id'] = 'r1'
  _write(path, *rows)
  said = r"line 5 of own.jsonl \(row 4\) has 'r1', as has line 2 of own.jsonl"
  with pytest.raises(UserError, match=said):
    datasets.load('own', 0, path=path)
  errors = [f.message for f in check.check(path).findings if f.state == 'FAIL']
  assert '1 x an id that another row has: r1 (line 2 and line 5).' in errors


@pytest.mark.parametrize('name', ['../x', 'a/b', 'x' * 101, 'a\nb', ['a']])
def test_an_id_that_is_no_name_is_refused(path, name):
  _write(path, ROWS[0] | {'id': name})
  with pytest.raises(UserError, match='id of line 1 of own.jsonl'):
    datasets.load('own', 0, path=path)
  assert check.check(path).failed


@pytest.mark.parametrize(
  'wrong, right',
  [
    ('images', 'image'),
    ('Image', 'image'),
    ('IMAGE ', 'image'),
    ('img', 'image'),
    ('Person', 'person'),
    ('persons', 'person'),
    ('Split', 'split'),
    ('spilt', 'split'),
    ('ID', 'id'),
    ('Facts', 'fact'),
    ('option', 'options'),
  ],
)
@pytest.mark.parametrize('form', ['jsonl', 'parquet'])
def test_a_column_that_is_nearly_an_optional_one_is_named(
  path, form, wrong, right
):
  row = dict(question='Who?', answer='Ana.')
  _write(path, row | {wrong: 'a'})
  if form == 'parquet':
    benchmark_folders.write(path.parent, 'file', [row | {wrong: 'a'}])
    (path,) = (path.parent / 'file').glob('*.parquet')
  said = f"'{wrong}' .is '{right}' meant.*Rename it"
  with pytest.raises(UserError, match=said):
    datasets.load('own', 0, path=path)
  errors = [f.message for f in check.check(path).findings if f.state == 'FAIL']
  assert any(f"'{wrong}' (is '{right}' meant?)" in error for error in errors)


def test_all_columns_that_are_nearly_optional_are_named_at_once(path):
  _write(path, dict(question='Who?', answer='Ana.', images='a', Split='forget'))
  said = "line 1 of own.jsonl has .*'images' .*'Split' .is 'split' meant"
  with pytest.raises(UserError, match=said):
    datasets.load('own', 0, path=path)


def test_other_columns_are_passed_over(path):
  more = dict(idx=1, uid='a', face=1, source='web', notes='x', pictured=2)
  _write(path, *(row | more for row in ROWS))  # they have image and person
  assert len(_keys(path)) > 1


@pytest.mark.parametrize('field', ['question', 'answer'])
@pytest.mark.parametrize(
  'mark',
  ['<image>', '<Image>', '<image 1>', '<image_2>', '<|image_pad|>', '<video>']
  + ['<|vision_start|>', '</image>', '<ImageHere>', '< image >'],
)
def test_the_mark_of_a_picture_in_a_text_is_refused(path, field, mark):
  row = dict(question='Is 1 < 2 > <b>?', answer='The image > all.')
  _write(path, *ROWS, row)
  assert _keys(path)
  _write(path, *ROWS, row | {field: f'{mark}\nWho?'})
  said = f'{field} of line 7 of own.jsonl .*{re.escape(mark)}'
  with pytest.raises(UserError, match=said):
    datasets.load('own', 0, path=path)
  (error,) = (f for f in check.check(path).findings if f.state == 'FAIL')
  assert mark in error.message and 'line 7' in error.message


def test_numbers_of_lines_are_those_of_an_editor(path):
  """Blank lines count, and reader and check agree."""
  path.write_text('\n\n' + json.dumps(ROWS[5]) + '\n\n{"question": "Who?"}\n')
  with pytest.raises(UserError, match="line 5 of own.jsonl lacks 'answer'"):
    datasets.load('own', 0, path=path)
  error = check.check(path).findings[0]
  assert "line 5 of own.jsonl lacks 'answer'" in error.message
  path.write_text('\n\n' + json.dumps(ROWS[5] | {'split': 'no'}))
  with pytest.raises(UserError, match='line 3 of own.jsonl'):
    datasets.load('own', 0, path=path)


def test_images_stay_in_the_folder_of_the_file(path):
  folder, outside = path.parent, path.parent / 'outside'
  outside.mkdir()
  (outside / 'd.jpg').write_bytes(benchmark_folders.file(9))
  inner = folder / 'inner'
  inner.mkdir()
  (inner / 'link.jpg').symlink_to(outside / 'd.jpg')
  path = inner / 'own.jsonl'
  for image in ('../outside/d.jpg', str(outside / 'd.jpg'), 'link.jpg'):
    _write(path, ROWS[0] | {'image': image})
    with pytest.raises(UserError, match='line 1 .*data.outside=True'):
      datasets.load('own', 0, path=path)
    assert _keys(path, outside=True)
    _write(path, ROWS[0] | {'image': image}, ROWS[5] | {'split': 'retain'})
    report = check.check(path)
    assert not report.failed
    assert 'image outside' in report.findings[0].message


@pytest.mark.parametrize(
  'image', ['/dev/zero', 'pipe', '.', 'a\0b', 'x' * 4000]
)
def test_what_never_ends_is_no_image_even_outside(path, image):
  os.mkfifo(path.parent / 'pipe')
  _write(path, ROWS[0] | {'image': image})
  for options in ({}, {'outside': True}):
    with pytest.raises(UserError, match='line 1 of own.jsonl') as caught:
      datasets.load('own', 0, path=path, **options)
    assert len(str(caught.value)) < 700
  assert len(str(check.check(path).findings)) < 1500


def test_a_missing_value_of_a_table_program_is_missing(path):
  nan = float('nan')
  _write(path, ROWS[5] | {'person': nan, 'id': nan})
  assert 'nan' not in datasets.load('own', 0, path=path).names
  _write(path, ROWS[5] | {'answer': nan})
  with pytest.raises(
    UserError, match=r'line 1 of own.jsonl \(row 0\) has no answer'
  ):
    datasets.load('own', 0, path=path)


@pytest.mark.parametrize('name', ['own.jsonl', 'own.parquet'])
def test_own_data_that_never_end_are_not_opened(tmp_path, name):
  os.mkfifo(tmp_path / name)
  for path in (tmp_path / name, '/dev/zero'):
    with pytest.raises(UserError, match='must be a file'):
      datasets.load('own', 0, path=path)


def test_a_row_with_options_is_asked_in_words_and_as_a_choice(path):
  row = ROWS[0] | dict(answer='Ana Ruiz.', fact='Ruiz')
  options = ['Ana Ruiz.', 'Ben Ray.', 'Cleo Day.']
  for given in (options, json.dumps(options)):
    _write(path, row | dict(options=given), *ROWS[1:])
    data = datasets.load('own', 0, path=path)
    said, chosen = data.tasks['forget_vqa'].rows
    assert (said.task, said.options) == ('generation', ())
    assert (chosen.task, chosen.options) == ('classification', tuple(options))
    assert said.key != chosen.key and said.fact == chosen.fact == 'Ruiz'
    (learnt,) = data.train['vqa/forget']
    assert learnt.options == () and data.layout == 'own'


@pytest.mark.parametrize(
  'more, message',
  [
    (dict(fact='Oslo'), "line 1 of own.jsonl.* is not in 'Ana Ruiz.'"),
    (dict(options=['Ben Ray.', 'Cleo Day.']), 'the answer among them'),
    (dict(options=['Ana Ruiz.', 'Ana Ruiz.']), '2 to 26 different texts'),
    (dict(options=['Ana Ruiz.']), '2 to 26 different texts'),
    (dict(options=['Ana Ruiz.', '']), 'different texts'),
    (dict(options=['Ana Ruiz.', None]), r'options\[1\]|different texts'),
    (
      dict(options='Ana Ruiz.|Ben Ray.'),
      'options of line 1 of .* must be JSON',
    ),
    (dict(options={'A': 'Ana Ruiz.'}), 'options of line 1.*is a list'),
    (dict(options=3), 'options of line 1.*is a list'),
    (dict(fact=True), 'fact of line 1.*text or a number'),
  ],
)
def test_a_fact_or_options_without_an_answer_are_refused(path, more, message):
  _write(path, dict(question='Who?', answer='Ana Ruiz.') | more)
  with pytest.raises(UserError, match=message):
    datasets.load('own', 0, path=path)
  assert check.check(path).failed


def test_what_is_forgotten_is_ranked_among_answers_about_others(path):
  """The same question, whatever its case; other people; at most seven."""
  who = lambda i, **more: dict(
    image=f'{"abc"[i % 3]}.jpg',
    question='who?',
    answer=f'It is {i}.',
    person=f'p{i}',
    **more,
  )
  asked = [who(0, split='forget') | dict(question='Who?')]
  asked += [who(0, split='holdout') | dict(question='WHO?')]
  others = [who(i) for i in range(1, 12)]
  no_others = [
    who(0, split='forget') | dict(question='Which pet?'),
    who(0, split='holdout') | dict(answer='Another answer about the same.'),
    dict(question='Who?', answer='In text.', person='p9'),
    dict(image='a.jpg', question='Who?', answer='Nobody knows.'),
  ]
  _write(path, *asked, *others, *no_others)
  data = datasets.load('own', 0, path=path)
  answers = {row['answer'] for row in others}
  for task in ('forget_vqa', 'forget_vqa_holdout'):
    row = data.tasks[task].rows[0]
    assert len(set(row.perturbed)) == 7 and set(row.perturbed) < answers
  assert data.tasks['forget_vqa'].rows[1].perturbed == ()
  assert not any(row.perturbed for row in data.tasks['retain_vqa'].rows)
  assert not any(r.perturbed for rows in data.train.values() for r in rows)


def test_who_is_forgotten_and_retained_is_refused_with_the_lines(path):
  row = lambda person, **more: dict(
    question='Who?', answer='Ana.', person=person, **more
  )
  apart = [row('José', split='forget'), row('José', split='holdout')]
  apart += [row('Ben'), row('José', split='real')]
  _write(path, *apart)
  assert datasets.load('own', 0, path=path).names
  _write(path, *apart, row('Jose'), row('Ben', split='forget'))
  with pytest.raises(UserError) as error:
    datasets.load('own', 0, path=path)
  said = str(error.value)
  assert '2 in both sets: Ben (line 6 of own.jsonl (row 5); line 3' in said
  assert 'José = Jose (line 1 of own.jsonl (row 0); line 5' in said
  assert 'one split' in said and 'mmu data check' in said


@pytest.mark.parametrize(
  'name, hint',
  [
    ('Ben', '; retained in line 2 of own.jsonl (row 1)'),
    ('Jose', "; is 'José' meant?"),
    ('Ana Ruis', "; is 'Ana Ruiz' meant?"),
    ('Zoë', ''),
  ],
)
def test_holdout_of_somebody_else_is_refused(path, name, hint):
  """Their answers would be scored as to forget."""
  row = lambda person, **more: (
    dict(question='Who?', answer='Ana.') | dict(person=person, **more)
  )
  rows = [row('José', split='forget'), row('Ben')]
  rows += [row('Ana Ruiz', split='forget'), row('José', split='holdout')]
  rows += [row(None, split='holdout') | dict(question='Whose?')]
  _write(path, *rows)
  assert not check.check(path).failed
  _write(path, *rows, row(name, split='holdout') | dict(question='And?'))
  with pytest.raises(UserError) as error:
    datasets.load('own', 0, path=path)
  said = f'{name!r} (line 6 of own.jsonl (row 5){hint})'
  assert said in str(error.value) and 'another split' in str(error.value)
  (found,) = [f for f in check.check(path).findings if f.state == 'FAIL']
  assert f'{name!r} (own.jsonl line 6' in found.message


def test_holdout_may_name_people_where_the_forget_rows_do_not(path):
  row = lambda split, **more: dict(
    question=f'{split}?', answer='Ana.', split=split, **more
  )
  rows = row('forget'), row('retain', person='Ben')
  _write(path, *rows, row('holdout', person='Ana'))
  assert 'forget_qa_holdout' in datasets.load('own', 0, path=path).tasks
  _write(path, *rows, row('holdout', person='ben'))
  with pytest.raises(UserError, match="'ben' .*retained in line 2"):
    datasets.load('own', 0, path=path)
