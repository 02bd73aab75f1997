"""A field on the command line is a field of the config, or an error."""

import json
import sys

from commanding import CONFIG
from commanding import JOBS
import ml_collections
import paths
import pytest

from mmu_jax import __main__ as command_line
from mmu_jax import errors
from mmu_jax import recipes
from mmu_jax import workdir
from mmu_jax.commands import fields
from mmu_jax.settings import table


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
  message = "one of full, all, small, fast, paper_exact; got 'huge'"
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
    needed = {'train': ['--run=base'], 'attack': ['relearn']}.get(name, [])
    try:
      status = command_line.main([name, CONFIG, *folder, *needed, *more])
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
  assert 'hunter2' not in said and 'no option --key' in said


@pytest.mark.parametrize('name', CONFIGURED)
def test_a_field_out_of_its_range_is_an_error_before_anything_is_done(
  name, refused
):
  said = refused(name, '--config.unlearn.clip_norm=-1')
  assert 'mmu: config.unlearn.clip_norm is a number >= 1e-06, or inf (' in said
  assert said.strip().endswith('; got -1.0.')
  said = refused(name, '--config.saliency.threshold=nan')
  assert 'config.saliency.threshold is a number > 0 (' in said


@pytest.mark.parametrize(
  'word, meant',
  [
    ('unlearn.roudns', 'unlearn.rounds'),
    ('unlern.rounds', 'unlearn.rounds'),
    ('unlern.roudns', 'unlearn.rounds'),
    ('unlern', 'unlearn'),
    ('base.straem[0].size', 'base.stream[0].size'),
    ('unlearn.streams.forget[0].sizee', 'unlearn.streams.forget[0].size'),
    ('runs.nppo.rate', 'runs.npo.rate'),
    ('runs.npo.options.betta', 'runs.npo.options.beta'),  # not in the config
    ('unlearn.optimzer.weight_dcay', 'unlearn.optimizer.weight_decay'),
    ('evaluation.judge.ulr', 'evaluation.judge.url'),
    ('model.procesor.max_pixels', 'model.processor.max_pixels'),
  ],
)
def test_a_field_that_is_unknown_gets_the_nearest_at_every_level(word, meant):
  with pytest.raises(errors.UserError) as error:
    fields.read('people', [f'--config.{word}=3'])
  said = str(error.value)
  assert f'no such field: --config.{word}. Did you mean' in said
  assert f'Did you mean config.{meant}?' in said


def test_a_field_at_the_wrong_level_is_looked_for_at_others():
  with pytest.raises(errors.UserError) as error:
    fields.read('people', ['--config.rounds=3'])
  said = 'config.base.rounds or config.unlearn.rounds or config.vanilla.rounds'
  assert f'Did you mean {said}?' in str(error.value)


@pytest.mark.parametrize('word', ['xyzzy', 'base.stream[0].xyzzy', 'seed.x'])
def test_where_no_name_is_near_none_is_guessed(word):
  with pytest.raises(errors.UserError) as error:
    fields.read('people', [f'--config.{word}=3'])
  assert 'Did you mean' not in str(error.value)


def test_every_command_guesses_a_field(refused):
  for name in CONFIGURED:
    said = refused(name, '--config.unlern.roudns=3')
    assert 'Did you mean config.unlearn.rounds?' in said


def test_a_field_of_a_part_of_a_stream_can_be_set():
  config = fields.read('people', ['--config.base.stream[1].size=5'])
  sizes = [part['size'] for part in config.base.stream]
  assert sizes == [48, 5, 2]
  for place in ('[3]', '[-1]', '[x]', '[]'):
    with pytest.raises(errors.UserError, match=r'places \[0\] to \[2\]'):
      fields.read('people', [f'--config.base.stream{place}.size=5'])


def test_a_field_that_a_config_may_have_can_be_set_where_it_lacks_it():
  words = {
    'evaluation.shots': '2',
    'evaluation.judge.url': 'http://localhost/v1',
    'unlearn.optimizer.weight_decay': '0.1',
    'runs.npo.options.beta': '0.3',
    'unlearn.optimizer.chain': "('mask', 'project', 'clip', 'optimizer')",
    'model.tie_word_embeddings': 'True',
  }
  given = [f'--config.{path}={value}' for path, value in words.items()]
  config = fields.read('people', given)
  assert (config.evaluation.shots, config.evaluation.judge.url) == (
    2,
    'http://localhost/v1',
  )
  assert config.unlearn.optimizer.weight_decay == 0.1
  assert config.unlearn.optimizer.chain[-1] == 'optimizer'
  assert config.runs.npo.options.beta == 0.3
  assert config.model.tie_word_embeddings is True
  with pytest.raises(errors.UserError, match='whole number >= 0.*got -2'):
    fields.read('people', ['--config.evaluation.shots=-2'])


