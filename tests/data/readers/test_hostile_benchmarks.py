"""Folders of benchmarks that are spoiled: the error names the config."""

import functools
import json
import os

import benchmark_folders
import fuzzing
from fuzzing import Case
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import spoiled_data

SIZES = {
  'mllmu_bench': dict(people=7, ratio=15, celebrities=1, holdout_images=1),
  'clear': dict(people=10, ratio=10, images=1, texts=1, real_rows=2),
}
OPTIONS = {
  'mllmu_bench': dict(ratio=15, text='training'),
  'clear': dict(ratio=10),
}


def _make(folder, name):
  getattr(benchmark_folders, name)(folder, **SIZES[name])


# A value of another form in the place of one in a row.
_VALUES = {
  'null': None,
  'a number': 3,
  'infinite': float('inf'),
  'nan': float('nan'),
  'a flag': True,
  'a text': 'text',
  'empty': '',
  'blank': ' ',
  'a list': [1],
  'a list of texts': ['a', 'b'],
  'an empty list': [],
  'an object': {'a': 1},
  'a list of objects': [{'a': 1}],
  'JSON of a number': '3',
  'JSON of null': 'null',
  'JSON of a list': '[1]',
  'JSON cut off': '{"a": ',
  'JSON of a field twice': '[{"Question": "a", "Question": "b"}]',
  'deep JSON': '[' * 100_000,
  'bytes': b'\xff\x00',
}


def _files(folder):
  return sorted(folder.rglob('*.parquet'))


def _config(path):
  return path.parent.name


def _retype(folder, relative, column, value):
  """Gives a column one value in every row, of whatever type it is."""
  path = folder / relative
  table = pq.read_table(path)
  made = pa.array([value] * len(table))
  at = table.column_names.index(column)
  pq.write_table(table.set_column(at, column, made), path)


def _change(folder, relative, change):
  path = folder / relative
  pq.write_table(change(pq.read_table(path)), path)


def _within(folder, relative, seed, value):
  """Gives a random field within the rows a value, in every row alike."""
  path = folder / relative
  rows = pq.read_table(path).to_pylist()
  rng = np.random.default_rng(seed)
  places = [p for p in fuzzing.places_of(rows[0]) if len(p) > 1]
  place = places[rng.integers(len(places))]
  for row in rows:
    try:
      fuzzing.put(row, place, value)
    except (LookupError, TypeError):  # another row is shorter
      continue
  try:
    pq.write_table(pa.Table.from_pylist(rows), path)
  except pa.ArrowException:  # a column has one type
    _retype(folder, relative, place[0], value)


# Columns that each benchmark is made of; others may be anything.
_TASKS = {'Classification_Task', 'Generation_Task', 'Mask_Task', 'metadata'}
_LISTS = {'options', 'perturbed_captions', 'perturbed_names'}
_NEEDED = {'image', 'images', 'ID', *_TASKS, *_LISTS}
_NEEDED |= {'caption', 'name', 'paraphrased_caption'}
_BAD = {'null', 'infinite', 'nan', 'a flag', 'empty', 'blank', 'a list'}
_BAD |= {'a list of objects', 'an object', 'bytes'}


def _is_bad(column, name):
  """Whether a value of a column can have no meaning."""
  if column in ('answer', 'question', 'biography', 'Directory'):
    return False
  text = name in _BAD or (name == 'a list of texts' and column not in _LISTS)
  return column in _NEEDED and (text or (column in _TASKS and 'JSON' in name))


def _cases(folder):
  for path in _files(folder):
    config, relative = _config(path), path.relative_to(folder)
    table = pq.read_table(path)
    for column in table.column_names:
      drop = lambda t, c=column: t.drop_columns([c])
      twice = lambda t, c=column: t.append_column(c, t[c])
      for name, change in (('missing', drop), ('twice', twice)):
        mutate = functools.partial(_change, relative=relative, change=change)
        bad = column in _NEEDED
        yield Case(f'{config}: {column} {name}', config, mutate, bad)
      for name, value in _VALUES.items():
        mutate = functools.partial(
          _retype, relative=relative, column=column, value=value
        )
        bad = _is_bad(column, name)
        yield Case(f'{config}: {column} is {name}', config, mutate, bad)
    spoil = functools.partial(_change, relative=relative)
    for name, change in {
      'no rows': lambda t: t.slice(0, 0),
      'no columns': lambda t: t.select([]),
    }.items():
      yield Case(
        f'{config}: {name}', config, functools.partial(spoil, change=change)
      )
    for share in (0, 0.01, 0.5, 0.99):
      cut = lambda f, r=relative, s=share: _cut(f / r, s)
      yield Case(f'{config}: cut at {share}', config, cut)
    for name, make in {
      'a pipe': os.mkfifo,
      'a folder': os.mkdir,
      'missing': lambda path: None,
      'JSON': lambda path: path.write_text(json.dumps([1])),
      'a pointer': lambda path: path.write_text(
        'version https://git-lfs.github.com/spec/v1'
      ),
    }.items():
      mutate = lambda f, r=relative, m=make: _replace(f / r, m)
      yield Case(f'{config}: {name}', config, mutate, None)
    for seed, value in enumerate((None, 3, 'x', '', [], {'a': 1}, True) * 4):
      mutate = functools.partial(
        _within, relative=relative, seed=seed, value=value
      )
      yield Case(f'{config}: field {seed} = {value!r}', config, mutate, None)


def _cut(path, share):
  data = path.read_bytes()
  path.write_bytes(data[: int(len(data) * share)])


def _replace(path, make):
  path.unlink()
  make(path)


NUMBER = 40


@pytest.mark.parametrize('name', SIZES)
@pytest.mark.parametrize('reads', ['a job', 'a check'])
def test_a_spoiled_folder_is_an_error_that_names_the_config(
  name, reads, tmp_path
):
  _make(tmp_path / 'first', name)
  options = OPTIONS[name]
  run = {
    'a job': lambda f: spoiled_data.meaning(name, f, **options),
    'a check': lambda f: spoiled_data.checked(name, f, f, **options),
  }[reads]
  cases = fuzzing.chosen(list(_cases(tmp_path / 'first')), NUMBER)
  make = functools.partial(_make, name=name)
  outcomes = fuzzing.attack(cases, make, run, tmp_path)
  fuzzing.check(outcomes, most_unclear=0.02)
