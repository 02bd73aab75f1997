"""Learning rates are compared by one score, on people that no table shows."""

import types

import ml_collections
import pytest

from mmu_jax import sharding
from mmu_jax import workdir as workdir_lib
from mmu_jax.data.dataset import FORGET
from mmu_jax.data.dataset import KEEP
from mmu_jax.stages import tuning
from mmu_jax.workdir import seals

# Exact match by rate: the higher rate forgets more, and keeps less.
PROBED = {
  1e-4: {'seen': 0.8, 'text': 0.9, 'others': 0.7},
  2e-4: {'seen': 0.2, 'text': 0.6, 'others': 0.4},
}
ROLES = {'seen': FORGET, 'text': KEEP, 'others': KEEP}


def _config(**fields):
  runs = {'ga': {'method': 'ga', 'rate': 1.0}}
  return ml_collections.ConfigDict({'seed': 3, 'runs': runs} | fields)


def test_s_is_the_mean_of_forgotten_and_kept(monkeypatch, tmp_path):
  config = _config(
    tune={'rates': tuple(PROBED), 'rows': 4}, validation_groups={}
  )
  tasks = {k: types.SimpleNamespace(role=role) for k, role in ROLES.items()}
  job = types.SimpleNamespace(
    config=config,
    data=types.SimpleNamespace(tasks=tasks),
    mesh=sharding.make_mesh(''),
    unlearned=tmp_path,
  )
  made, opened = {}, []

  def open_job(config, workdir, validation, begin):
    opened.append(validation)
    return job

  def run_method(job, name, run, probe):
    made[name] = run.rate

  monkeypatch.setattr(tuning, 'open_job', open_job)
  monkeypatch.setattr(tuning, 'run_method', run_method)
  monkeypatch.setattr(tuning, 'final_params', lambda job, name: made[name])
  monkeypatch.setattr(tuning, 'make_probe', lambda job, rows: PROBED.get)
  rows = tuning.tune(config, tmp_path)
  assert opened == [True]
  assert made == {'ga-0.0001': 1e-4, 'ga-0.0002': 2e-4}
  # ((1 - 0.8) + 0.8) / 2, and ((1 - 0.2) + 0.5) / 2.
  assert [(row['S'], row['U']) for row in rows] == [(0.5, 0.8), (0.65, 0.5)]
  assert workdir_lib.read_jsonl(tmp_path / 'tuning.jsonl') == rows
  assert seals.fault(tmp_path / 'tuning.jsonl', 'tuning.jsonl') == ''


@pytest.mark.parametrize('fields', [{}, {'tune': {}}])
def test_a_config_without_people_to_tune_on_is_refused(tmp_path, fields):
  with pytest.raises(ValueError, match='must have `tune` and `validation_gro'):
    tuning.tune(_config(**fields), tmp_path)
