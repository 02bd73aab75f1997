"""Workdirs with scores, logs and attacks of some models, and no parameters."""

import shown

from mmu_jax import workdir as workdir_lib
from mmu_jax.evaluation.scoring import results
from mmu_jax.stages.across import seeds as seeds_lib
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


def job(folder, seed, shift=0.0, attacked=RUNS, people=6, rate=1e-3):
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
  return seeds_lib.read_seed(folder)
