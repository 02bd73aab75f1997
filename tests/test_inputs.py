"""Names from outside stay names, and files to read have an end."""

import os
import pathlib
import socket

import numpy as np
import pytest

from mmu_jax import __main__ as command_line
from mmu_jax import inputs

BAD = (
  '',
  ' ',
  '.',
  '..',
  '../x',
  '../../x',
  '/abs/x',
  'a/b',
  'a\\b',
  'C:x',
  '.hidden',
  'dot.',
  ' space',
  'tab\t',
  'line\n',
  'null\0',
  'bell\x07',
  'turned\u202e',
  'half\ud800',
  'a*',
  'a?',
  '<a>',
  'a|b',
  'con',
  'NUL.txt',
  'com1',
  'x' * 101,
  'ж' * 51,
  'vqa.partial',
  'vqa.judged',
  None,
  3,
  ['a'],
)


@pytest.mark.parametrize('name', BAD, ids=repr)
def test_a_name_that_is_no_file_is_refused(name):
  with pytest.raises(ValueError, match='^the name of a task becomes a file'):
    inputs.check_name(name, 'task')


@pytest.mark.parametrize(
  'name',
  ['forget_vqa', 'npo-0.1', 'zh-Hans', '忘れる', 'a b', 'x' * 100, 'cone'],
)
def test_a_name_of_a_file_is_taken(name):
  assert inputs.check_name(name, 'task') == name


def test_a_name_that_is_taken_makes_one_file_of_its_folder(tmp_path):
  """Random names of signs that lead elsewhere, and of harmless ones."""
  rng = np.random.default_rng(0)
  signs, taken = [*'ab..//\\ ~\n\0-ж:*', '\u202e', '\ud800'], 0
  for number in range(400):
    name = ''.join(rng.choice(signs, rng.integers(0, 7)))
    try:
      inputs.check_name(name, 'run')
    except ValueError:
      continue
    taken += 1
    folder = tmp_path / f'{number}' / 'folder'
    folder.mkdir(parents=True)
    (folder / f'{name}.partial.jsonl').write_text('')
    assert os.listdir(folder) == [f'{name}.partial.jsonl']
    assert os.listdir(folder.parent) == ['folder']
  assert taken > 20


def test_a_name_of_parts_has_each_checked():
  assert inputs.check_name('attacks/relearn/ga', 'run', 3)
  for name in ('a/b/c/d', 'a//b', 'a/../b', '/a', 'a/', 'a/.b', 'a/con'):
    with pytest.raises(ValueError, match='becomes a file'):
      inputs.check_name(name, 'run', 3)


def test_a_file_that_never_ends_is_not_opened(tmp_path, monkeypatch):
  pipe, there = tmp_path / 'pipe', tmp_path / 'socket'
  os.mkfifo(pipe)
  with socket.socket(socket.AF_UNIX) as server:
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    server.bind('socket')
    link = tmp_path / 'link'
    link.symlink_to('/dev/zero')
    for path in (pipe, there, link, pathlib.Path('/dev/zero'), tmp_path):
      with pytest.raises(ValueError, match='must be a file, and is a '):
        inputs.read_bytes(path)


def test_a_file_is_read_up_to_a_bound(tmp_path):
  path = tmp_path / 'file'
  path.write_bytes(b'12345')
  assert inputs.read_bytes(path, 5) == b'12345'
  with pytest.raises(ValueError, match='has 5 bytes, and at most 4 are read'):
    inputs.read_bytes(path, 4)
  with path.open('wb') as file:
    file.truncate(2**40)  # no byte of it is on the disk
  with pytest.raises(ValueError, match='at most 1,073,741,824 are read'):
    inputs.read_bytes(path)
  # It says that it has no bytes, and has some.
  with pytest.raises(ValueError, match='grows while it is read'):
    inputs.read_bytes('/proc/self/stat', 4)


def test_what_is_not_there_or_has_no_name_is_said(tmp_path):
  with pytest.raises(FileNotFoundError, match='there is no file .*none'):
    inputs.read_bytes(tmp_path / 'none')
  for name in ('a\0b', 'x' * 300, 'a' * 10**6):
    with pytest.raises(ValueError, match='is not a file to read') as caught:
      inputs.read_bytes(tmp_path / name)
    assert len(str(caught.value)) < 400


def test_links_are_followed_before_a_path_is_inside(tmp_path):
  folder = tmp_path / 'folder'
  (folder / 'below').mkdir(parents=True)
  (folder / 'out').symlink_to(tmp_path)
  (folder / 'loop').symlink_to('loop')
  for name, inside in (
    ('a.png', True),
    ('below/a.png', True),
    ('below/../a.png', True),
    ('../a.png', False),
    ('../folder2/a.png', False),
    ('out/a.png', False),
    ('/etc/passwd', False),
    ('a\0b', False),
  ):
    assert inputs.is_inside(folder / name, folder) == inside, name


@pytest.mark.parametrize('kind', ['model', 'dataset'])
def test_a_name_of_the_hub_gets_the_command_that_makes_a_folder(kind):
  more = ' --repo-type dataset' if kind == 'dataset' else ''
  said = str(inputs.no_folder('llava-hf/llava-1.5-7b-hf', kind))
  command = f'hf download llava-hf/llava-1.5-7b-hf{more} --local-dir llava-1.5'
  assert command in said


@pytest.mark.parametrize(
  'words',
  [
    ['plan', '--config=own', '--config.model.path=org/m'],
    ['doctor', '--config=own', '--config.model.path=org/m'],
    ['ask', '--params=org/m', 'Who?'],
    ['convert', '--from=org/m', '--to=new'],
    ['inspect', 'org/m'],
  ],
)
def test_every_command_that_takes_a_model_has_it(words, capsys):
  assert command_line.main(words) == 1
  said = ' '.join(''.join(capsys.readouterr()).split())
  assert 'hf download org/m --local-dir m' in said


@pytest.mark.parametrize('path', ['/a/b', 'a', 'a/b/c', '../a', 'a/b.jsonl'])
def test_a_path_that_is_no_name_of_the_hub_gets_none(path):
  said = str(inputs.no_folder(path, 'model'))
  assert 'hf download' not in said and path in said