def test_a_field_that_may_be_none_can_be_set_to_it():
  words = ['--config.runs.npo.rounds=7', '--config.runs.npo.rounds=None']
  assert fields.read('people', words[:1]).runs.npo.rounds == 7
  assert fields.read('people', words).runs.npo.rounds is None
  with pytest.raises(errors.UserError, match="number >= 1 .*; got 'None'"):
    fields.read('people', ['--config.unlearn.save_every=None'])


@pytest.mark.parametrize(
  'word, meant',
  [
    ('--wrokdir=x', '--workdir'),
    ('--mesh=fsdp=2', '--config.mesh'),
    ('--data.num_people=20', '--config.data.num_people'),
  ],
)
def test_an_option_that_is_unknown_gets_the_nearest_that_can_be_typed(
  word, meant, refused
):
  said = refused('doctor', word)
  name = word.partition('=')[0]
  assert f'no option {name}. Did you mean {meant}?' in said
  assert '--run,' not in said and '--process_id' in said  # doctor's alone


def test_the_options_of_an_error_are_those_of_the_command(refused):
  said = refused('plan', '--workdir=x')
  assert 'no option --workdir. Options are --config, --hbm, --chip' in said


@pytest.mark.parametrize('name', CONFIGURED)
def test_an_empty_folder_or_config_is_an_error_in_words(name, refused):
  for option in ('--config=', '--workdir=', '--workdir= '):
    if name != 'plan' or option == '--config=':
      said = refused(name, option)
      assert f'argument {option.strip(" =")}: it is empty' in said


def test_a_group_that_is_none_is_set_and_described():
  config = fields.read('own', ['--config.retrained=None'])
  lines = list(fields.described(config))
  place = lines.index('config.retrained = None')
  assert lines[place + 1].strip() == 'None: the job does without'


def test_the_config_of_a_job_takes_fields_where_it_has_none():
  plain = workdir.to_json(recipes.load('own').to_dict())
  config = ml_collections.ConfigDict(table.restored(json.loads(plain)))
  words = ['--config.runs.ga.rounds=7', '--config.evaluation.shots=1']
  made = fields.read(config, words)
  assert (made.runs.ga.rounds, made.evaluation.shots) == (7, 1)
  with pytest.raises(errors.UserError, match='the config of the job has no su'):
    fields.read(config, ['--config.runs.gaa.rate=1'])


def test_a_limit_and_a_clip_norm_are_set_though_a_config_has_none():
  words = [
    '--config.unlearn.limits.forget=5',
    '--config.runs.ga.clip_norms.forget=inf',
    '--config.runs.ga.clip_norms.retain=0.5',
  ]
  config = fields.read('own', words)
  assert config.unlearn.limits.to_dict() == {'forget': 5}
  assert config.runs.ga.clip_norms.to_dict() == {
    'forget': float('inf'),
    'retain': 0.5,
  }
  assert not config.runs.npo.clip_norms


@pytest.mark.parametrize(
  'word, message',
  [
    ('unlearn.limits.forget=0', 'limits.forget is a whole number >= 1.*got 0'),
    ('unlearn.limits.forget=x', "limits.forget is a whole number.*got 'x'"),
    ('runs.ga.clip_norms.forget=-1', 'forget is a number >= 1e-06.*got -1.0'),
    ('unlearn.limits.forget.x=1', 'no such field'),
    ('runs.gaa.clip_norms.forget=1', 'Did you mean config.runs.ga'),
  ],
)
def test_a_wrong_limit_or_clip_norm_is_an_error(word, message):
  with pytest.raises(errors.UserError, match=message):
    fields.read('own', [f'--config.{word}'])


def test_an_empty_group_that_takes_names_is_described():
  lines = list(fields.described(fields.read('own', [])))
  place = lines.index('config.unlearn.limits = {}')
  assert lines[place + 1].strip().startswith('most turns on a split (a whole')
