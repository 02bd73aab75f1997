"""A report shows the models that results.jsonl scores, asked the same way."""

import types

import ml_collections
import numpy as np
import pytest
from results import result

from mmu_jax import checkpoint
from mmu_jax import workdir as workdir_lib
from mmu_jax.evaluation.scoring import results
from mmu_jax.stages import origins
from mmu_jax.stages import reporting
from mmu_jax.workdir import seals

NO_RETRAINED = 'There is no retrained model'


@pytest.fixture(name='job')
def _job(monkeypatch, tmp_path):
  config = ml_collections.ConfigDict(
    {'runs': {'ga': {}}, 'vanilla': {'rounds': 1}, 'retrained': None}
  )
  job = types.SimpleNamespace(
    config=config,
    folder=tmp_path,
    unlearned=tmp_path,
    world='w',
    model=types.SimpleNamespace(family='toy'),
    data=types.SimpleNamespace(tasks={}, names={'p1': 'Ada'}),
  )
  monkeypatch.setattr(reporting, 'open_job', lambda *_, **__: job)
  monkeypatch.setattr(reporting.gate, 'told', lambda *_: ('It knew.', ''))
  workdir_lib.write_log(tmp_path / 'unlearned' / 'ga' / 'metrics.jsonl', [])
  return job


@pytest.fixture(name='shown')
def _shown(monkeypatch, job):
  """Reports on rows of results; returns what the page was made of."""
  found = {}

  def save(folder, runs, data, *, predictions):
    found.update(runs=runs, names=data.names, gallery=predictions)

  def write(folder, *, predictions, remarks, before, attacks):
    apart = [text for text in remarks if text.startswith(NO_RETRAINED)]
    others = [text for text in remarks if text not in apart]
    found.update(page=predictions, remarks=others, no_retrained=apart)
    found.update(before=before, attacks=attacks)
    return folder / 'report.html'

  monkeypatch.setattr(reporting.gallery, 'save_gallery', save)
  monkeypatch.setattr(reporting.page, 'write_report', write)

  def make(rows, predictions='predictions', left_out={}):  # noqa: B006
    folder = job.folder / predictions
    files = folder.rglob('*.jsonl')
    answers = {}
    for path in files:
      run = path.parent.relative_to(folder).as_posix()
      answers.setdefault(run, {})[path.stem] = seals.hash_of(path)
    note = dict(predictions=predictions, left_out=left_out, answers=answers)
    scored = {row['run'] for row in rows}
    folders = {r: reporting.model_folder(job, r) for r in scored}
    note['models'] = {r: origins.content(f) for r, f in folders.items()}
    results.write(job.folder, rows, note)
    return lambda: (reporting.report(None, job.folder), found)

  return make


def _row(run, **asked):
  return result(run, 'forget_qa', 'exact_match', 0.5) | asked


def _answers(folder, run='ga', text='Oslo'):
  path = folder / 'predictions' / run / 'forget_qa.jsonl'
  seals.write_rows(path, [{'text': text}], 'forget_qa')
  return path


def _model(job, name, content='c0', made_from=()):
  folder = job.folder / name
  workdir_lib.write_json(folder / 'config.json', {'name': name})
  note = {'rounds': 3, 'content': content}
  note |= origins.origin(job, folder, [job.folder / f for f in made_from])
  checkpoint.save(folder / 'params', {'w': np.ones(2)}, note)
  return folder


def test_runs_are_those_of_the_results_in_their_order(shown, tmp_path):
  names = ('vanilla', 'ga', 'vanilla', 'attacks/relearn/ga')
  path, found = shown([_row(run) for run in names])()
  assert path == tmp_path / 'report.html'
  assert found['runs'] == ['vanilla', 'ga', 'attacks/relearn/ga']
  assert found['names'] == {'p1': 'Ada'} and found['remarks'] == []


def test_gallery_and_page_read_the_answers_that_were_scored(shown, tmp_path):
  _, found = shown([_row('ga')], 'predictions/fixed-2shot')()
  assert found['gallery'] == found['page']
  assert found['page'] == tmp_path / 'predictions' / 'fixed-2shot'


def test_what_was_known_before_is_on_the_page(shown, monkeypatch):
  make = shown([_row('ga')])
  assert make()[1]['before'] == 'It knew.'
  monkeypatch.setattr(reporting.gate, 'told', lambda *_: ('', 'Not asked.'))
  _, found = make()
  assert found['before'] == '' and 'Not asked.' in found['remarks']


