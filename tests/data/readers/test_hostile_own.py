"""Files of own data that are spoiled: the error names the file."""

import functools
import io
import json
import os

import benchmark_folders
import fuzzing
from fuzzing import Case
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import spoiled_data

JSONL, PARQUET = 'own.jsonl', 'own.parquet'
ROWS = [
  dict(image='a.jpg', question='Who?', answer='Ana.', person='ana'),
  dict(image='b.png', question='Who?', answer='Bruno.', person='bruno'),
  dict(question='Where was Ana born?', answer='Oslo.', person='ana', id='x'),
  dict(question='Capital of Peru?', answer='Lima.', split='real', id=7),
]
ROWS[0]['split'] = ROWS[2]['split'] = 'forget'


def _make(folder):
  folder.mkdir()
  for i, (name, kind) in enumerate((('a.jpg', 'JPEG'), ('b.png', 'PNG'))):
    (folder / name).write_bytes(benchmark_folders.file(i, kind))
  (folder / JSONL).write_bytes(_lines(ROWS))
  _parquet(folder, ROWS)


def _lines(rows):
  return b''.join(json.dumps(row).encode() + b'\n' for row in rows)


def _parquet(folder, rows):
  names = ('image', 'question', 'answer', 'person', 'split', 'id')
  columns = {name: [row.get(name) for row in rows] for name in names}
  columns['id'] = [None if x is None else str(x) for x in columns['id']]
  pq.write_table(pa.table(columns), folder / PARQUET)


# Rows in the place of the second: name -> (value of a field, invalid).
_VALUES = {
  'null': None,
  'a number': 3,
  'a large number': 10**400,
  'infinite': float('inf'),
  'nan': float('nan'),
  'true': True,
  'false': False,
  'zero': 0,
  'a list': ['x'],
  'an empty list': [],
  'nested': {'a': {'b': [1]}},
  'an empty object': {},
  'empty': '',
  'blank': ' \t\n',
  'half a sign': '\ud83d',
  'the image token': 'a <image> b',
  'a null sign': 'a\0b',
}
_VALID = {
  'question': ('a number', 'a large number', 'zero', 'a null sign'),
  'answer': ('a number', 'a large number', 'zero', 'a null sign'),
  'person': 'null,a number,zero,nan,empty,blank,a null sign'.split(',')
  + ['a large number', 'the image token'],
  'split': ('null', 'empty'),  # retain, as they say
  'id': ('null', 'nan', 'a number', 'zero', 'empty', 'blank')
  + ('the image token',),
  'image': ('null', 'empty'),
}
_PATHS = {
  'is not there': 'c.jpg',
  'of the folder': '.',
  'of the folder above': '..',
  'outside': '../outside.jpg',
  'absolute': '/etc/hostname',
  'of a device': '/dev/zero',
  'with a null sign': 'a\0.jpg',
  'long': 'a' * 5000,
  'deep': 'a/' * 3000 + 'b.jpg',
  'blank': '  ',
  'with a line break': 'a.jpg\n',
  'below a file': 'a.jpg/b.jpg',
  'of a user': '~/a.jpg',
  'of the web': 'https://example.org/a.jpg',
  'of a file address': 'file:///etc/passwd',
  'of another system': 'C:\\a.jpg',
  'half a sign': '\ud83d.jpg',
}
_LINES = {
  'empty': b'',
  'blank': b'\n \t\n\r\n',
  'no JSON': b'question,answer\nWho?,Ana.\n',
  'a list': json.dumps(ROWS).encode(),
  'cut off': _lines(ROWS)[:-9],
  'UTF-16': _lines(ROWS).decode().encode('utf-16'),
  'UTF-16 without a mark': _lines(ROWS).decode().encode('utf-16-le'),
  'Latin-1': '{"question": "Zoë?", "answer": "é"}'.encode('latin-1'),
  'zeros': bytes(4096),
  'a parquet file': None,  # filled below
}
_LINE = {
  'null': b'null',
  'a number': b'3',
  'a text': b'"text"',
  'a list': b'[1]',
  'garbage': b'\xff\x00\x80garbage',
  'zeros': bytes(20),
  'deep': b'[' * 100_000,
  'deep in a field': b'{"question": ' + b'[' * 100_000,
  'two objects': b'{"question": "a", "answer": "b"} {"question": "c"}',
  'no question': b'{"answer": "b"}',
  'another name': b'{"Question": "a", "answer": "b"}',
  'a name twice': b'{"question": "a", "answer": "b", "answer": "c"}',
  'an open text': b'{"question": "a", "answer": "b',
  'more digits than are read': b'{"question": "a", "answer": %s}'
  % (b'1' * 5000),
  'a large exponent': b'{"question": "a", "answer": 1e999}',
}


