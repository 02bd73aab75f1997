"""Workdirs of several seeds beside each other, from their files."""

import math

import pytest
import shown

from mmu_jax import workdir as workdir_lib
from mmu_jax.evaluation.scoring import results
from mmu_jax.stages import across
from mmu_jax.workdir import seals

RUNS = ('vanilla', 'retrained', 'ga', 'kl_min', 'mine')
# Exact match of forget VQA and QA, and what relearning gives, by run.
FORGET = (1.0, 0.0, 0.6, 0.4, 0.1)
BACK = (1.0, 0.2, 0.9, 0.5, 0.2)


def _curve(case, values):
  return [
    dict(case=case, metric='exact', value=value, n=9, step=step)
    for step, value in zip((0, 2, 6), values)
  ]


def _job(folder, seed, shift=0.0, attacked=RUNS, people=6, rate=1e-3):
  """A workdir with scores, logs and attacks, and no parameters."""
  world = {'seed': seed, 'data': {'num_forget': people}, 'content': seed}
  workdir_lib.write_json(folder / workdir_lib.WORLD, world)
  workdir_lib.write_json(folder / 'unlearned/mine/config.json', {'rate': rate})
  for name in ('config', 'manifest'):
    workdir_lib.write_json(folder / f'{name}.json', {})
  scores = {
    run: (forget, forget, 1, 0.9, 1, 0.7, 1, min(1, forget + shift))
    for run, forget in zip(RUNS, FORGET)
  }
  note = {'predictions': 'predictions', 'models': dict.fromkeys(RUNS, 'x')}
  results.write(folder, shown.people(scores), note)
  log = [{'round': i, 'time': 10.0 + 4 * i} for i in range(4)]
  workdir_lib.write_log(folder / 'unlearned' / 'mine' / 'timing.jsonl', log)
  for run, forget, back in zip(RUNS, FORGET, BACK):
    if run in attacked:
      rows = _curve('one picture', (forget, forget, back))
      path = folder / 'attacks' / 'relearn' / run / 'rows.jsonl'
      claim = dict(attack='relearn', model=run, content='x', settings={})
      workdir_lib.write_json(path.with_name('config.json'), claim)
      seals.write_rows(path, rows, f'relearn/{run}')
  return across.read_seed(folder)


def test_means_and_ranges_over_seeds_are_in_every_table(tmp_path):
  seeds = [_job(tmp_path / str(i), i, shift=0.1 * i) for i in (0, 1)]
  made = across.seed_tables(seeds)
  assert list(made) == [
    'Scores',
    'Costs',
    'Attack: relearn',
    'Which scores tell models apart',
  ]
  assert 'over seeds 0, 1' in made['Scores']
  (mine,) = [x for x in made['Scores'].splitlines() if x.startswith('| mine')]
  assert '.15 (.10–.20)' in mine  # four-choice, .1 and .2
  rounds, seconds = seeds[0].costs['mine']
  assert seconds == 12 and f'| mine | {rounds} | 12 (12–12) |' in made['Costs']
  x = [math.log2(1 + step) for step in (0, 2, 6)]
  gaps = [0.1, 0.1, 0.0]  # of mine to retrained
  area = sum(
    (b - a) * (p + q) / 2 for a, b, p, q in zip(x, x[1:], gaps, gaps[1:])
  )
  (line,) = [x for x in made['Attack: relearn'].splitlines() if 'area' in x]
  models = ['vanilla', 'ga', 'kl_min', 'mine']
  assert made['Attack: relearn'].startswith('| case | score | vanilla | retr')
  cells = [cell.strip() for cell in line.split('|')[3:-1]]
  want = f'{area / x[-1]:.2f}'.replace('0.', '.')
  assert cells[-1] == f'{want} ({want}–{want})' and cells[1] == '–'
  assert len(models) == sum(cell != '–' for cell in cells)


def test_a_score_in_the_order_of_relearning_says_so(tmp_path):
  seed = _job(tmp_path, 0)
  away, wanted = across.closeness(seed)
  assert away['forget VQA, held-out images']['ga'] == pytest.approx(0.6)
  assert set(wanted['relearning']) == set(RUNS) - {'retrained'}
  lines = across.seed_tables([seed])[
    'Which scores tell models apart'
  ].splitlines()
  (held,) = [x for x in lines if x.startswith('| forget VQA, held-out')]
  assert held.endswith('| 1.00 | 1.00 |')
  assert not any('retain QA' in line for line in lines)  # equal everywhere


