"""All stages end to end: one tiny job, looked at from many sides."""

import importlib
import json
import shutil
import sys

import jax
import numpy as np
import paths
import pytest
import toy

from mmu_jax import checkpoint
from mmu_jax import masks
from mmu_jax import recipes
from mmu_jax import stages
from mmu_jax import tree as tree_lib
from mmu_jax.data.batches import batching
from mmu_jax.evaluation.report import scored
from mmu_jax.evaluation.scoring import entities
from mmu_jax.metrics import exact_match
from mmu_jax.stages import job as job_lib
from mmu_jax.stages import runs as runs_lib
from mmu_jax.stages.budgets import mask_specs
from mmu_jax.stages.budgets import run_rules
from mmu_jax.training import loop

ROOT = paths.ROOT
RUNS = ('ga', 'mmunlearner_strict')
MODELS = ('vanilla', 'retrained', *RUNS)
TASKS = {
  'forget_vqa',
  'forget_vqa_holdout',
  'forget_qa',
  'retain_vqa',
  'retain_qa',
  'real_vqa',
  'real_qa',
}
# What each task is scored by: plain facts and pictures have no cloze rows.
GENERATION = {
  *('exact_match', 'contains', 'bleu', 'empty', 'gibberish'),
  *('choice', 'choice_exposure', 'nll'),
  *('rouge1', 'rouge2', 'rougeL', 'rougeL_recall'),
}
CLOZE = {'cloze', 'cloze_empty', 'cloze_gibberish'}
METRICS = {
  task: GENERATION | (set() if 'real' in task else CLOZE) for task in TASKS
}
for _task in ('forget_vqa', 'forget_vqa_holdout'):
  METRICS[_task] |= {'names_another'}

pytestmark = pytest.mark.slow  # the fixture: some thirty compilations


def _config():
  """The fast variant, smaller still, with two runs."""
  config = recipes.load('people:fast')
  config.mesh = ''  # one device: others are in tests/scale
  width = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=2)
  config.model.vision_config.update(width)
  config.model.text_config.update(width)
  config.data.update(
    num_people=8,
    num_forget=2,
    num_validation_forget=1,
    num_validation_retain=1,
    train_views=2,
    num_captioned=8,
    num_faces=8,
    num_shapes=8,
  )
  config.base.update(rounds=3)
  config.vanilla.update(rounds=5)
  config.saliency.batches = 2
  config.unlearn.update(rounds=3, probe_every=3, probe_rows=4, save_every=2)
  config.evaluation.update(max_new_tokens=4, batch_size=16)
  config.tune.update(rates=(1e-3,), rows=4)
  run = recipes.run
  with config.unlocked():
    config.runs = dict(
      ga=run('ga', 1e-3),
      mmunlearner_strict=run('mmunlearner_strict', 1e-3, 'saliency'),
    )
  return config


class _Recorder:
  """Remembers the plan of every run that is really done."""

  def __init__(self, monkeypatch):
    self.plans, fit = {}, loop.fit

    def record(plan, *rest, title, **options):
      self.plans[title] = plan
      return fit(plan, *rest, title=title, **options)

    monkeypatch.setattr(loop, 'fit', record)

  def drawn(self, title):
    """The rows that a run saw, with those it only projected against."""
    plan = self.plans[title]
    return {
      key
      for stream in plan.streams.values()
      for step in range(plan.rounds)
      for key in stream.keys(step)
    }


@pytest.fixture(scope='module')
def done(tmp_path_factory, quick_compile, unpainted, roughly_scored):
  """A finished job: its folder, its results, and what was trained."""
  folder = tmp_path_factory.mktemp('pipeline') / 'job'
  with pytest.MonkeyPatch.context() as monkeypatch:
    recorder = _Recorder(monkeypatch)
    results = stages.pipeline(_config(), folder)
  return folder, results, recorder