def _picture(kind='PNG', size=(4, 4), mode='RGB', **options):
  out = io.BytesIO()
  PIL.Image.new(mode, size, 1).save(out, kind, **options)
  return out.getvalue()


_FILES = {
  'empty': b'',
  'garbage': b'garbage' * 99,
  'zeros': bytes(999),
  'cut': benchmark_folders.file(0)[:700],
  'cut in the head': benchmark_folders.file(0)[:20],
  'EPS': _picture('EPS'),
  'a page': b'<html>404</html>',
  'SVG': b'<svg xmlns="http://www.w3.org/2000/svg"/>',
  'long and thin': _picture(size=(100_000, 1)),
  'of 32 bits': _picture('TIFF', mode='F'),
  'PDF': _picture('PDF'),
  'a pointer': b'version https://git-lfs.github.com/spec/v1\noid sha256:1\n',
}


def _replace(folder, name, make):
  (folder / name).unlink()
  make(folder / name)


def _fields():
  """(name, field, value, whether it is invalid) of a row."""
  for field, valid in _VALID.items():
    for name, value in _VALUES.items():
      if field != 'image' or not isinstance(value, str) or not value:
        yield f'{field} is {name}', field, value, name not in valid
  for name, path in _PATHS.items():
    yield f'a path {name}', 'image', path, True
  yield 'image is bytes of nothing', 'image', {'bytes': None, 'path': 3}, True
  yield 'image is text as bytes', 'image', {'bytes': 'a.jpg'}, True
  yield 'image is an empty file', 'image', {'bytes': '', 'path': ''}, True
  yield 'the id of another row', 'id', 'x', True
  for split in ('forgot', 'FORGET', 'train', '../x'):
    yield f'split {split}', 'split', split, True


def _pictures(file):
  for name, made in _FILES.items():
    yield Case(
      f'a picture is {name}',
      file,
      lambda f, m=made: (f / 'a.jpg').write_bytes(m),
    )
  for name, make in {
    'a pipe': os.mkfifo,
    'a folder': os.mkdir,
    'a loop': lambda path: path.symlink_to(path.name),
    'a link out': lambda path: path.symlink_to('/etc/hostname'),
  }.items():
    yield Case(
      f'a picture is {name}', file, lambda f, m=make: _replace(f, 'a.jpg', m)
    )


def _jsonl_cases():
  _LINES['a parquet file'] = b'PAR1' + bytes(99) + b'PAR1'
  for name, made in _LINES.items():
    yield Case(f'the file is {name}', JSONL, fuzzing.replaced(JSONL, made))
  mark = b'\xef\xbb\xbf' + _lines(ROWS)
  yield Case('a mark', JSONL, fuzzing.replaced(JSONL, mark), False)
  for name, line in _LINE.items():
    made = _lines(ROWS[:1]) + line + b'\n' + _lines(ROWS[2:])
    yield Case(f'a line is {name}', JSONL, fuzzing.replaced(JSONL, made))
  for name, field, value, invalid in _fields():
    rows = [ROWS[0], ROWS[1] | {field: value}, *ROWS[2:]]
    write = lambda f, rows=rows: (f / JSONL).write_bytes(_lines(rows))
    token = isinstance(value, str) and '<image>' in value
    # The processor knows the text, not the file.
    yield Case(name, value if token else JSONL, write, invalid)
  yield from _pictures(JSONL)
  yield from _places(JSONL)


def _places(file):
  for name, make in {
    'a pipe': os.mkfifo,
    'a folder': os.mkdir,
    'a loop': lambda path: path.symlink_to(path.name),
    'missing': lambda path: None,
  }.items():
    yield Case(
      f'the file is {name}', file, lambda f, m=make: _replace(f, file, m)
    )


