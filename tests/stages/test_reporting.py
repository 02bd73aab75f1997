"""A report shows the models that results.jsonl scores, asked the same way."""

import types

import pytest
from results import result

from mmu_jax import workdir as workdir_lib
from mmu_jax.stages import reporting


@pytest.fixture
def shown(monkeypatch, tmp_path):
  """Reports on rows of results; returns what the page was made of."""
  job = types.SimpleNamespace(
    folder=tmp_path, data=types.SimpleNamespace(tasks={}, names={'p1': 'Ada'})
  )
  monkeypatch.setattr(reporting, 'open_job', lambda *_: job)
  monkeypatch.setattr(
    reporting.scoring,
    'answers_folder',
    lambda job, protocol, shots: job.folder / f'{protocol}-{shots}',
  )
  found = {}

  def save(folder, runs, data, *, predictions):
    found.update(runs=runs, names=data.names, gallery=predictions)

  def write(folder, *, predictions):
    found.update(page=predictions)
    return folder / 'report.html'

  monkeypatch.setattr(reporting.gallery, 'save_gallery', save)
  monkeypatch.setattr(reporting.page, 'write_report', write)

  def make(rows):
    workdir_lib.write_jsonl(tmp_path / 'results.jsonl', rows)
    return reporting.report(None, tmp_path), found

  return make


def _row(run, **asked):
  return result(run, 'forget_qa', 'exact_match', 0.5) | asked


def test_runs_are_those_of_the_results_in_their_order(shown, tmp_path):
  names = ('vanilla', 'ga', 'vanilla', 'attacks/relearn/ga')
  path, found = shown([_row(run) for run in names])
  assert path == tmp_path / 'report.html'
  assert found['runs'] == ['vanilla', 'ga', 'attacks/relearn/ga']
  assert found['names'] == {'p1': 'Ada'}


def test_gallery_and_page_read_the_answers_that_were_scored(shown, tmp_path):
  _, found = shown([_row('ga', protocol='fixed', shots=2)])
  assert found['gallery'] == found['page'] == tmp_path / 'fixed-2'
  _, found = shown([_row('ga')])
  assert found['page'] == tmp_path / 'plain-0'


def test_there_must_be_results(shown, tmp_path):
  with pytest.raises(ValueError, match='holds no score'):
    shown([])
