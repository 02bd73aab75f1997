"""The command line: help with examples, errors that are one message."""

import argparse
import os
import shlex
import signal
import subprocess
import sys

import paths
import pytest

import mmu_jax
from mmu_jax import __main__ as command_line
from mmu_jax import commands
from mmu_jax import errors
from mmu_jax import workdir as workdir_lib
from mmu_jax.commands import COMMANDS
from mmu_jax.commands import fields
from mmu_jax.distributed import preemption
from mmu_jax.training import loop

CONFIG = '--config=people:fast'
SMALL = (
  '--config.data.num_captioned=8',
  '--config.data.num_faces=8',
  '--config.data.num_shapes=8',
)
JOBS = [name for name, command in COMMANDS.items() if command.begun]


@pytest.fixture(autouse=True)
def _nothing_is_trained(monkeypatch):
  def fit(*_, **__):
    raise AssertionError('an error must come before training')

  monkeypatch.setattr(loop, 'fit', fit)
  monkeypatch.delenv('MMU_DEBUG', raising=False)


@pytest.fixture
def fails(tmp_path, capsys):
  """Runs a command that must fail; returns its one message."""

  def run(command, *more, workdir=None, config=CONFIG):
    folder = workdir or tmp_path / 'work'
    status = command_line.main(
      [command, config, f'--workdir={folder}', *SMALL, *more]
    )
    assert status == 1
    out, error = capsys.readouterr()
    assert 'Traceback' not in error and not out
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


@pytest.mark.parametrize('name', COMMANDS)
def test_help_shows_examples(name, capsys):
  with pytest.raises(SystemExit) as exit_:
    command_line.main([name, '--help'])
  assert exit_.value.code == 0
  shown = capsys.readouterr().out
  assert f'\n  mmu {name}' in shown and '--debug' in shown
  assert ('--workdir' in shown) == (name in (*JOBS, 'doctor'))
  assert ('--config NAME' in shown) == (name in (*JOBS, 'doctor', 'plan'))
  assert ('--resume' in shown) == (name in JOBS)


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


def test_a_job_that_was_asked_to_stop_ends_with_75(replaced, capsys):
  def stop():
    os.kill(os.getpid(), signal.SIGTERM)
    assert preemption.requested(1)
    raise preemption.Preempted('vanilla: saved after round 7')

  replaced(stop)
  assert command_line.main(['report', CONFIG, '--workdir=x']) == 75
  out, error = capsys.readouterr()
  assert 'saved after round 7' in out and 'same command again' in out
  assert not error


def test_the_exit_codes_are_those_of_the_readme():
  text = (paths.ROOT / 'launch' / 'README.md').read_text()
  assert 'Exit codes of `mmu`: 0 done; 1 failed' in text
  assert f'{preemption.EXIT_CODE} asked to stop' in ' '.join(text.split())
  assert (command_line.FAILED, preemption.EXIT_CODE) == (1, 75)


BEGUN = {
  'pipeline': 'config.json',
  'train': 'vanilla',
  'saliency': 'mask',
  'evaluate': 'predictions',
  'report': 'report.html',
  'tune': 'tuning',
}


def test_every_job_says_where_it_begins():
  assert set(JOBS) == set(BEGUN)
  begun = COMMANDS['train'].begun
  assert begun(argparse.Namespace(run='npo')) == 'unlearned/npo'
  assert begun(argparse.Namespace(run='retrained')) == 'retrained'


@pytest.mark.parametrize('name', BEGUN)
def test_resume_never_refuses_what_an_earlier_call_has_begun(
  name, fails, replaced, tmp_path, capsys
):
  given = replaced(lambda: 0, name)
  more = ['--run=vanilla'] if name == 'train' else []
  argv = [name, CONFIG, f'--workdir={tmp_path / "work"}', *more]
  assert command_line.main([*argv, '--resume=never']) == 0  # nothing is there
  (tmp_path / 'work' / BEGUN[name]).mkdir(parents=True)
  assert command_line.main(argv) == 0
  capsys.readouterr()
  message = fails(name, '--resume=never', *more)
  assert str(tmp_path / 'work' / BEGUN[name]) in message
  assert 'leave --resume out' in message
  assert len(given) == 2


@pytest.mark.parametrize(
  'argv, words',
  [
    (['fly', CONFIG, '--workdir=x'], ["'fly'", 'pipeline', 'evaluate']),
    (['train', CONFIG, '--workdir=x'], ['--run']),
    (['report', CONFIG], ['--workdir']),
    (['report', '--workdir=x'], ['--config']),
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


@pytest.mark.parametrize(
  'command, options, words',
  [
    (
      'train',
      ['--run=base', '--config.nope=1'],
      ['no such field', '--config.nope=1', 'config has', 'seed', 'people'],
    ),
    (
      'train',
      ['--run=base', '--config.runs.gaa.rate=1'],
      ['no such field', '--config.runs.gaa', 'config.runs has ga_diff'],
    ),
    (
      'train',
      ['--run=base', '--config.seed=one'],
      ['config.seed', 'one', 'fields of the config'],
    ),
    (
      'train',
      ['--run=base', '--config.seed.x=1'],
      ['no such field', 'config.seed is 0', 'no fields'],
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
  assert path in fails('report', config=f'--config={paths.ROOT / path}')


def test_an_unknown_name_of_a_config_lists_the_known_ones(fails):
  message = fails('report', config='--config=persons:fast')
  assert "no config 'persons'" in message
  assert 'clear, mllmu_bench, own, people, tfds' in message


def test_fields_without_a_config_are_an_error(capsys):
  with pytest.raises(SystemExit) as exit_:
    command_line.main(['doctor', '--config.mesh=fsdp=2'])
  assert exit_.value.code == 1
  assert 'fields need --config' in capsys.readouterr().err


@pytest.mark.parametrize('option', ['--mesh=fsdp=2', '--model=llava-1.5-7b'])
@pytest.mark.parametrize('command', ['plan', 'doctor'])
def test_mesh_and_model_are_fields_of_the_config_alone(command, option, capsys):
  assert command_line.main([command, CONFIG, option]) == 1
  assert option.split('=')[0][2:] in capsys.readouterr().err


def test_a_plan_is_of_the_mesh_and_the_model_of_the_config(monkeypatch):
  from mmu_jax import planning

  asked = []
  monkeypatch.setattr(planning, 'plan', lambda c, **_: asked.append(c))
  monkeypatch.setattr(planning, 'tables', lambda _: [])
  monkeypatch.setenv('JAX_PLATFORMS', 'cpu')
  assert (
    command_line.main(
      [
        'plan',
        '--config=mllmu_bench',
        '--config.mesh=fsdp=8',
        '--config.model.path=llava-1.5-7b',
      ]
    )
    == 0
  )
  assert (asked[0].mesh, asked[0].model.path) == ('fsdp=8', 'llava-1.5-7b')


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
  config = fields.read(
    'people:fast',
    ['--config.runs.npo.rate=3e-4', '--config.model.dtype=bfloat16'],
  )
  assert config.seed == 0
  assert config.runs.npo.rate == 3e-4
  assert config.model.dtype == 'bfloat16'
