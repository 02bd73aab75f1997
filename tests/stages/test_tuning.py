"""Learning rates are compared by one score, on others than those to forget."""

import json
import types

import benchmark_folders
import ml_collections
import pytest

from mmu_jax import sharding
from mmu_jax import workdir as workdir_lib
from mmu_jax.commands import fields
from mmu_jax.commands import jobs
from mmu_jax.data.dataset import FORGET
from mmu_jax.data.dataset import KEEP
from mmu_jax.errors import Collapse
from mmu_jax.errors import UserError
from mmu_jax.stages import job as job_lib
from mmu_jax.stages import training
from mmu_jax.stages import tuning
from mmu_jax.workdir import seals

# Exact match by rate: the higher rate forgets more, and keeps less.
PROBED = {
  1e-4: {'seen': 0.8, 'text': 0.9, 'others': 0.7},
  2e-4: {'seen': 0.2, 'text': 0.6, 'others': 0.4},
}
KNOWN = {'seen': 1.0, 'text': 1.0, 'others': 1.0}  # what vanilla knows
ROLES = {'seen': FORGET, 'text': KEEP, 'others': KEEP}


def _config(**fields):
  runs = {'ga': {'method': 'ga', 'rate': 1.0}}
  return ml_collections.ConfigDict({'seed': 3, 'runs': runs} | fields)


@pytest.fixture(name='tried')
def _tried(monkeypatch, tmp_path):
  """Tries rates without a model: a function from a config to rows."""
  opened = []

  def open_job(config, workdir, validation, begin):
    opened.append((validation, begin))
    tasks = {k: types.SimpleNamespace(role=role) for k, role in ROLES.items()}
    data = types.SimpleNamespace(tasks=tasks)
    return types.SimpleNamespace(
      config=config, data=data, mesh=sharding.make_mesh(''), unlearned=tmp_path
    )

  made = {'vanilla': 0.0}

  def run_method(job, name, run, probe):
    made[name] = run.rate
    if run.rate > 1e-3:
      raise Collapse('the retain loss reached 12')

  look = (PROBED | {0.0: KNOWN}).get
  monkeypatch.setattr(tuning, 'open_job', open_job)
  monkeypatch.setattr(tuning, 'run_method', run_method)
  monkeypatch.setattr(tuning, 'final_params', lambda job, name: made[name])
  monkeypatch.setattr(tuning, 'make_probe', lambda job, rows: look)
  return lambda config: (tuning.tune(config, tmp_path), made, opened)


def test_s_is_the_mean_of_forgotten_and_kept(tried, tmp_path):
  config = _config(
    tune={'rates': tuple(PROBED), 'rows': 4}, validation_groups={}
  )
  rows, made, opened = tried(config)
  assert opened == [(True, False)]
  assert made == {'vanilla': 0.0, 'ga-0.0001': 1e-4, 'ga-0.0002': 2e-4}
  # ((1 - 0.8) + 0.8) / 2, and ((1 - 0.2) + 0.5) / 2.
  assert [(row['S'], row['U']) for row in rows] == [(0.5, 0.8), (0.65, 0.5)]
  assert workdir_lib.read_jsonl(tmp_path / 'tuning.jsonl') == rows
  assert seals.fault(tmp_path / 'tuning.jsonl', 'tuning.jsonl') == ''
  (line,) = tuning.best_rates(rows, config.tune.rates)
  assert line == (
    'best for ga: --config.runs.ga.rate=0.0002 (S 0.650; the highest of the '
    'rates)'
  )


def test_a_rate_at_which_a_run_collapses_is_left_out(tried):
  config = _config(
    tune={'rates': (1e-4, 2e-3), 'rows': 4}, validation_groups={}
  )
  rows, _, _ = tried(config)
  assert [row['S'] for row in rows] == [0.5, None]
  assert rows[1]['failed'] == 'the retain loss reached 12'
  assert 'rate=0.0001' in tuning.best_rates(rows, (1e-4, 2e-3))[0]
  assert 'collapsed at every rate' in tuning.best_rates(rows[1:], (2e-3,))[0]
  alike = [row | {'S': 0.5} for row in rows]
  assert 'none, S is 0.500 at' in tuning.best_rates(alike, (1e-4, 2e-3))[0]


