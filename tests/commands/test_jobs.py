"""A job says where it begins, stops when it is asked, and explains mistakes."""

import argparse
import os
import pathlib
import platform
import signal
import subprocess
import sys

from commanding import CONFIG
from commanding import JOBS
import pytest

import mmu_jax
from mmu_jax import __main__ as command_line
from mmu_jax import workdir as workdir_lib
from mmu_jax.commands import COMMANDS
from mmu_jax.distributed import preemption
from mmu_jax.training import loop

NOTHING_YET = ['no results in the workdir', 'mmu train', 'mmu pipeline']


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


BEGUN = {
  'pipeline': 'config.json',
  'train': 'base',
  'saliency': 'mask',
  'evaluate': 'predictions',
  'attack': 'attacks/relearn',
  'report': 'report.html',
  'tune': 'tuning',
}


def _words(name):
  """The words of the first example of a command, without its config."""
  call = COMMANDS[name].examples.replace('\\\n', ' ').split('\n\n')[0]
  first = call.strip().split('\n  mmu ')[0].split()[2:]
  return [w for w in first if not w.startswith(('--config', '--workdir'))]


def test_every_job_says_where_it_begins():
  for name, place in BEGUN.items():
    assert COMMANDS[name].begun(_parsed(name)) == place
  begun = COMMANDS['train'].begun
  assert begun(argparse.Namespace(run='npo')) == 'unlearned/npo'
  assert begun(argparse.Namespace(run='retrained')) == 'retrained'


def _parsed(name):
  words = [name, CONFIG, '--workdir=x', *_words(name)]
  return command_line._parser().parse_args(words)


@pytest.mark.parametrize('name', JOBS)
def test_resume_never_refuses_what_an_earlier_call_has_begun(
  name, fails, replaced, tmp_path, capsys
):
  given = replaced(lambda: 0, name)
  more = _words(name)
  place = COMMANDS[name].begun(_parsed(name))
  argv = [name, CONFIG, f'--workdir={tmp_path / "work"}', *more]
  assert command_line.main([*argv, '--resume=never']) == 0  # nothing is there
  (tmp_path / 'work' / place).mkdir(parents=True)
  assert command_line.main(argv) == 0
  capsys.readouterr()
  message = fails(name, '--resume=never', *more)
  assert str(tmp_path / 'work' / place) in message
  assert 'leave --resume out' in message
  assert len(given) == 2


