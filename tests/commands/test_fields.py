"""A field on the command line is a field of the config, or an error."""

import sys

from commanding import CONFIG
from commanding import JOBS
import paths
import pytest

from mmu_jax import __main__ as command_line
from mmu_jax import recipes
from mmu_jax.commands import fields


@pytest.mark.parametrize('path', ['nowhere.py', 'README.md'])
def test_a_config_that_is_no_config_is_a_clear_error(fails, path):
  assert path in fails('report', config=f'--config={paths.ROOT / path}')


def test_an_unknown_name_of_a_config_lists_the_known_ones(fails):
  message = fails('report', config='--config=persons:fast')
  assert "no config 'persons'" in message
  assert ', '.join(recipes.known()) in message


def test_fields_without_a_config_are_an_error(capsys):
  with pytest.raises(SystemExit) as exit_:
    command_line.main(['doctor', '--config.mesh=fsdp=2'])
  assert exit_.value.code == 1
  assert 'fields need --config' in capsys.readouterr().err


def test_an_unknown_variant_is_a_clear_error(fails):
  config = CONFIG.replace(':fast', ':huge')
  message = "one of full, all, fast, paper_exact; got 'huge'"
  assert message in fails('report', config=config)


def test_fields_are_read_from_the_arguments_not_from_the_process(monkeypatch):
  monkeypatch.setattr(sys, 'argv', ['pytest', '--config.seed=5'])
  config = fields.read(
    'people:fast',
    ['--config.runs.npo.rate=3e-4', '--config.model.dtype=bfloat16'],
  )
  assert config.seed == 0
  assert config.runs.npo.rate == 3e-4
  assert config.model.dtype == 'bfloat16'


CONFIGURED = [*JOBS, 'plan', 'doctor']


@pytest.fixture
def refused(tmp_path, capsys, monkeypatch):
  """Runs a command in an empty folder, where it must fail; returns its words.

  Nothing may be in the folder afterwards.
  """
  monkeypatch.chdir(tmp_path)
  monkeypatch.delenv('MMU_DEBUG', raising=False)

  def run(name, *more):
    folder = [] if name == 'plan' else ['--workdir=work']
    run_of = ['--run=base'] if name == 'train' else []
    try:
      status = command_line.main([name, CONFIG, *folder, *run_of, *more])
    except SystemExit as exit_:
      status = exit_.code
    assert status == 1
    out, error = capsys.readouterr()
    assert 'Traceback' not in error and not list(tmp_path.iterdir())
    return out + error

  return run


@pytest.mark.parametrize('name', CONFIGURED)
@pytest.mark.parametrize(
  'word',
  [
    'key_variable=sk-hunter2',
    'key_variable=hunter2hunter2',
    'key_variable=hf_hunter2hunter2hunter2',
    'key_variable=AKIAHUNTER2HUNTER2X',
    'key_varable=hunter2',
    'key=hunter2',
    'url=https://me:hunter2@host/v1',
    'url=https://host/v1?api_key=hunter2',
    'url=hunter2',
    'model=sk-proj-hunter2hunter2hunter2',
    'tries=sk-proj-hunter2hunter2hunter2',
  ],
)
def test_a_key_given_by_mistake_is_neither_shown_nor_written(
  name, word, refused
):
  said = refused(
    name, '--config=clear:fast', f'--config.evaluation.judge.{word}'
  )
  assert 'hunter2' not in said.lower()
  assert 'config.evaluation.judge' in said


@pytest.mark.parametrize('name', CONFIGURED)
def test_a_key_in_another_field_is_neither_shown_nor_written(name, refused):
  for word in (
    'data.path=https://me:hunter2@host/people',
    'model.path=hf_hunter2hunter2hunter2',
    'mesh=Bearer hunter2',
  ):
    said = refused(name, '--config=clear:fast', f'--config.{word}')
    assert 'hunter2' not in said and 'seems to hold a key' in said
  said = refused(name, '--key=hunter2')
  assert 'hunter2' not in said and "'key'" in said


@pytest.mark.parametrize('name', CONFIGURED)
def test_a_field_out_of_its_range_is_an_error_before_anything_is_done(
  name, refused
):
  said = refused(name, '--config.unlearn.clip_norm=-1')
  assert 'mmu: config.unlearn.clip_norm is a number > 0, or inf (' in said
  assert said.strip().endswith('; got -1.0.')
  said = refused(name, '--config.saliency.threshold=nan')
  assert 'config.saliency.threshold is a number > 0 (' in said


def test_a_field_that_is_unknown_gets_the_nearest_name(refused):
  said = refused('train', '--config.unlearn.clip_nrom=1')
  assert 'Did you mean config.unlearn.clip_norm?' in said


@pytest.mark.parametrize('name', CONFIGURED)
def test_an_empty_folder_or_config_is_an_error_in_words(name, refused):
  for option in ('--config=', '--workdir=', '--workdir= '):
    if name != 'plan' or option == '--config=':
      said = refused(name, option)
      assert f'argument {option.strip(" =")}: it is empty' in said
