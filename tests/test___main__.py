"""Bare mmu, help, and an exit code for each end of a command."""

import os
import subprocess
import sys

from commanding import CONFIG
import paths
import pytest

import mmu_jax
from mmu_jax import __main__ as command_line
from mmu_jax import errors
from mmu_jax.commands import COMMANDS
from mmu_jax.distributed import preemption


def _raise(error):
  raise error


def _python(code, **options):
  return subprocess.run(
    [sys.executable, '-c', code],
    capture_output=True,
    text=True,
    check=False,
    env=os.environ | {'PYTHONPATH': str(paths.ROOT)},
    **options,
  )


@pytest.mark.parametrize('argv', [[], ['--help']], ids=['bare', 'help'])
def test_bare_mmu_lists_the_commands(argv, capsys):
  if argv:
    with pytest.raises(SystemExit) as exit_:
      command_line.main(argv)
    assert exit_.value.code == 0
  else:
    assert command_line.main(argv) == 0
  shown = capsys.readouterr().out
  for command in COMMANDS.values():
    assert command.name in shown and command.title.split()[0] in shown


def test_the_version_is_said(capsys):
  with pytest.raises(SystemExit) as exit_:
    command_line.main(['--version'])
  assert exit_.value.code == 0
  assert capsys.readouterr().out == f'mmu {mmu_jax.__version__}\n'


def test_help_needs_no_jax():
  code = """
import sys
import mmu_jax
from mmu_jax import __main__ as m
try: m.main(['train', '--help'])
except SystemExit: pass
heavy = {'jax', 'flax', 'numpy', 'absl', 'ml_collections', 'rich'}
print(sorted(heavy & set(sys.modules)))
"""
  done = _python(code, cwd=os.sep)
  assert done.returncode == 0, done.stderr
  assert done.stdout.splitlines()[-1] == '[]'


def test_public_modules_are_imported_when_they_are_used():
  code = """
import sys
import mmu_jax
assert 'jax' not in sys.modules
from mmu_jax import masks, saliency, transforms, losses, methods, models
from mmu_jax import sharding, restriction, workdir, recipes
from mmu_jax.evaluation import table
assert restriction is mmu_jax.saliency.ratio
assert mmu_jax.tree.count and table.markdown_table
try: mmu_jax.nothing
except AttributeError as error: print(error)
"""
  done = _python(code)
  assert done.returncode == 0, done.stderr
  assert done.stdout.strip() == "module 'mmu_jax' has no attribute 'nothing'"
  assert {'masks', 'restriction', '__version__'} <= set(dir(mmu_jax))


@pytest.mark.parametrize(
  'error',
  [
    errors.UserError('no such thing'),
    errors.MissingError('it is not there'),
    errors.DiskError('it cannot be written'),
    errors.Collapse('the retain loss reached 10.4'),
    FloatingPointError('the loss is nan in round 3'),
    PermissionError(13, 'Permission denied', '/some/file'),
  ],
  ids=lambda error: type(error).__name__,
)
def test_an_error_that_says_what_to_do_is_a_message_and_exit_code_1(
  error, fails, replaced
):
  replaced(lambda: _raise(error))
  assert fails('report') == str(error)


@pytest.mark.parametrize(
  'error',
  [
    ValueError('zip() argument 2 is shorter'),
    KeyError('x'),
    OSError('no path'),
    ZeroDivisionError(),
  ],
  ids=lambda error: type(error).__name__,
)
def test_any_other_exception_keeps_its_traceback(error, replaced):
  replaced(lambda: _raise(error))
  with pytest.raises(type(error)):
    command_line.main(['report', CONFIG, '--workdir=x'])


def test_a_reader_who_has_seen_enough_is_no_error():
  """As `mmu config --config=people:fast | head -1`."""
  code = (
    'import sys; from mmu_jax import __main__ as cli;'
    "sys.exit(cli.main(['config', '--config=people:fast']))"
  )
  with subprocess.Popen(
    [sys.executable, '-c', code],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  ) as made:
    made.stdout.readline()
    made.stdout.close()
    assert 'Traceback' not in made.stderr.read()


@pytest.mark.parametrize('how', ['before', 'after', 'variable'])
def test_debug_shows_the_traceback_too(how, replaced, capsys, monkeypatch):
  replaced(lambda: _raise(errors.UserError('no such thing')))
  argv = ['report', CONFIG, '--workdir=x']
  if how == 'variable':
    monkeypatch.setenv('MMU_DEBUG', '1')
  else:
    argv.insert(0 if how == 'before' else 2, '--debug')
  assert command_line.main(argv) == 1
  error = capsys.readouterr().err
  assert error.startswith('Traceback') and 'in _raise' in error
  assert error.endswith('\nmmu: no such thing\n')


def test_debug_0_shows_no_traceback(fails, replaced, monkeypatch):
  monkeypatch.setenv('MMU_DEBUG', '0')
  replaced(lambda: _raise(errors.UserError('no such thing')))
  assert fails('report') == 'no such thing'


@pytest.mark.parametrize('code, meant', [(None, 0), (0, 0), (1, 1)])
def test_what_a_command_returns_is_the_exit_code(code, meant, replaced):
  replaced(lambda: code)
  assert command_line.main(['report', CONFIG, '--workdir=x']) == meant
  replaced(lambda: code, 'doctor')
  assert command_line.main(['doctor']) == meant


def test_the_exit_codes_are_those_of_the_readme():
  text = (paths.ROOT / 'launch' / 'README.md').read_text()
  assert 'Exit codes of `mmu`: 0 done; 1 failed' in text
  assert f'{preemption.EXIT_CODE} asked to stop' in ' '.join(text.split())
  assert (command_line.FAILED, preemption.EXIT_CODE) == (1, 75)


@pytest.mark.parametrize(
  'argv, words',
  [
    (['fly', CONFIG, '--workdir=x'], ["'fly'", 'pipeline', 'evaluate']),
    (['train', CONFIG, '--workdir=x'], ['--run']),
    (['report', CONFIG], ['--workdir']),
    (['saliency', '--workdir=x'], ['--config']),
  ],
  ids=['unknown command', 'no run', 'no workdir', 'no config'],
)
def test_a_call_that_is_not_complete_says_what_is_missing(argv, words, capsys):
  with pytest.raises(SystemExit) as exit_:
    command_line.main(argv)
  assert exit_.value.code == 1
  error = capsys.readouterr().err
  assert 'usage: mmu' in error and 'Traceback' not in error
  message = error.splitlines()[-1]
  assert all(word in message for word in words)
