"""The command line: help with examples, errors that are one message."""

import pathlib
import subprocess
import sys

import pytest

from mmu_jax import __main__ as command_line
from mmu_jax import commands as arguments
from mmu_jax import workdir as workdir_lib
from mmu_jax.training import loop

ROOT = pathlib.Path(__file__).parents[1]
CONFIG = f'--config={ROOT / "configs" / "people.py"}:fast'
SMALL = (
  '--config.data.num_captioned=8',
  '--config.data.num_faces=8',
  '--config.data.num_shapes=8',
)


@pytest.fixture(autouse=True)
def _nothing_is_trained(monkeypatch):
  def fit(*_, **__):
    raise AssertionError('an error must come before training')

  monkeypatch.setattr(loop, 'fit', fit)


@pytest.fixture
def fails(tmp_path, capsys):
  """Runs a command that must fail; returns its one message."""

  def run(command, *more, workdir=None, config=CONFIG):
    folder = workdir or tmp_path / 'work'
    status = command_line.main(
      [command, config, f'--workdir={folder}', *SMALL, *more]
    )
    assert status == 2
    out, error = capsys.readouterr()
    assert 'Traceback' not in error and not out
    lines = error.strip().splitlines()
    assert lines[0].startswith('mmu: ')
    assert sum(line.startswith('mmu: ') for line in lines) == 1
    return error.removeprefix('mmu: ').strip()

  return run


@pytest.mark.parametrize('command', [[], *([c] for c in arguments.COMMANDS)])
def test_help_shows_an_example(command, capsys):
  with pytest.raises(SystemExit) as exit_:
    command_line.main([*command, '--help'])
  assert exit_.value.code == 0
  shown = capsys.readouterr().out
  assert 'mmu' in shown
  if command and command[0] in arguments.ON_FILES:
    assert f'\n  mmu {command[0]} ' in shown
    assert '--config' not in shown
  elif command:
    assert f'mmu {command[0]} --config=configs/people.py' in shown
    assert '--workdir' in shown or command == ['plan']  # it writes nothing
  else:
    assert all(name in shown for name in arguments.COMMANDS)


def test_help_needs_no_jax():
  code = (
    'import sys; from mmu_jax import __main__ as m\n'
    'try: m.main(["train", "--help"])\n'
    'except SystemExit: pass\n'
    'print("stages" if "mmu_jax.stages" in sys.modules else "light")'
  )
  done = subprocess.run(
    [sys.executable, '-c', code],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=True,
  )
  assert done.stdout.splitlines()[-1] == 'light'


@pytest.mark.parametrize(
  'argv, words',
  [
    ([], ['COMMAND']),
    (['fly', CONFIG, '--workdir=x'], ["'fly'", 'pipeline', 'evaluate']),
    (['train', CONFIG, '--workdir=x'], ['--run']),
    (['report', CONFIG], ['--workdir']),
    (['report', '--workdir=x'], ['--config']),
  ],
  ids=['no command', 'unknown command', 'no run', 'no workdir', 'no config'],
)
def test_a_call_that_is_not_complete_says_what_is_missing(argv, words, capsys):
  with pytest.raises(SystemExit) as exit_:
    command_line.main(argv)
  assert exit_.value.code == 2
  error = capsys.readouterr().err
  assert 'usage: mmu' in error and 'Traceback' not in error
  message = error.splitlines()[-1]
  assert all(word in message for word in words)


