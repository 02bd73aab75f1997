"""What is read of a workdir, and kept of it."""

import pytest
import seed_jobs

from mmu_jax import workdir as workdir_lib
from mmu_jax.stages.across import seeds as seeds_lib
from mmu_jax.stages.across import tables


def test_a_result_that_was_edited_is_refused(tmp_path):
  seed_jobs.job(tmp_path, 0)
  path = tmp_path / 'attacks/relearn/mine/rows.jsonl'
  path.write_text(path.read_text().replace('0.2', '0.0'))
  with pytest.raises(ValueError, match='not as it was written.*attack again'):
    seeds_lib.read_seed(tmp_path)


def test_a_kept_seed_gives_the_same_tables_as_its_workdir(tmp_path):
  seeds = [seed_jobs.job(tmp_path / str(i), i, shift=0.1 * i) for i in (0, 1)]
  paths = [seeds_lib.keep_seed(seed, tmp_path / 'kept') for seed in seeds]
  assert [path.name for path in paths] == ['seed0.json.gz', 'seed1.json.gz']
  again = [seeds_lib.read_seed(path) for path in paths]
  assert again == seeds
  assert tables.seed_tables(again) == tables.seed_tables(seeds)


def test_a_kept_seed_that_was_edited_or_has_no_seal_is_refused(tmp_path):
  path = seeds_lib.keep_seed(seed_jobs.job(tmp_path, 0), tmp_path)
  path.write_bytes(path.read_bytes()[:-1] + b'0')
  with pytest.raises(ValueError, match='not as it was written.*--to'):
    seeds_lib.read_seed(path)
  path.with_name('seed0.json.gz.seal').unlink()
  with pytest.raises(ValueError, match='seal.*--to'):
    seeds_lib.read_seed(path)
  with pytest.raises(FileNotFoundError, match='there is no .*other.json.gz'):
    seeds_lib.read_seed(tmp_path / 'other.json.gz')


def test_a_kept_seed_is_replaced_by_its_own_world_alone(tmp_path):
  seed = seed_jobs.job(tmp_path / 'a', 0, attacked=())
  seeds_lib.keep_seed(seed, tmp_path / 'kept')
  more = seed_jobs.job(tmp_path / 'b', 0)
  path = seeds_lib.keep_seed(more, tmp_path / 'kept')
  assert seeds_lib.read_seed(path) == more != seed
  other = seed_jobs.job(tmp_path / 'c', 0, people=12)
  with pytest.raises(ValueError, match='of another world: .*num_forget'):
    seeds_lib.keep_seed(other, tmp_path / 'kept')
  assert seeds_lib.read_seed(path) == more


def test_an_attack_on_other_parameters_is_refused(tmp_path):
  seed_jobs.job(tmp_path, 0)
  path = tmp_path / 'attacks/relearn/mine/config.json'
  claim = workdir_lib.read_object(path)
  workdir_lib.write_json(path, claim | {'content': 'y'})
  with pytest.raises(ValueError, match="other parameters than .* 'mine'"):
    seeds_lib.read_seed(tmp_path)


def test_chosen_runs_are_kept_beside_the_references(tmp_path):
  whole = seed_jobs.job(tmp_path, 0)
  have = {row['run'] for row in whole.scores}
  chosen = min(have - {'vanilla', 'retrained'})
  found = seeds_lib.select_runs(whole, [chosen])
  kept = {chosen, 'vanilla', 'retrained'} & have
  assert kept < have
  assert {row['run'] for row in found.scores} == set(found.costs) == kept
  assert [r for r in whole.scores if r['run'] in kept] == found.scores
  for attack, models in whole.attacks.items():
    assert set(found.attacks[attack]) == set(models) & kept
  models = {k.split(' ')[-1] for k in found.settings} - {'world'}
  assert models <= kept
  none = seed_jobs.job(tmp_path / 'other', 0, attacked=('retrained',))
  assert none.attacks and not seeds_lib.select_runs(none, [chosen]).attacks
  with pytest.raises(
    ValueError, match=f'no scores of nobody, but of .*{chosen}'
  ):
    seeds_lib.select_runs(whole, [chosen, 'nobody'])