def test_few_models_have_no_order_and_jobs_without_attacks_no_table(tmp_path):
  made = across.seed_tables([_job(tmp_path, 0, attacked=())])
  assert 'Attack: relearn' not in made and 'Scores' in made
  made = across.seed_tables([_job(tmp_path / 'b', 0, attacked=RUNS[:3])])
  lines = made['Which scores tell models apart'].splitlines()[2:]
  assert all(line.endswith('– |') for line in lines if line.startswith('|'))


def test_equal_seeds_and_other_kinds_of_data_are_refused(tmp_path):
  one, two = _job(tmp_path / 'a', 3), _job(tmp_path / 'b', 3)
  with pytest.raises(ValueError, match=r'different seeds; got \[3, 3\]'):
    across.seed_tables([one, two])
  other = two._replace(
    seed=4, scores=[row | {'layout': 'clear'} for row in two.scores]
  )
  with pytest.raises(ValueError, match="one kind of data; got .'clear', 'peop"):
    across.seed_tables([one, other])


def test_a_result_that_was_edited_is_refused(tmp_path):
  _job(tmp_path, 0)
  path = tmp_path / 'attacks/relearn/mine/rows.jsonl'
  path.write_text(path.read_text().replace('0.2', '0.0'))
  with pytest.raises(ValueError, match='not as it was written.*attack again'):
    across.read_seed(tmp_path)


def test_a_kept_seed_gives_the_same_tables_as_its_workdir(tmp_path):
  seeds = [_job(tmp_path / str(i), i, shift=0.1 * i) for i in (0, 1)]
  paths = [across.keep_seed(seed, tmp_path / 'kept') for seed in seeds]
  assert [path.name for path in paths] == ['seed0.json.gz', 'seed1.json.gz']
  again = [across.read_seed(path) for path in paths]
  assert again == seeds
  assert across.seed_tables(again) == across.seed_tables(seeds)


def test_a_kept_seed_that_was_edited_or_has_no_seal_is_refused(tmp_path):
  path = across.keep_seed(_job(tmp_path, 0), tmp_path)
  path.write_bytes(path.read_bytes()[:-1] + b'0')
  with pytest.raises(ValueError, match='not as it was written.*--to'):
    across.read_seed(path)
  path.with_name('seed0.json.gz.seal').unlink()
  with pytest.raises(ValueError, match='seal.*--to'):
    across.read_seed(path)
  with pytest.raises(FileNotFoundError, match='there is no .*other.json.gz'):
    across.read_seed(tmp_path / 'other.json.gz')


def test_a_kept_seed_is_replaced_by_its_own_world_alone(tmp_path):
  seed = _job(tmp_path / 'a', 0, attacked=())
  across.keep_seed(seed, tmp_path / 'kept')
  more = _job(tmp_path / 'b', 0)
  path = across.keep_seed(more, tmp_path / 'kept')
  assert across.read_seed(path) == more != seed
  other = _job(tmp_path / 'c', 0, people=12)
  with pytest.raises(ValueError, match='of another world: .*num_forget'):
    across.keep_seed(other, tmp_path / 'kept')
  assert across.read_seed(path) == more


@pytest.mark.parametrize(
  'change, words',
  [
    ({'people': 12}, 'the world of seeds 0 and 1 differs: .*num_forget'),
    ({'rate': 0.1}, 'the model mine of seeds 0 and 1 differs: .*rate'),
  ],
)
def test_jobs_that_differ_in_more_than_the_seed_are_refused(
  tmp_path, change, words
):
  seeds = [_job(tmp_path / 'a', 0), _job(tmp_path / 'b', 1, **change)]
  with pytest.raises(ValueError, match=words):
    across.seed_tables(seeds)


def test_an_attack_on_other_parameters_is_refused(tmp_path):
  _job(tmp_path, 0)
  path = tmp_path / 'attacks/relearn/mine/config.json'
  claim = workdir_lib.read_object(path)
  workdir_lib.write_json(path, claim | {'content': 'y'})
  with pytest.raises(ValueError, match="other parameters than .* 'mine'"):
    across.read_seed(tmp_path)
