"""Own data: one file of pictures, questions and answers."""

import json

import benchmark_folders
import numpy as np
import pytest

from mmu_jax.data import datasets

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
    (dict(question='Who?', answer=' '), 'row 0 of own.jsonl has no answer'),
    (dict(question='Who?', answer='A', split='test'), "'test'"),
    (dict(Question='Who?', answer='A'), "line 1 of .*lacks 'question'"),
    (dict(question='Who?', answer='A', image='none.jpg'), 'row 0.*not'),
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
