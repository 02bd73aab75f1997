"""A command is one entry of the table, with examples that run."""

import shlex

from commanding import JOBS
import pytest

from mmu_jax import __main__ as command_line
from mmu_jax import commands
from mmu_jax.commands import command
from mmu_jax.commands import COMMANDS
from mmu_jax.commands import fields


@pytest.mark.parametrize('name', COMMANDS)
def test_help_shows_examples(name, capsys):
  with pytest.raises(SystemExit) as exit_:
    command_line.main([name, '--help'])
  assert exit_.value.code == 0
  shown = capsys.readouterr().out
  assert f'\n  mmu {name}' in shown and '--debug' in shown
  with_workdir = (*JOBS, 'doctor', 'config')
  assert ('--workdir' in shown) == (name in (*with_workdir, 'ask'))
  assert ('--config NAME' in shown) == (name in (*with_workdir, 'plan'))
  assert ('--resume' in shown) == (name in JOBS)


def _examples(command):
  """The calls in the examples of a command, as lists of words."""
  text = command.examples.replace('\\\n', ' ')
  lines = [x.strip() for x in text.splitlines() if x.startswith('  ')]
  return [shlex.split(line) for line in lines]


@pytest.mark.parametrize('name', COMMANDS)
def test_every_example_of_a_command_can_be_parsed(name, monkeypatch):
  """And its config has the fields that it sets."""
  examples = _examples(COMMANDS[name])
  assert examples
  parser = command_line._parser()
  for words in examples:
    start = words.index('mmu')  # after a launcher
    args, overrides = parser.parse_known_args(words[start + 1 :])
    assert args.command == name
    if getattr(args, 'config', ''):
      fields.read(args.config, overrides)
    else:
      assert not overrides


def test_a_command_is_one_entry_of_the_table(monkeypatch, capsys):
  seen = []
  greet = commands.Command(
    'greet',
    'greet somebody',
    '\n  mmu greet Ada',
    lambda parser: parser.add_argument('who'),
    lambda args: seen.append(args.who),
  )
  monkeypatch.setitem(COMMANDS, 'greet', greet)
  assert command_line.main(['greet', 'Ada']) == 0
  assert seen == ['Ada']
  command_line.main([])
  assert 'greet somebody' in capsys.readouterr().out


def test_a_home_is_expanded_in_flags_and_fields(monkeypatch):
  monkeypatch.setenv('HOME', '/home/ana')
  assert command.filled('~/runs') == '/home/ana/runs'
  given = [f'--config.{x}=~/a' for x in ('data.path', 'model.path')]
  config = fields.read('own:fast', given)
  assert config.data.path == config.model.path == '/home/ana/a'
