"""What stages refuse before they start, and what they do not do twice."""

import json
import types

import corrupted_job
import hub_folder
import numpy as np
import pytest
from safetensors.numpy import save_file

from mmu_jax import models
from mmu_jax import recipes
from mmu_jax import stages
from mmu_jax import tree as tree_lib
from mmu_jax import workdir as workdir_lib
from mmu_jax.errors import UserError
from mmu_jax.stages import job as job_lib
from mmu_jax.stages import masking
from mmu_jax.stages import runs
from mmu_jax.stages import scoring


@pytest.fixture
def config():
  return recipes.load('people:fast')


def test_a_model_of_another_image_size_is_refused(config, tmp_path):
  config.model.vision_config.patch_size = 8
  with pytest.raises(ValueError, match="tokens of an image': 16}, .*': 36}"):
    stages.open_job(config, tmp_path)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  'field, value, message',
  [
    ('remat', 'some', "model.remat is one of 'none', 'products', 'full'"),
    (
      'attention',
      'flash',
      "model.attention is one of 'auto', 'xla', 'blocks', 'cudnn'",
    ),
  ],
)
def test_an_unknown_choice_of_the_model_is_refused(
  config, tmp_path, field, value, message
):
  with config.unlocked():
    config.model[field] = value
  with pytest.raises(ValueError, match=message):
    stages.open_job(config, tmp_path)


def test_an_unknown_option_of_the_dataset_is_refused(config, tmp_path):
  with config.unlocked():
    config.data.num_cats = 3
  with pytest.raises(ValueError, match='num_cats'):
    stages.open_job(config, tmp_path)


@pytest.mark.parametrize(
  'name', ['/ga', 'a/b', '', 'x' * 101, 'vanilla', 'base', 'fixed-2shot']
)
def test_a_run_that_cannot_name_its_folder_is_refused(config, tmp_path, name):
  with config.unlocked():
    config.runs[name] = config.runs.mmunlearner
  with pytest.raises(UserError, match='name of a run|is not named'):
    stages.open_job(config, tmp_path / 'job')
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('name', ['a/b', '/abs', 'forget'])
def test_a_preserve_set_that_cannot_name_its_folder_is_refused(
  config, tmp_path, name
):
  with config.unlocked():
    config.saliency.preserve[name] = config.saliency.preserve.text
  with pytest.raises(UserError, match='preserve set'):
    stages.open_job(config, tmp_path / 'job')


def test_example_importance_needs_one_question_a_row(config, tmp_path):
  config.saliency.granularity = 'example'
  job = stages.open_job(config, tmp_path)
  with pytest.raises(ValueError, match='Set questions=1'):
    masking.mask(job, 'saliency')


def test_an_unknown_preserve_set_is_refused_before_measuring(config, tmp_path):
  config.saliency.protects.language = ('retain_vqa', 'songs')
  job = stages.open_job(config, tmp_path)
  with pytest.raises(ValueError, match="'songs'.*known: retain_vqa, text"):
    masking.mask(job, 'saliency')
  assert not (tmp_path / 'importance').exists()


def test_scores_of_a_model_of_other_settings_are_not_taken_over(
  config, tmp_path
):
  job = stages.open_job(config, tmp_path)
  folder = runs.model_folder(job, 'vanilla')
  workdir_lib.claim(folder, {'stage': {'rate': 1.0}})
  scores = tmp_path / 'predictions' / 'vanilla'
  made_from = {'stage': {'rate': 0.5}}  # before vanilla was made again
  max_new_tokens = config.evaluation.max_new_tokens
  workdir_lib.claim(
    scores,
    {'evaluation': {'max_new_tokens': max_new_tokens}, 'model': made_from},
  )
  (scores / 'forget_qa.partial.jsonl').write_text('')
  with pytest.raises(ValueError, match='model.stage.rate: 0.5 there, 0.003'):
    scoring.evaluate(config, tmp_path, ['vanilla'])


def test_a_command_does_not_rewrite_what_results_were_made_with(
  config, tmp_path
):
  job = stages.open_job(config, tmp_path)
  workdir_lib.claim(runs.model_folder(job, 'vanilla'), {'stage': {}})
  config.unlearn.rounds = 77
  stages.open_job(config, tmp_path)
  written = json.loads((tmp_path / 'config.json').read_text())
  assert written['unlearn']['rounds'] == 4


@pytest.mark.parametrize(
  'stage',
  [
    stages.open_job,
    stages.train,
    stages.saliency,
    stages.evaluate,
    stages.report,
    stages.tune,
    stages.pipeline,
  ],
)
def test_every_stage_checks_the_whole_config_first(stage, config, tmp_path):
  config.unlearn.clip_norm = -1.0
  with pytest.raises(ValueError, match='config.unlearn.clip_norm is a number'):
    stage(config, tmp_path)
  config.unlearn.clip_norm = 1.0
  with config.unlocked():
    config.evaluation.judge = dict(url='', key_variable='hunter2')
  with pytest.raises(ValueError, match='judge.key_variable is') as raised:
    stage(config, tmp_path)
  assert 'hunter2' not in str(raised.value)
  assert not list(tmp_path.iterdir())


