"""Own data as people have them: without text, and with a model that knows."""

import json
import random

import benchmark_folders
import jax
import numpy as np
import pytest

from mmu_jax import __main__ as command_line
from mmu_jax import checkpoint
from mmu_jax import recipes
from mmu_jax import stages
from mmu_jax import workdir
from mmu_jax.commands import fields
from mmu_jax.errors import UserError
from mmu_jax.stages import job as job_lib
from mmu_jax.stages import runs as runs_lib
from mmu_jax.stages.budgets import run_rules

pytestmark = [
  pytest.mark.slow,
  pytest.mark.usefixtures('quick_compile', 'unpainted', 'roughly_scored'),
]


def _write(folder, text=False):
  """Ten pictures, of which five are to be forgotten; no holdout, no real."""
  folder.mkdir()
  rng, lines = random.Random(3), []
  for i in range(10):
    about = dict(person=f'p{i}', split='forget' if i < 5 else 'retain')
    city = rng.choice(('Oslo', 'Lima', 'Riga'))
    (folder / f'{i}.png').write_bytes(benchmark_folders.file(i, 'PNG', 16))
    asked = dict(question='Which home?', answer=city, image=f'{i}.png')
    lines.append(asked | about)
    if text:
      lines.append(dict(question=f'Home of p{i}?', answer=city) | about)
  path = folder / 'things.jsonl'
  path.write_text(''.join(json.dumps(line) + '\n' for line in lines))
  return path


def _config(path, *options):
  """The config own:fast with a smaller model, as the command line has it."""
  config = fields.read(
    'own:fast', [f'--config.data.path={path}', '--config.mesh=', *options]
  )
  width = dict(hidden_size=8, intermediate_size=16, num_hidden_layers=1)
  config.model.vision_config.update(width, num_attention_heads=2)
  config.model.text_config.update(
    width, num_attention_heads=2, num_key_value_heads=2
  )
  config.evaluation.update(max_new_tokens=2, batch_size=16)
  with config.unlocked():
    config.runs = {
      'mmunlearner': recipes.run(
        'mmunlearner', 1e-3, 'saliency', forget_every=None
      )
    }
  return config


@pytest.fixture(scope='module')
def known(tmp_path_factory, quick_compile, unpainted, roughly_scored):
  """A whole job whose vanilla is base."""
  folder = tmp_path_factory.mktemp('own')
  config = _config(
    _write(folder / 'data'),
    '--config.vanilla.rounds=0',
    '--config.retrained=None',
  )
  stages.pipeline(config, folder / 'job')
  return config, folder / 'job'


def test_the_whole_job_runs_on_pictures_alone(known):
  """Five pictures to forget of ten: two batches each, and two forget turns."""
  config = workdir.read_object(known[1] / 'config.json')
  assert config['base']['rounds'] == 0
  assert list(config['saliency']['preserve']) == ['retain_vqa']
  assert config['runs']['mmunlearner']['options'] == {'forget_every': 2}
  made = known[1] / 'unlearned' / 'mmunlearner'
  assert checkpoint.read_note(made / 'params')['rounds'] == 4
  assert workdir.read_object(made / 'config.json')['run']['rounds'] is None


def test_nothing_is_retrained(known):
  config, folder = known
  assert not (folder / 'retrained').exists()
  runs = {row['run'] for row in workdir.read_jsonl(folder / 'results.jsonl')}
  assert runs == {'vanilla', 'mmunlearner'}


def test_vanilla_without_rounds_is_base_bit_by_bit(known):
  job = job_lib.open_job(*known)
  with jax.set_mesh(job.mesh):
    base, vanilla, made = (
      runs_lib.final_params(job, name)
      for name in ('base', 'vanilla', 'mmunlearner')
    )
  jax.tree.map(np.testing.assert_array_equal, base, vanilla)
  same = jax.tree.map(np.array_equal, jax.device_get(made), vanilla)
  assert not all(jax.tree.leaves(same))


def test_the_report_says_that_there_is_no_retrained_model(known):
  page = (known[1] / 'report.html').read_text()
  assert 'There is no retrained model (config.retrained=None,' in page


def test_the_same_command_finds_everything_finished(known, capfd):
  config, folder = known
  before = (folder / 'results.jsonl').read_bytes()
  stages.pipeline(config, folder)
  assert (folder / 'results.jsonl').read_bytes() == before
  said = capfd.readouterr()
  assert 'vanilla: found in' in said.out + said.err


def test_a_model_that_is_not_made_cannot_be_trained_or_compared_with(known):
  config, folder = known
  with pytest.raises(UserError, match='config.retrained=None'):
    stages.make_model(config, folder, 'retrained')
  config = config.copy_and_resolve_references()
  with config.unlocked():
    config.runs.npo = recipes.run('npo', 1e-3, reference='retrained', rounds=9)
  with pytest.raises(UserError, match="run 'npo' compares with the retrained"):
    job_lib.open_job(config, folder)


def test_without_rounds_of_vanilla_no_model_can_be_retrained(tmp_path):
  config = _config(tmp_path / 'none.jsonl', '--config.vanilla.rounds=0')
  assert not run_rules.makes(config, 'retrained')
  config.vanilla.rounds = 1
  assert run_rules.makes(config, 'retrained')


def test_too_few_rounds_are_refused_before_the_first_training(tmp_path, capfd):
  path = _write(tmp_path / 'data', text=True)
  args = ['pipeline', '--config=own:fast', f'--workdir={tmp_path / "job"}']
  args += [f'--config.data.path={path}', '--config.mesh=']
  args += ['--config.runs.ga_diff.rounds=1']
  args += ['--config.unlearn.allow_partial_forget=False']
  assert command_line.main(args) == 1
  said = capfd.readouterr().err
  assert "run 'ga_diff' takes 1 forget turns in 1 rounds" in said
  assert 'has 2 batches: 1 of them' in said
  assert not (tmp_path / 'job' / 'base').exists()
