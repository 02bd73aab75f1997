"""`mmu compare` prints the tables of workdirs, and names one that is none."""

import pytest
import seed_jobs

from mmu_jax import __main__ as cli
from mmu_jax.stages.across import seeds as seeds_lib
from mmu_jax.stages.across import tables


def test_the_tables_are_printed_below_their_titles(monkeypatch, capsys):
  monkeypatch.setattr(seeds_lib, 'read_seed', lambda path: path)
  monkeypatch.setattr(
    tables, 'seed_tables', lambda seeds: {'Seeds': f'{seeds}'}
  )
  assert cli.main(['compare', 'a', 'b']) == 0
  assert "## Seeds\n\n['a', 'b']\n" in capsys.readouterr().out


def test_a_folder_without_scores_is_a_clear_error(tmp_path, capsys):
  assert cli.main(['compare', str(tmp_path)]) == 1
  assert 'mmu evaluate' in capsys.readouterr().err


def test_the_seeds_are_kept_and_the_tables_stay_as_they_are(
  monkeypatch, capsys
):
  monkeypatch.setattr(seeds_lib, 'read_seed', lambda path: path)
  monkeypatch.setattr(tables, 'seed_tables', lambda seeds: {'A': 'b'})
  monkeypatch.setattr(
    seeds_lib, 'keep_seed', lambda seed, to: f'{to}/{seed}.json'
  )
  assert cli.main(['compare', 'x', 'y', '--to=kept']) == 0
  out, err = capsys.readouterr()
  assert out == '## A\n\nb\n\n'
  assert err == 'kept kept/x.json\nkept kept/y.json\n'


def test_chosen_runs_alone_are_shown_and_kept(tmp_path, capsys):
  seed_jobs.job(tmp_path / 'job', 0)
  words = ['compare', str(tmp_path / 'job'), '--run=ga', '--run=mine']
  assert cli.main([*words, f'--to={tmp_path / "kept"}']) == 0
  shown = capsys.readouterr().out
  assert all(f'| {run} |' in shown for run in ('retrained', 'ga', 'mine'))
  assert 'kl_min' not in shown
  kept = seeds_lib.read_seed(tmp_path / 'kept' / 'seed0.json.gz')
  assert {row['run'] for row in kept.scores} >= {'ga', 'mine'}
  assert 'kl_min' not in {row['run'] for row in kept.scores}


def test_it_needs_a_workdir():
  with pytest.raises(SystemExit):
    cli.main(['compare'])
