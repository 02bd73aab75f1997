"""A plan has the rates, clips and limits of the config."""

import ml_collections
import numpy as np
import pytest

from mmu_jax import recipes
from mmu_jax.commands import fields
from mmu_jax.stages.budgets import plans


@pytest.mark.parametrize('warmup', [None, 0, 4])
def test_the_rates_of_a_run_rise_and_then_follow_its_schedule(warmup):
  config = recipes.load('people:fast')
  more = {} if warmup is None else {'warmup': warmup}
  run = recipes.run('ga_diff', 2e-3, schedule='cosine', rounds=10, **more)
  plan = plans.unlearning_plan(
    config.unlearn,
    ml_collections.ConfigDict(run),
    forward=None,
    streams={'forget': None, 'retain': None},
  )
  rates = [float(plan.rates['forget'](i)) for i in range(10)]
  first = warmup or 0
  rest = 0.5 * (1 + np.cos(np.pi * np.arange(10 - first) / (10 - first)))
  rise = 0.25 + 0.75 * np.arange(first) / 4
  want = 2e-3 * np.concatenate([rise, rest])
  np.testing.assert_allclose(rates, want, rtol=1e-5)
  retain = [float(plan.rates['retain'](i)) for i in range(10)]
  scale = config.unlearn.retain_rate / 2e-3
  np.testing.assert_allclose(retain, scale * want, rtol=1e-5)


def test_one_clip_norm_leaves_the_others_and_a_limit_holds_where_it_can():
  words = ['unlearn.limits.retain=5', 'runs.ga_diff.clip_norms.retain=0.5']
  config = fields.read('people:fast', [f'--config.{w}' for w in words])
  with config.unlocked():
    config.runs.ga = recipes.run('ga', 1e-4)  # it has no turn on retain
  streams = dict.fromkeys(('forget', 'retain'))
  made = {
    name: plans.unlearning_plan(
      config.unlearn, config.runs[name], forward=None, streams=streams
    )
    for name in ('ga_diff', 'ga')
  }
  assert made['ga_diff'].clip_norms == {'forget': 1.0, 'retain': 0.5}
  assert made['ga_diff'].limits == {'retain': 5}
  assert made['ga'].limits == {}