def test_what_vanilla_does_not_know_is_said(tried, monkeypatch, capfd):
  config = _config(tune={'rates': (1e-4,), 'rows': 4}, validation_groups={})
  monkeypatch.setitem(KNOWN, 'seen', 0.04)
  tried(config)
  assert 'vanilla answers 4% of the questions' in ''.join(capfd.readouterr())


def test_a_config_without_rates_to_try_is_refused(tmp_path):
  with pytest.raises(UserError, match='the config has none. Add tune=dict'):
    tuning.tune(_config(), tmp_path)


def test_a_stream_that_names_the_forget_set_itself_is_refused(tmp_path):
  config = fields.read('own:fast', [])
  config.unlearn.streams.forget[0]['splits'] = ('vqa/forget',)
  with pytest.raises(UserError, match="draws from 'vqa/forget' by name"):
    tuning.tune(config, tmp_path)


def _own_data(folder):
  """Twelve things: four to forget, eight to keep; no name, no text."""
  lines = []
  for i in range(12):
    split = 'forget' if i < 4 else 'retain'
    (folder / f'{i}.png').write_bytes(benchmark_folders.file(i, 'PNG', 16))
    lines.append(
      dict(question='What?', answer=f'No. {i}.', image=f'{i}.png', split=split)
    )
  path = folder / 'things.jsonl'
  path.write_text(''.join(json.dumps(line) + '\n' for line in lines))
  return path


def test_own_data_are_tuned_on_things_to_keep(tmp_path):
  path = _own_data(tmp_path)
  config = fields.read(
    'own:fast', [f'--config.data.path={path}', '--config.mesh=']
  )
  plain, job = (
    job_lib.open_job(config, tmp_path / 'job', validation=v)
    for v in (False, True)
  )
  shown = lambda job, role: {
    row.picture_key
    for group in job.groups[role]
    for row in job.data.train[f'vqa/{group}']
  }
  forgotten, kept = shown(job, 'forget'), shown(job, 'retain')
  assert (len(forgotten), len(kept)) == (2, 6)
  assert forgotten | kept == shown(plain, 'retain')
  assert all(not task.reported for task in job.data.tasks.values())
  assert job.unlearned == tmp_path / 'job' / 'tuning'
  # A try needs the same vanilla, and is made like the run that it tries.
  claim = lambda job: training.run_claim(job, job.config.runs.mmunlearner)
  differ = [k for k, v in claim(plain).items() if claim(job)[k] != v]
  assert differ == ['groups']
  assert job.config.vanilla.rounds == plain.config.vanilla.rounds


def test_every_benchmark_has_rates_around_its_own():
  rates = fields.read('mllmu_bench', []).tune.rates
  assert rates == (2.5e-6, 5e-6, 1e-5, 2e-5, 4e-5)


def test_the_command_prints_the_option_that_sets_the_best_rate(
  monkeypatch, capfd
):
  rows = [{'run': 'ga', 'rate': 5e-6, 'S': 0.5, 'U': 0.25, 'text': 0.25}]
  rows.append({'run': 'ga', 'rate': 1e-5, 'S': None, 'U': None, 'failed': 'x'})
  monkeypatch.setattr('mmu_jax.stages.tune', lambda *_: rows)
  config = _config(tune={'rates': (5e-6, 1e-5), 'rows': 4})
  jobs._tune(types.SimpleNamespace(config=config, workdir='w'))
  said = ''.join(capfd.readouterr())
  assert 'ga                   5e-06    S 0.500 U 0.250 text 0.250' in said
  assert 'ga                   1e-05    collapsed' in said
  assert '--config.runs.ga.rate=5e-06 (S 0.500; the lowest of the rat' in said