def test_an_empty_workdir_is_an_error(config, monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(ValueError, match='the workdir is the folder of a job'):
    stages.open_job(config, '')
  assert not list(tmp_path.iterdir())


def test_a_rule_that_exempts_every_leaf_is_refused(config, tmp_path):
  for rule, words in (('.*', 'every leaf'), ('kernel', 'no leaf')):
    config.unlearn.exempt = rule
    with pytest.raises(ValueError, match=f'exempts {words} from the mask'):
      stages.open_job(config, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_name_that_is_no_variable_is_not_written(
  config, tmp_path, monkeypatch
):
  """It may be a key: one of capitals and digits looks like a name."""
  with config.unlocked():
    config.evaluation.judge = dict(url='', key_variable='HUNTER2')
  stages.open_job(config, tmp_path / 'a')
  files = [p for p in (tmp_path / 'a').rglob('*') if p.is_file()]
  assert files and not any('HUNTER2' in p.read_text() for p in files)
  monkeypatch.setenv('HUNTER2', 'x')
  stages.open_job(config, tmp_path / 'b')
  assert 'HUNTER2' in (tmp_path / 'b' / 'config.json').read_text()


@pytest.mark.parametrize(
  'stage',
  ('train', 'make_model', 'saliency', 'evaluate', 'report', 'tune', 'pipeline'),
)
def test_no_stage_begins_where_another_job_is_at_work(
  monkeypatch, tmp_path, stage
):
  """It is refused before it looks at its config."""

  def busy(workdir):
    raise UserError(f'another job is at work in {workdir}')

  monkeypatch.setattr(job_lib.locks, 'alone_in', busy)
  arguments = ('vanilla',) if stage == 'make_model' else ()
  with pytest.raises(UserError, match='another job is at work'):
    getattr(stages, stage)(None, tmp_path, *arguments)


@pytest.mark.parametrize('change', ['answer', 'split', 'picture'])
def test_data_that_changed_under_a_workdir_are_refused(tmp_path, change):
  corrupted_job.write_data(tmp_path / 'data')
  config = corrupted_job.config_of(tmp_path / 'data')

  def open_job():  # as a process of its own would
    job_lib._load.cache_clear()
    job_lib._content.cache_clear()
    return stages.open_job(config, tmp_path / 'job')

  assert open_job().world == open_job().world
  workdir_lib.write_json(tmp_path / 'job' / 'vanilla' / 'config.json', {})
  file, picture = (tmp_path / 'data' / n for n in ('people.jsonl', '9.png'))
  if change == 'picture':
    picture.write_bytes((tmp_path / 'data' / '8.png').read_bytes())
  else:
    text = file.read_text()
    rows = [json.loads(line) for line in text.splitlines()]
    for row in rows:
      if row['person'] == rows[0]['person']:
        row[change] = 'retain'  # a split, and no answer of before
    file.write_text('\n'.join(map(json.dumps, rows)))
  with pytest.raises(ValueError, match='content.data.*there,.*asked for'):
    open_job()


def test_a_base_with_an_adapter_is_loaded_merged(tmp_path, monkeypatch):
  """And another adapter in its folder is noticed."""
  draw = np.random.default_rng(1).normal
  tensors = {
    name: draw(size=shape).astype(np.float32)
    for name, shape in hub_folder.shapes('llava').items()
  }
  base = hub_folder.write(tmp_path / 'base', 'llava', tensors)
  folder = tmp_path / 'adapter'
  folder.mkdir()
  name = 'base_model.model.model.multi_modal_projector.linear_2.lora_{}.weight'
  size = len(tensors['multi_modal_projector.linear_2.weight'])
  factors = {
    name.format('A'): draw(size=(2, size)).astype(np.float32),
    name.format('B'): draw(size=(size, 2)).astype(np.float32),
  }
  save_file(factors, folder / 'adapter_model.safetensors')
  settings = dict(peft_type='LORA', lora_alpha=6)
  (folder / 'adapter_config.json').write_text(json.dumps(settings))
  data = types.SimpleNamespace(notes=(), processor=None)
  monkeypatch.setattr(job_lib.datasets, 'load', lambda *_, **__: data)
  monkeypatch.setattr(job_lib.contents, 'digest', lambda _: 'data')
  monkeypatch.setattr(job_lib, '_open_processor', lambda *_: None)
  monkeypatch.setattr(job_lib.batching, 'Encoder', lambda *_: None)
  model = dict(path=str(base), adapter=str(folder))
  world = dict(seed=0, labels='answer', data={'name': 'x'}, model=model)
  text = json.dumps(world)
  *_, found = job_lib._load(text)
  assert found.adapter == folder
  job = types.SimpleNamespace(model=found, mesh=None)
  merged = tree_lib.flatten(runs.final_params(job, 'base'))
  plain = tree_lib.flatten(models.load(base).params)
  change = {k: np.asarray(x) - plain[k] for k, x in merged.items()}
  moved = [k for k, x in change.items() if np.abs(x).max() > 0]
  assert moved == ['multi_modal_projector/linear_2/kernel']
  a, b = factors.values()
  np.testing.assert_allclose(change[moved[0]], 3 * (b @ a).T, atol=1e-4)
  before = job_lib._content(text)
  assert set(before) == {'data', 'model', 'adapter'}
  (folder / 'adapter_config.json').write_text(
    json.dumps(settings | {'lora_alpha': 7})
  )
  job_lib._content.cache_clear()
  assert job_lib._content(text)['adapter'] != before['adapter']