_TYPES = {
  'numbers': pa.array([1, 2, 3, 4]),
  'nulls': pa.array([None] * 4),
  'dates': pa.array([0, 1, 2, 3], pa.date32()),
  'decimals': pa.array([1, 2, 3, 4]).cast(pa.decimal128(30, 2)),
  'bytes': pa.array([b'\xff\x00'] * 4),
  'lists': pa.array([['a']] * 4),
  'objects': pa.array([{'a': 1}] * 4),
  'flags': pa.array([True] * 4),
  'nan': pa.array([float('nan')] * 4),
  'infinite': pa.array([float('inf')] * 4),
  'durations': pa.array([0, 1, 2, 3], pa.duration('ns')),
  'a dictionary': pa.array(list('abca')).dictionary_encode(),
  'a map': pa.array([[('a', 1)]] * 4, pa.map_(pa.string(), pa.int64())),
  'times out of range': pa.array([2**62] * 4, pa.timestamp('us')),
}
_FITS = {  # types that a column may have
  'question': ('numbers', 'a dictionary'),
  'answer': ('numbers', 'a dictionary'),
  'person': ('numbers', 'nulls', 'nan', 'a dictionary'),
  'split': ('nulls',),
  'id': ('numbers', 'nulls', 'nan'),
  'image': ('nulls',),
}


def _retype(folder, name, array):
  table = pq.read_table(folder / PARQUET)
  at = table.column_names.index(name)
  pq.write_table(table.set_column(at, name, array), folder / PARQUET)


def _change(change):
  def mutate(folder):
    path = folder / PARQUET
    pq.write_table(change(pq.read_table(path)), path)

  return mutate


def _twice(table):
  return table.append_column('answer', table['question'])


def _not_text(table):
  bad = pa.array([b'\xff\xfe'] * 4).view(pa.string())
  return table.set_column(1, 'question', bad)


def _parquet_cases():
  for field, fits in _FITS.items():
    for name, array in _TYPES.items():
      spoil = functools.partial(_retype, name=field, array=array)
      yield Case(f'{field} is {name}', PARQUET, spoil, name not in fits)
    drop = lambda t, field=field: t.drop_columns([field])
    needed = field in ('question', 'answer')
    yield Case(f'no {field}', PARQUET, _change(drop), needed)
  yield Case('answer twice', PARQUET, _change(_twice))
  yield Case('no UTF-8', PARQUET, _change(_not_text))
  yield Case('no rows', PARQUET, _change(lambda t: t.slice(0, 0)))
  yield Case('no columns', PARQUET, _change(lambda t: t.select([])))
  for i, share in enumerate((0, 0.02, 0.3, 0.9, 0.999)):
    cut = lambda f, s=share: _cut(f / PARQUET, s)
    yield Case(f'cut {i}', PARQUET, cut)
  for i in range(40):
    flip = lambda f, i=i: _flip(f / PARQUET, i)
    yield Case(f'a byte flipped, {i}', PARQUET, flip, False)
  yield Case('JSON', PARQUET, fuzzing.replaced(PARQUET, _lines(ROWS)))
  yield from _pictures(PARQUET)
  yield from _places(PARQUET)


def _cut(path, share):
  data = path.read_bytes()
  path.write_bytes(data[: int(len(data) * share)])


def _flip(path, seed):
  data = bytearray(path.read_bytes())
  place = (seed * 7919 + 13) % len(data)
  data[place] ^= 1 << seed % 8
  path.write_bytes(data)


_MODEL = lambda case: 'the image token' in case.name or 'thin' in case.name
CASES = {JSONL: _jsonl_cases, PARQUET: _parquet_cases}


@pytest.mark.parametrize('file', CASES)
@pytest.mark.parametrize('reads', ['a job', 'a check'])
def test_a_spoiled_file_is_an_error_that_names_it(file, reads, tmp_path):
  cases = fuzzing.chosen(list(CASES[file]()), 80)
  if reads == 'a check':  # which knows no model
    cases = [c._replace(invalid=c.invalid and not _MODEL(c)) for c in cases]
  run = {
    'a job': lambda f: spoiled_data.meaning('own', f / file),
    'a check': lambda f: spoiled_data.checked('own', f / file, f / file),
  }[reads]
  outcomes = fuzzing.attack(cases, _make, run, tmp_path)
  fuzzing.check(outcomes, most_unclear=0.02)
