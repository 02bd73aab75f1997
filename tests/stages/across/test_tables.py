"""Workdirs of several seeds beside each other, from their files."""

import math

import pytest
import seed_jobs

from mmu_jax.stages.across import tables


def test_means_and_ranges_over_seeds_are_in_every_table(tmp_path):
  seeds = [seed_jobs.job(tmp_path / str(i), i, shift=0.1 * i) for i in (0, 1)]
  made = tables.seed_tables(seeds)
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
  seed = seed_jobs.job(tmp_path, 0)
  away, wanted = tables.closeness(seed)
  assert away['forget VQA, held-out images']['ga'] == pytest.approx(0.6)
  assert set(wanted['relearning']) == set(seed_jobs.RUNS) - {'retrained'}
  lines = tables.seed_tables([seed])[
    'Which scores tell models apart'
  ].splitlines()
  (held,) = [x for x in lines if x.startswith('| forget VQA, held-out')]
  assert held.endswith('| 1.00 | 1.00 |')
  assert not any('retain QA' in line for line in lines)  # equal everywhere


def test_few_models_have_no_order_and_jobs_without_attacks_no_table(tmp_path):
  made = tables.seed_tables([seed_jobs.job(tmp_path, 0, attacked=())])
  assert 'Attack: relearn' not in made and 'Scores' in made
  made = tables.seed_tables(
    [seed_jobs.job(tmp_path / 'b', 0, attacked=seed_jobs.RUNS[:3])]
  )
  lines = made['Which scores tell models apart'].splitlines()[2:]
  assert all(line.endswith('– |') for line in lines if line.startswith('|'))


def test_equal_seeds_and_other_kinds_of_data_are_refused(tmp_path):
  one, two = seed_jobs.job(tmp_path / 'a', 3), seed_jobs.job(tmp_path / 'b', 3)
  with pytest.raises(ValueError, match=r'different seeds; got \[3, 3\]'):
    tables.seed_tables([one, two])
  other = two._replace(
    seed=4, scores=[row | {'layout': 'clear'} for row in two.scores]
  )
  with pytest.raises(ValueError, match="one kind of data; got .'clear', 'peop"):
    tables.seed_tables([one, other])


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
  seeds = [
    seed_jobs.job(tmp_path / 'a', 0),
    seed_jobs.job(tmp_path / 'b', 1, **change),
  ]
  with pytest.raises(ValueError, match=words):
    tables.seed_tables(seeds)