@pytest.mark.parametrize(
  'command, options, words',
  [
    (
      'train',
      ['--run=base', '--config.nope=1'],
      ['no such field', '--config.nope.', 'config has', 'seed', 'people'],
    ),
    (
      'train',
      ['--run=base', '--config.runs.gaa.rate=1'],
      [
        'no such field',
        '--config.runs.gaa',
        'config.runs has counterfactual, ga_diff',
      ],
    ),
    (
      'train',
      ['--run=base', '--config.seed=one'],
      ['config.seed is a whole number >= 0', "got 'one'"],
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
      ["'mmunlearner'", "mask 'best'", 'topk, random', 'config.masks'],
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
    ('saliency', [], NOTHING_YET),
    ('tune', [], NOTHING_YET),
    ('evaluate', [], NOTHING_YET),
    ('evaluate', ['--run=vanilla'], NOTHING_YET),
    ('evaluate', ['--run=gaa'], ["unknown run 'gaa'", 'ga_diff']),
    ('report', [], NOTHING_YET),
  ],
)
def test_a_mistake_is_one_message_with_value_and_next_step(
  fails, command, options, words
):
  message = fails(command, *options)
  for word in words:
    assert word in message, message


@pytest.mark.parametrize(
  'command, words',
  [
    ('saliency', ["'vanilla' is needed", 'mmu train --run=vanilla']),
    ('tune', ["'vanilla' is needed", 'mmu train --run=vanilla']),
    ('evaluate', ['no model to evaluate', 'mmu train --run=vanilla']),
    ('report', ['no', 'results.jsonl', 'mmu evaluate']),
  ],
)
def test_a_stage_that_comes_too_early_says_which_is_first(
  fails, tmp_path, command, words
):
  _begin(fails, tmp_path)
  message = fails(command)
  for word in words:
    assert word in message, message


def _begin(fails, tmp_path):
  """A workdir of seed 0 where the base model is being trained."""
  fails('train', '--run=vanilla')
  workdir_lib.claim(tmp_path / 'work' / 'base', {'stage': {'rounds': 3}})
  (tmp_path / 'work' / 'base' / 'metrics.jsonl').write_text('')


def test_a_stage_that_comes_too_early_makes_no_workdir(fails, tmp_path):
  for command in ('saliency', 'tune', 'evaluate', 'report'):
    fails(command)
    assert not (tmp_path / 'work').exists()


def test_a_workdir_of_another_seed_is_refused_and_kept(fails, tmp_path):
  _begin(fails, tmp_path)
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
  _begin(fails, tmp_path)
  message = fails('train', '--run=base')
  assert 'was made from other settings' in message and '3 there' in message


def test_a_loss_that_is_not_finite_is_one_message(fails, monkeypatch):
  def fit(*_, **__):
    raise FloatingPointError('every loss must be finite; round 3')

  monkeypatch.setattr(loop, 'fit', fit)
  assert fails('train', '--run=base').endswith('round 3')


@pytest.mark.parametrize('name', ['report', 'evaluate'])
def test_a_job_that_exists_needs_no_config(name, fails, replaced, tmp_path):
  _begin(fails, tmp_path)
  folder = tmp_path / 'work'
  given = replaced(lambda: 0, name)
  words = [name, f'--workdir={folder}', '--config.evaluation.batch_size=3']
  assert command_line.main(words) == 0
  (args,) = given
  assert args.config.evaluation.batch_size == 3
  assert args.config.data.num_faces == 8  # as the job has it, not its recipe


def test_a_folder_that_is_no_job_needs_one(capsys, tmp_path):
  assert command_line.main(['report', f'--workdir={tmp_path}']) == 1
  assert 'is not the workdir of a job' in capsys.readouterr().err
  with pytest.raises(SystemExit):
    command_line.main(['saliency', f'--workdir={tmp_path}'])
  assert 'required: --config' in capsys.readouterr().err


@pytest.mark.parametrize('name', ['report', 'evaluate'])
def test_the_help_says_which_config_is_taken(name, capsys):
  with pytest.raises(SystemExit):
    command_line.main([name, '--help'])
  said = ' '.join(capsys.readouterr().out.split())
  assert 'Without --config it takes the config of the last command' in said


_COMPILES = """
import argparse
from mmu_jax.commands import jobs
from mmu_jax.commands.command import Command
def compiles(args):
  import jax
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
  jax.jit(lambda x: x @ x + 1)(jax.numpy.ones((64, 64)))
nothing = dict.fromkeys(('coordinator', 'num_processes', 'process_id'))
args = argparse.Namespace(resume='auto', **nothing)
jobs.run(Command('x', 'x', '', None, compiles), args)
"""


@pytest.mark.parametrize(
  'kept, environ',
  [
    ('mmu_jax/programs', {}),
    ('given', {'JAX_COMPILATION_CACHE_DIR': '{folder}/given'}),
    ('', {'JAX_ENABLE_COMPILATION_CACHE': 'false'}),
    ('', {'XLA_FLAGS': '--xla_force_host_platform_device_count=2'}),
    ('', {'XDG_CACHE_HOME': '/proc/none'}),
    ('', {'XDG_CACHE_HOME': 'relative'}),
  ],
)
def test_compiled_programs_are_kept_for_later_calls(tmp_path, kept, environ):
  """In a folder for this machine, and not where they might hang."""
  environ = {k: v.format(folder=tmp_path) for k, v in environ.items()}
  left = {k: v for k, v in os.environ.items() if not k.startswith(('JAX', 'X'))}
  left |= {'XDG_CACHE_HOME': str(tmp_path), 'JAX_PLATFORMS': 'cpu'}
  left['PYTHONPATH'] = str(pathlib.Path(mmu_jax.__file__).parents[1])
  ran = subprocess.run(
    [sys.executable, '-c', _COMPILES],
    env=left | environ,
    cwd=tmp_path,
    check=True,
    capture_output=True,
  )
  assert b'Warning' not in ran.stderr
  found = [path for path in tmp_path.rglob('*') if path.is_file()]
  assert bool(found) == bool(kept)
  for path in found:
    assert path.is_relative_to(tmp_path / kept)
    assert kept == 'given' or platform.node() in path.parts
