"""Files are whole or absent, and every change of a line is seen."""

import errno
import json
import math
import os
import pathlib
import re
import subprocess
import sys
import warnings

import paths
import pytest
import syncing

from mmu_jax import errors
from mmu_jax import workdir

SETTINGS = {'seed': 3, 'data': {'name': 'people', 'views': (1, 2)}}


UNDEFINED = {'a': math.nan, 'b': [math.inf, (-math.inf, 1.5)], 'c': {'d': 'x'}}
READ = {'a': None, 'b': ['inf', ['-inf', 1.5]], 'c': {'d': 'x'}}


def _strict(path):
  """The JSON values of a file's lines, read as other programs read them."""

  def refuse(word):
    raise AssertionError(f'{path}: {word} is not JSON')

  text = path.read_text()
  lines = text.splitlines() if path.suffix == '.jsonl' else [text]
  return [json.loads(line, parse_constant=refuse) for line in lines]


@pytest.mark.parametrize('kind', ['json', 'jsonl', 'appended', 'claim'])
def test_no_file_holds_bare_nan_or_infinity(kind, tmp_path):
  path = tmp_path / ('f.json' if kind in ('json', 'claim') else 'f.jsonl')
  if kind == 'json':
    workdir.write_json(path, UNDEFINED)
  elif kind == 'claim':
    workdir.claim(tmp_path, UNDEFINED, path.name)
    workdir.claim(tmp_path, UNDEFINED, path.name)  # the same settings
  elif kind == 'jsonl':
    workdir.write_jsonl(path, [UNDEFINED])
  else:
    workdir.append_jsonl(path, [UNDEFINED])
  (row,) = _strict(path)
  row.pop('crc', None)  # of a line that was appended
  assert row == READ
  read = workdir.read_log if kind == 'appended' else workdir.read_jsonl
  found = workdir.read_json(path) if path.suffix == '.json' else None
  assert (found or read(path)[0]) == READ


def test_bare_nan_and_infinity_of_earlier_versions_are_read_the_same(tmp_path):
  path = tmp_path / 'old.jsonl'
  path.write_text(json.dumps(UNDEFINED) + '\n')
  assert 'NaN' in path.read_text()
  assert workdir.read_jsonl(path) == [READ]
  assert workdir.read_json(path) == READ


def test_a_write_that_was_killed_leaves_the_old_file(tmp_path):
  path = tmp_path / 'x' / 'rows.jsonl'
  workdir.write_jsonl(path, [{'n': 1}, {'n': 2}])
  path.with_name('rows.jsonl.part').write_text('{"n": 7')  # half a line
  assert workdir.read_jsonl(path) == [{'n': 1}, {'n': 2}]
  workdir.write_jsonl(path, [{'n': 3}])
  assert workdir.read_jsonl(path) == [{'n': 3}]
  assert [p.name for p in path.parent.iterdir()] == ['rows.jsonl']


def test_a_last_line_that_is_cut_off_is_left_out_with_a_warning(tmp_path):
  path = tmp_path / 'rows.jsonl'
  path.write_text('{"n": 1}\n\n{"n": 2}\n{"n": ')
  with pytest.warns(UserWarning, match='line 4 is cut off'):
    assert workdir.read_jsonl(path) == [{'n': 1}, {'n': 2}]


@pytest.mark.parametrize('line', ['{"n": ', '[1]', '7'])
def test_a_broken_line_in_the_middle_is_a_clear_error(tmp_path, line):
  path = tmp_path / 'rows.jsonl'
  path.write_text(f'{{"n": 1}}\n{line}\n{{"n": 2}}\n')
  with pytest.raises(ValueError, match='rows.jsonl, line 2') as error:
    workdir.read_jsonl(path)
  assert 'write' in str(error.value)  # the next step


def test_a_value_that_is_not_json_leaves_the_old_file(tmp_path):
  path = tmp_path / 'note.json'
  workdir.write_json(path, {'n': 1})
  with pytest.raises(TypeError):
    workdir.write_json(path, {'n': object()})
  assert json.loads(path.read_text()) == {'n': 1}


@pytest.mark.parametrize('name', ['rows.jsonl', 'new/rows.jsonl'])
def test_a_file_that_cannot_be_written_names_path_and_next_step(
  tmp_path, monkeypatch, name
):
  path = tmp_path / name

  def refused(*_, **__):
    raise PermissionError(13, 'Permission denied')

  monkeypatch.setattr(pathlib.Path, 'open', refused)
  with pytest.raises(errors.DiskError, match='Permission denied') as error:
    workdir.write_jsonl(path, [{'n': 1}])
  assert str(path) in str(error.value)
  assert 'writable' in str(error.value)
  assert not path.exists()


def test_rows_that_do_not_fit_on_the_disk_are_a_clear_error(tmp_path):
  """In a process whose files may have 4,000 bytes."""
  program = (
    'import pathlib, resource, signal, sys\n'
    'from mmu_jax import workdir\n'
    'signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n'
    'resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))\n'
    'path = pathlib.Path(sys.argv[1])\n'
    'for i in range(1000):\n'
    '  workdir.append_jsonl(path, [{"round": i}])\n'
  )
  path = tmp_path / 'rows.jsonl'
  done = subprocess.run(
    [sys.executable, '-c', program, str(path)],
    capture_output=True,
    text=True,
    check=False,
  )
  assert f'{path} cannot be written (File too large)' in done.stderr
  assert 'Free space' in done.stderr
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # of the line that is cut off
    rows = workdir.read_log(path)
  assert [row['round'] for row in rows] == [*range(len(rows))]
  assert len(rows) > 100


