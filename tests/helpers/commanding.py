"""Commands that must fail with one message, or do something else."""

import pytest

from mmu_jax import __main__ as command_line
from mmu_jax.commands import COMMANDS

CONFIG = '--config=people:fast'
SMALL = (
  '--config.data.num_captioned=8',
  '--config.data.num_faces=8',
  '--config.data.num_shapes=8',
)
JOBS = [name for name, command in COMMANDS.items() if command.begun]


@pytest.fixture
def fails(tmp_path, capsys, monkeypatch):
  """Runs a command that must fail before training; returns its message."""
  from mmu_jax.training import loop

  def fit(*_, **__):
    raise AssertionError('an error must come before training')

  monkeypatch.setattr(loop, 'fit', fit)
  monkeypatch.delenv('MMU_DEBUG', raising=False)

  def run(command, *more, workdir=None, config=CONFIG):
    folder = workdir or tmp_path / 'work'
    status = command_line.main(
      [command, config, f'--workdir={folder}', *SMALL, *more]
    )
    assert status == 1
    out, error = capsys.readouterr()
    assert 'Traceback' not in error and 'Traceback' not in out
    lines = error.strip().splitlines()
    assert lines[0].startswith('mmu: ')
    assert sum(line.startswith('mmu: ') for line in lines) == 1
    return error.removeprefix('mmu: ').strip()

  return run


@pytest.fixture
def replaced(monkeypatch):
  """Lets a job do something else; returns what its commands are given."""

  def replace(act, name='report'):
    given = []

    def run(args):
      given.append(args)
      return act()

    monkeypatch.setitem(COMMANDS, name, COMMANDS[name]._replace(run=run))
    return given

  return replace