def test_there_must_be_results(shown):
  with pytest.raises(ValueError, match='holds no score'):
    shown([])()


def test_a_model_without_scores_is_named_and_why(shown, job):
  _model(job, 'unlearned/npo')
  _, found = shown(
    [_row('vanilla'), _row('ga')], left_out={'kl_min': 'it lacks 3 answers'}
  )()
  first, second = found['remarks']
  assert first == 'kl_min has no scores: it lacks 3 answers.'
  assert second.startswith('npo is in this workdir and has no scores yet')


def test_answers_that_are_gone_are_said_and_changed_ones_refused(shown, job):
  path = _answers(job.folder)
  report = shown([_row('vanilla'), _row('ga')])
  assert report()[1]['remarks'] == []
  _answers(job.folder, text='Rome')
  with pytest.raises(ValueError, match='ga/forget_qa.jsonl does not hold'):
    report()
  path.unlink()
  (remark,) = report()[1]['remarks']
  assert remark.startswith('Answers of ga are no longer in')


def test_a_model_of_another_source_is_refused(shown, job):
  _model(job, 'vanilla')
  _model(job, 'unlearned/ga', made_from=['vanilla'])
  report = shown([_row('ga')])
  assert report()[1]['remarks'] == [
    'vanilla is in this workdir and has no scores yet: `mmu evaluate` asks '
    'every model.'
  ]
  _model(job, 'vanilla', content='c1')
  with pytest.raises(ValueError, match='ga was made from another vanilla: its'):
    report()


def test_a_model_that_was_made_anew_is_refused(shown, job):
  """Its scores are those of the model before."""
  _model(job, 'unlearned/ga')
  report = shown([_row('ga')])
  assert report()
  _model(job, 'unlearned/ga', content='c1')
  with pytest.raises(ValueError, match='ga is not the model that was scored'):
    report()


def test_a_run_a_log_and_masks_that_are_gone_are_named(shown, job):
  job.config.runs = dict(
    ga=dict(mask=''), random=dict(mask='random'), npo=dict(mask='')
  )
  log = job.folder / 'unlearned' / 'random' / 'metrics.jsonl'
  workdir_lib.write_log(log, [])
  report = shown([_row('vanilla'), _row('ga'), _row('random')])
  remarks = report()[1]['remarks']
  assert [text.split(' ')[0] for text in remarks] == ['A', 'A', 'npo']
  assert 'mask/random holds none' in remarks[0]
  assert 'mask/saliency holds none' in remarks[1]
  log.unlink()
  assert report()[1]['remarks'][0].startswith('The rounds of random are not')


@pytest.mark.parametrize('lost', ['vanilla', 'retrained', 'ga'])
def test_a_model_of_the_config_that_is_gone_is_named(shown, job, lost):
  job.config.retrained = dict(without=())
  every = ('vanilla', 'retrained', 'ga')
  assert shown([_row(run) for run in every])()[1]['remarks'] == []
  left = [_row(run) for run in every if run != lost]
  (remark,) = shown(left)()[1]['remarks']
  assert remark.startswith(f'{lost} of the config is not in this workdir')


@pytest.mark.parametrize('rounds, recipe', [(0, {}), (1, None), (0, None)])
def test_a_job_without_a_retrained_model_says_so(shown, job, rounds, recipe):
  job.config.vanilla.rounds = rounds
  job.config.retrained = recipe
  found = shown([_row('vanilla'), _row('ga')])()[1]
  assert found['remarks'] == [] and len(found['no_retrained']) == 1
  job.config.update(vanilla={'rounds': 1}, retrained={'without': ()})
  found = shown([_row('vanilla'), _row('retrained'), _row('ga')])()[1]
  assert found['remarks'] == found['no_retrained'] == []


def test_attacks_of_the_workdir_are_on_the_page(shown, monkeypatch):
  rows = [dict(case='one', metric='exact', value=0.5, n=3, step=None)]
  found = {'relearn': {'ga': rows}}
  monkeypatch.setattr(reporting.attacking, 'attacked', lambda job: found)
  made = shown([_row('ga')])()[1]['attacks']
  assert [(m['name'], m['models']) for m in made] == [('relearn', ['ga'])]