def test_what_is_not_json_is_an_error_that_names_the_file(tmp_path):
  path = tmp_path / 'note.json'
  for content in (b'{"a": 1', b'\xff\xfe', b'', b'[' * 100_000):
    path.write_bytes(content)
    with pytest.raises(errors.UserError, match='note.json is not JSON'):
      workdir.read_json(path)


def test_a_pipe_is_no_json(tmp_path):
  os.mkfifo(tmp_path / 'note.json')
  with pytest.raises(errors.UserError, match='note.json must be a file'):
    workdir.read_json(tmp_path / 'note.json')
  with pytest.raises(FileNotFoundError, match='there is no file .*none.json'):
    workdir.read_json(tmp_path / 'none.json')


def test_text_is_written_as_utf_8_whatever_the_machine_speaks(tmp_path):
  workdir.write_text(tmp_path / 'new' / 'a.txt', 'Ökonom')
  assert (tmp_path / 'new' / 'a.txt').read_bytes() == 'Ökonom'.encode()
  assert [p.name for p in (tmp_path / 'new').iterdir()] == ['a.txt']


# Modules that write files themselves, or give them their names, and why.
WRITERS = {
  '__main__.py': '/dev/null, where the reader of a pipe has gone',
  'workdir/files.py': 'the one writer',
  'distributed/locks.py': 'a lock is made where there is none, never replaced',
  'distributed/processes.py': '/dev/null',
  'checkpoint/steps.py': 'steps that go',
  'doctor/files.py': 'files that it deletes again',
  'evaluation/asking/answers.py': 'damaged files that go',
  'models/hub/safetensors_files.py': 'weights, one tensor in memory at a time',
  'models/hub/saving.py': 'a folder of them, renamed when it is on disk',
}
WRITING = re.compile(
  r'\.write_(text|bytes)\(|json\.dump\(|json\.load\(|\bos\.open\('
  r"|open\([^)]*'[rwax]b?\+?b?'(?<!'r')(?<!'rb')|shutil\.(copy|move)"
  r'|os\.(rename|replace|link)\(|\.rename\(|\w\.replace\(\w+\)'
)


def test_files_are_written_in_few_places():
  users = {
    path.relative_to(paths.ROOT / 'mmu_jax').as_posix()
    for path in (paths.ROOT / 'mmu_jax').rglob('*.py')
    if WRITING.search(_code(path))
  }
  assert users == set(WRITERS)


def _code(path):
  """The text of a module, without calls of our own writer."""
  own = r'(workdir(_lib)?|files)\.write_(text|bytes)\('
  return re.sub(own, '', path.read_text())


ROW = {'round': 3, 'loss': 0.1 + 0.2, 'probe': {'a': (1, None)}, 'x': '\u2028'}


@pytest.mark.parametrize(
  'edit, said',
  [
    (lambda row: row | {'round': 6}, 'its checksum is of another row'),
    (lambda row: {'round': 4, 'loss': 9}, 'its checksum is missing'),
    (lambda row: row | {'crc': None}, 'its checksum is missing'),
    (lambda row: row | {'new': 1}, 'its checksum is of another row'),
  ],
)
@pytest.mark.parametrize('place', range(3))
def test_a_line_of_a_log_that_was_changed_is_refused(
  tmp_path, place, edit, said
):
  path = tmp_path / 'metrics.jsonl'
  workdir.write_log(path, [ROW])
  workdir.append_jsonl(path, [ROW | {'round': 4}, ROW | {'round': 5}])
  read = workdir.read_log(path)
  assert [row['round'] for row in read] == [3, 4, 5]
  assert read[0] == json.loads(json.dumps(ROW))  # without the checksum
  lines = path.read_text().splitlines(True)
  lines[place] = json.dumps(edit(json.loads(lines[place]))) + '\n'
  path.write_text(''.join(lines))
  message = f'metrics.jsonl, row {place + 1} is not as it was written: {said}'
  with pytest.raises(errors.UserError, match=message):
    workdir.read_log(path)


def test_a_file_is_on_disk_before_it_has_its_name(tmp_path, monkeypatch):
  """Rename without fsync leaves an empty file after a power cut."""
  events = syncing.record(monkeypatch)
  path = tmp_path / 'new' / 'run' / 'note.json'
  workdir.write_text(path, '{}')
  done = [event.path.name for event in syncing.before(events, path)]
  assert done == [tmp_path.name, 'new', 'note.json.part']
  assert syncing.is_lasting(events, path)
  for made in (path.parent, path.parent.parent):
    assert any(made.name in event.held for event in events), made


@pytest.mark.parametrize('code', [errno.EINVAL, errno.ENOTSUP, errno.EACCES])
def test_a_folder_that_cannot_be_synced_can_be_written(
  tmp_path, monkeypatch, code
):
  """Network file systems, and folders that everybody may write and not read."""
  right = os.open

  def refused(path, *options, **more):
    if os.path.isdir(path):
      raise OSError(code, os.strerror(code))
    return right(path, *options, **more)

  monkeypatch.setattr(os, 'open', refused)
  workdir.write_json(tmp_path / 'new' / 'a.json', {'n': 1})
  monkeypatch.undo()
  assert workdir.read_json(tmp_path / 'new' / 'a.json') == {'n': 1}