@pytest.mark.parametrize(
  'command, options, words',
  [
    (
      'train',
      ['--run=base', '--config.nope=1'],
      ['no such field', '--config.nope=1', 'config.seed', 'people.py'],
    ),
    (
      'train',
      ['--run=base', '--config.runs.gaa.rate=1'],
      ['no such field', '--config.runs.gaa.rate=1', 'config.runs'],
    ),
    (
      'train',
      ['--run=base', '--config.seed=one'],
      ['config.seed', 'one', 'fields of the config'],
    ),
    ('train', ['--run=base', 'more'], ['unexpected', 'more']),
    ('train', ['--run=base', '--runs=x'], ['runs', '--workdir']),
    (
      'train',
      ['--run=sgd'],
      ["unknown run 'sgd'", 'vanilla, retrained', 'ga_diff'],
    ),
    (
      'pipeline',
      ['--config.runs.ga_diff.method=foo'],
      ["unknown method 'foo'", 'known: finetune', 'METHODS'],
    ),
    (
      'pipeline',
      ['--config.runs.ga_diff.mask=saliency'],
      ["'ga_diff'", "mask 'saliency'", 'masked turns'],
    ),
    (
      'pipeline',
      ['--config.runs.mmunlearner.mask='],
      ["'mmunlearner'", "mask ''", 'needs a mask'],
    ),
    (
      'pipeline',
      ['--config.runs.mmunlearner.mask=best'],
      ["mask 'best'", 'known: saliency', 'topk, random'],
    ),
    (
      'train',
      ['--run=npo', '--config.runs.npo.retain=rest'],
      ["'npo'", "retain stream 'rest'", 'retain_without_text'],
    ),
    (
      'train',
      ['--run=base', '--config.data.name=faces'],
      ["unknown dataset 'faces'", 'people'],
    ),
    (
      'train',
      ['--run=base', '--config.model.name=gpt'],
      ["unknown model 'gpt'", 'llava'],
    ),
    (
      'train',
      ['--run=base', '--config.data.num_people=3'],
      ['num_people', 'got 3', 'change num_people'],
    ),
    (
      'train',
      ['--run=vanilla'],
      ["'base' is needed", 'Train it first', '--run=base'],
    ),
    (
      'train',
      ['--run=ga_diff'],
      ["'vanilla' is needed", 'mmu train --run=vanilla', 'mmu pipeline'],
    ),
    ('saliency', [], ["'vanilla' is needed", 'mmu train --run=vanilla']),
    ('tune', [], ["'vanilla' is needed", 'mmu train --run=vanilla']),
    ('evaluate', [], ['no model to evaluate', 'mmu train --run=vanilla']),
    (
      'evaluate',
      ['--run=vanilla'],
      ["'vanilla' is needed", 'mmu train --run=vanilla'],
    ),
    ('evaluate', ['--run=gaa'], ["unknown run 'gaa'", 'ga_diff']),
    ('report', [], ['no', 'results.jsonl', 'mmu evaluate']),
  ],
)
def test_a_mistake_is_one_message_with_value_and_next_step(
  fails, command, options, words
):
  message = fails(command, *options)
  for word in words:
    assert word in message, message


@pytest.mark.parametrize('path', ['nowhere.py', 'README.md'])
def test_a_config_that_is_no_config_is_a_clear_error(fails, path):
  assert path in fails('report', config=f'--config={ROOT / path}')


def test_an_unknown_variant_is_a_clear_error(fails):
  config = CONFIG.replace(':fast', ':huge')
  message = "one of full, all, fast, paper_exact; got 'huge'"
  assert message in fails('report', config=config)


def test_a_workdir_of_another_seed_is_refused_and_kept(fails, tmp_path):
  fails('report')  # claims the folder with seed 0, then finds no results
  before = {p: p.read_text() for p in (tmp_path / 'work').rglob('*.json')}
  message = fails('train', '--run=base', '--config.seed=1')
  assert 'seed: 0 there, 1 asked for' in message
  assert 'Use another --workdir' in message
  after = {p: p.read_text() for p in (tmp_path / 'work').rglob('*.json')}
  assert after == before


def test_an_unknown_run_leaves_no_workdir(fails, tmp_path):
  fails('train', '--run=sgd')
  fails('evaluate', '--run=sgd')
  assert not (tmp_path / 'work').exists()


def test_a_stage_of_other_settings_is_refused(fails, tmp_path):
  base = tmp_path / 'work' / 'base'
  workdir_lib.claim(base, {'stage': {'rounds': 3}})
  (base / 'metrics.jsonl').write_text('')
  message = fails('train', '--run=base')
  assert 'was made from other settings' in message and '3 there' in message


def test_a_loss_that_is_not_finite_is_one_message(fails, monkeypatch):
  def fit(*_, **__):
    raise FloatingPointError('every loss must be finite; round 3')

  monkeypatch.setattr(loop, 'fit', fit)
  assert fails('train', '--run=base').endswith('round 3')


def test_fields_are_read_from_the_arguments_not_from_the_process(monkeypatch):
  monkeypatch.setattr(sys, 'argv', ['pytest', '--config.seed=5'])
  config = command_line._read_config(  # pylint: disable=protected-access
    CONFIG.removeprefix('--config='),
    ['--config.runs.npo.rate=3e-4', '--config.model.dtype=bfloat16'],
  )
  assert config.seed == 0
  assert config.runs.npo.rate == 3e-4
  assert config.model.dtype == 'bfloat16'