@pytest.fixture
def copied(done, tmp_path):
  return shutil.copytree(done[0], tmp_path / 'job')


def _job(folder):
  return job_lib.open_job(_config(), folder)


def _jsonl(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_task_and_metric_has_a_value_n_and_interval(done):
  folder, results, _ = done
  found = {(r['run'], r['task'], r['metric']): r for r in results}
  assert len(found) == len(results)
  assert set(found) == {
    (run, task, metric)
    for run in MODELS
    for task in TASKS
    for metric in METRICS[task]
  }
  for result in results:
    most = {'choice_exposure': 2, 'nll': 1e3}.get(result['metric'], 1)
    assert 0 <= result['low'] <= result['value'] <= result['high'] <= most
    about = result.get('entities', {})
    assert len(about) == (2 if 'forget_vqa' in result['task'] else 0) or (
      result['metric'] not in entities.TOLD
    )
    assert result['n'] >= 2
    assert result['step'] == (3 if result['run'] in RUNS else 5)
  assert _jsonl(folder / 'results.jsonl') == results
  assert set(scored.rows(results)) == set(MODELS)


def test_every_answer_is_kept_and_its_row_was_asked(done):
  folder, results, _ = done
  tasks = {n: t.rows for n, t in _job(folder).data.tasks.items()}
  for run in MODELS:
    for task in TASKS:
      rows = _jsonl(folder / 'predictions' / run / f'{task}.jsonl')
      assert [r['key'] for r in rows] == [r.key for r in tasks[task]]
    answers = _jsonl(folder / 'predictions' / run / 'forget_qa.jsonl')
    exact = [
      exact_match(a['text'], a['answer'])
      for a in answers
      if a['kind'] == 'generation'
    ]
    (result,) = [
      r
      for r in results
      if (run, 'forget_qa', 'exact_match') == (r['run'], r['task'], r['metric'])
    ]
    assert result['n'] == len(exact)
    assert result['value'] == pytest.approx(np.mean(exact), abs=1e-6)


def test_report_and_plots_are_there(done):
  folder, _, _ = done
  page = (folder / 'report.html').read_text()
  assert all(run in page for run in MODELS)
  plots = {p.name for p in (folder / 'plots').iterdir()}
  assert {'tradeoff.png', 'density.png', 'trajectory.png'} <= plots
  manifest = json.loads((folder / 'manifest.json').read_text())
  assert manifest['seed'] == 0
  entries = json.loads((folder / 'gallery.json').read_text())
  assert all(set(entry['answers']) == set(MODELS) for entry in entries)


def test_finished_runs_keep_no_train_states(done):
  folder, _, _ = done
  runs = [folder / n for n in run_rules.TRAINED]
  runs += [folder / 'unlearned' / n for n in RUNS]
  for run in runs:
    names = {p.name for p in run.iterdir()}
    log = {'metrics.jsonl', 'metrics.jsonl.seal', 'timing.jsonl'}
    assert names == {'config.json', 'params', *log}


def test_the_mask_states_density_and_ties(done):
  folder, _, _ = done
  note = checkpoint.read_note(folder / 'mask' / 'saliency')
  components = {'vision', 'projector', 'language'}
  assert set(note['density']) == components | {'all'}
  assert all(0 < share < 1 for share in note['density'].values())
  assert set(note['ties']) == components
  assert note['ties']['language'] > 0  # words that no question used
  assert (note['threshold'], note['granularity']) == (1.0, 'batch')
  job = _job(folder)
  shapes = jax.eval_shape(job.model.init, jax.random.key(0))
  mask = masks.unpack(_mask(folder, job), shapes)
  assert (
    masks.density(mask, components=job.model.components) == (note['density'])
  )


def _mask(folder, job):
  """The packed mask of the workdir."""
  shapes = jax.eval_shape(job.model.init, jax.random.key(0))
  packed = jax.eval_shape(
    lambda p: masks.pack(jax.tree.map(lambda x: x > 0, p)), shapes
  )
  return checkpoint.restore(folder / 'mask' / 'saliency', packed).tree


def test_controls_have_the_size_of_the_mask_and_other_places(copied):
  config = _config()
  with config.unlocked():
    for kind in ('literal', 'topk', 'random'):
      config.runs[kind] = {**config.runs.mmunlearner_strict, 'mask': kind}
  made = stages.saliency(config, copied)
  job = _job(copied)
  shapes = jax.eval_shape(job.model.init, jax.random.key(0))
  made = {kind: masks.unpack(mask, shapes) for kind, mask in made.items()}
  assert list(made) == list(mask_specs.MASKS)
  assert masks.density_by_leaf(made['random']) == (
    masks.density_by_leaf(made['saliency'])
  )
  components = job.model.components
  want = masks.density(made['saliency'], components=components)
  got = masks.density(made['topk'], components=components)
  for component, share in want.items():
    assert got[component] == pytest.approx(share, abs=2e-3)
  notes = {kind: checkpoint.read_note(copied / 'mask' / kind) for kind in made}
  for kind, note in notes.items():
    assert note['kind'] == kind
    assert note['normalize'] == (kind != 'literal')
    assert note['density'] == masks.density(made[kind], components=components)
    if kind != 'saliency':
      assert masks.overlap(made[kind], made['saliency']) < 0.9


def test_a_strict_run_moves_no_bit_outside_the_mask(done):
  folder, _, _ = done
  job = _job(folder)
  vanilla = runs_lib.final_params(job, 'vanilla')
  strict = runs_lib.final_params(job, 'mmunlearner_strict')
  mask = masks.unpack(_mask(folder, job), vanilla)
  assert toy.frozen_bits_kept(vanilla, strict, mask)
  moved = toy.vector(toy.moved(vanilla, strict))
  inside = toy.vector(mask)
  assert moved[inside > 0].mean() > 0.5
  other = runs_lib.final_params(job, 'ga')
  assert not toy.frozen_bits_kept(vanilla, other, mask)


def test_retrained_never_saw_a_forget_picture(done):
  folder, _, recorder = done
  train = _job(folder).data.train
  pictures = {row.key for row in train['vqa/forget']}
  text = {row.key for row in train['qa/forget']}
  assert not recorder.drawn('retrained') & pictures
  assert recorder.drawn('retrained') & text
  assert recorder.drawn('vanilla') & pictures  # the same recipe otherwise
  everything = {row.key for rows in train.values() for row in rows}
  assert recorder.drawn('vanilla') <= everything  # no scored row


def test_unlearning_forgets_the_forget_set_and_keeps_the_others(done):
  folder, _, recorder = done
  train = _job(folder).data.train
  pictures = {row.key for row in train['vqa/forget']}
  for run in RUNS:
    streams = recorder.plans[run].streams
    forgotten = {k for s in range(3) for k in streams['forget'].keys(s)}
    assert forgotten and forgotten <= pictures
    retained = {k for s in range(3) for k in streams['retain'].keys(s)}
    assert retained and not retained & pictures


def test_a_second_call_does_nothing_again(done, monkeypatch, capsys):
  folder, results, _ = done
  rewritten = {
    'config.json',
    'manifest.json',
    'results.jsonl',
    'results.jsonl.seal',
    'report.html',
    'gallery.json',
    'gallery.npz',
  }

  def times():
    return {
      path: path.stat().st_mtime_ns
      for path in folder.rglob('*')
      if path.is_file()
      and not (path.parent == folder and path.name in rewritten)
      and path.parent.name != 'plots'
    }

  before = times()
  assert len(before) > 50
  recorder = _Recorder(monkeypatch)
  pipeline = sys.modules[stages.pipeline.__module__]
  monkeypatch.setattr(pipeline, 'report', lambda *_: None)
  assert stages.pipeline(_config(), folder) == results
  assert not recorder.plans
  assert times() == before
  out = capsys.readouterr().out
  assert all(f'{run}: found in' in out for run in MODELS)
  assert all(f'evaluate {run}: found in' in out for run in MODELS)


def test_one_run_can_be_evaluated_alone_and_reported(copied, done):
  shutil.rmtree(copied / 'predictions')
  (copied / 'results.jsonl').unlink()
  results = stages.evaluate(_config(), copied, ['ga'])
  assert results == [r for r in done[1] if r['run'] == 'ga']
  assert [p.name for p in (copied / 'predictions').iterdir()] == ['ga']
  # A model whose evaluation was stopped halfway is not shown.
  shutil.copytree(
    done[0] / 'predictions' / 'vanilla', copied / 'predictions' / 'vanilla'
  )
  (copied / 'predictions' / 'vanilla' / 'forget_qa.jsonl').unlink()
  stages.report(_config(), copied)
  entries = json.loads((copied / 'gallery.json').read_text())
  assert all(set(entry['answers']) == {'ga'} for entry in entries)


def test_a_model_that_another_stage_made_is_scored_and_shown(copied, done):
  """Behind the runs of the config; nothing else is asked again."""
  job, name = _job(copied), 'attacks/made_up/ga'
  claim = dict(made_by='made_up', source='ga', settings={'scale': 2})
  folder = runs_lib.claim_model(job, name, **claim)
  assert not runs_lib.is_finished(folder)
  params = runs_lib.final_params(job, 'ga')
  weaker = jax.tree.map(lambda x: 0.5 * x, params)
  with jax.set_mesh(job.mesh):
    runs_lib.save_model(job, name, weaker, {'rounds': 9})
  results = stages.evaluate(_config(), copied)
  added = [row for row in results if row['run'] == name]
  assert [row for row in results if row['run'] != name] == done[1]
  assert {(row['task'], row['metric']) for row in added} == {
    (row['task'], row['metric']) for row in done[1]
  }
  assert {row['step'] for row in added} == {9}
  assert list(scored.rows(results)) == [*MODELS, name]
  page = stages.report(_config(), copied).read_text()
  assert name in page
  entries = json.loads((copied / 'gallery.json').read_text())
  assert all(list(entry['answers']) == [*MODELS, name] for entry in entries)


def test_a_run_of_other_settings_is_refused(copied):
  config = _config()
  config.runs.ga.rate = 2e-3
  with pytest.raises(ValueError, match='run.rate: 0.001 there, 0.002 asked'):
    stages.train(config, copied, 'ga')
  config = _config()
  config.saliency.threshold = 2.0
  with pytest.raises(ValueError, match='threshold: 1.0 there, 2.0 asked'):
    stages.saliency(config, copied)


def test_tuning_looks_at_no_reported_person_or_item(copied, monkeypatch):
  shutil.rmtree(copied / 'unlearned')
  data = _job(copied).data
  seen, example = {}, batching.Encoder.example

  def record(self, row):
    seen[row.key] = row
    return example(self, row)

  monkeypatch.setattr(batching.Encoder, 'example', record)
  recorder = _Recorder(monkeypatch)
  rows = stages.tune(_config(), copied)
  forgotten = {row.person for row in data.train['vqa/forget']}
  assert len(forgotten) == 2 and len(seen) > 50
  assert not {row.person for row in seen.values()} & forgotten
  reported = {row.key for task in TASKS for row in data.tasks[task].rows}
  assert not set(seen) & reported
  for title in recorder.plans:
    assert recorder.drawn(title) <= set(seen)
  forget = {row.key for row in data.train['vqa/validation_forget']}
  streams = [plan.streams['forget'] for plan in recorder.plans.values()]
  assert len(streams) == 2
  assert all(set(s.keys(step)) <= forget for s in streams for step in range(3))
  assert [(row['run'], row['rate']) for row in rows] == [
    (run, 1e-3) for run in RUNS
  ]
  for row in rows:
    names = ('forget_qa', 'retain_vqa', 'retain_qa', 'real_vqa')
    kept = np.mean([row[f'validation_{name}'] for name in names])
    assert row['U'] == pytest.approx(kept, abs=1e-4)
    want = (1 - row['validation_forget_vqa_holdout'] + kept) / 2
    assert row['S'] == pytest.approx(want, abs=1e-4)
  assert _jsonl(copied / 'tuning' / 'tuning.jsonl') == rows
  assert not (copied / 'unlearned').exists()  # nothing reported was touched


def test_a_pipeline_attacks_the_models_of_its_config_that_it_made(
  monkeypatch, capsys, tmp_path
):
  """A recipe names models that a config of your own may lack."""
  pipeline_lib = importlib.import_module('mmu_jax.stages.pipeline')
  asked = []
  act = lambda config, workdir, name, models: asked.append((name, models))
  monkeypatch.setattr(pipeline_lib.attacking, 'attack', act)
  monkeypatch.setattr(pipeline_lib, 'find_models', lambda *_: ['vanilla', 'ga'])
  config = recipes.load('people')
  config.attacks.relearn.models = ('ga', 'counterfactual')
  pipeline_lib._attack(config, tmp_path)
  assert asked == [('relearn', ['ga'])]
  assert 'has counterfactual, no model of this job' in capsys.readouterr().out


def test_vanilla_may_train_adapters_and_a_whole_projector(copied):
  """The rest is base's, bit for bit."""
  config = _config()
  shutil.rmtree(copied / 'vanilla')
  lora = dict(rank=2, targets=('language',), whole=('projector',))
  with config.unlocked():
    config.vanilla.lora = lora
  params = tree_lib.flatten(stages.train(config, copied, 'vanilla'))
  claim = json.loads((copied / 'vanilla' / 'config.json').read_text())
  assert claim['stage']['lora']['whole'] == ['projector']
  note = checkpoint.read_note(copied / 'vanilla' / loop.ADAPTERS)['lora']
  job = job_lib.open_job(config, copied)
  base = tree_lib.flatten(runs_lib.final_params(job, 'base'))
  changed = {*note['targets'], *note['whole']}
  part = lambda name: tree_lib.component_of(name, job.model.components)
  assert {part(name) for name in note['whole']} == {'projector'}
  for name, x in params.items():
    same = np.array_equal(x, base[name])
    assert same == (name not in changed), name


def test_a_run_of_adapters_is_a_model_like_any_other(copied, capsys):
  """Its weights without adapters are vanilla's, and it is found again."""
  config = _config()
  with config.unlocked():
    config.runs.adapted = recipes.run(
      'mmunlearner', 1e-2, 'saliency', lora=dict(rank=2, dtype='bfloat16')
    )
  params = tree_lib.flatten(stages.train(config, copied, 'adapted'))
  folder = copied / 'unlearned' / 'adapted'
  assert json.loads((folder / 'config.json').read_text())['lora']['rank'] == 2
  note = checkpoint.read_note(folder / loop.ADAPTERS)
  targets = set(note['lora']['targets'])
  assert 10 < len(targets) < len(params) / 2
  kept = {*checkpoint.describe(folder / loop.ADAPTERS)}
  assert kept == {'masked', 'free'}
  job = job_lib.open_job(config, copied)
  vanilla = tree_lib.flatten(runs_lib.final_params(job, 'vanilla'))
  for name, x in params.items():
    same = np.asarray(x) == np.asarray(vanilla[name])
    dead = 'encoder/layers' in name  # maybe in part: not all are run
    assert same.all() if name not in targets else dead or not same.all()
  capsys.readouterr()
  stages.train(config, copied, 'adapted')
  assert 'adapted: found in' in capsys.readouterr().out
