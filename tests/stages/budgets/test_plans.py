"""A plan has the rates, clips and limits of the config."""

import ml_collections
import numpy as np
import pytest
import toy

from mmu_jax import errors
from mmu_jax import recipes
from mmu_jax.commands import fields
from mmu_jax.settings import table as settings
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


def test_fields_of_a_run_come_before_the_adapters_of_all_runs():
  words = ['unlearn.lora.rank=4', 'runs.ga_diff.lora.alpha=6']
  words += ['runs.npo.lora.rank=0', "runs.ga_diff.lora.targets=('language',)"]
  config = fields.read('people:fast', [f'--config.{w}' for w in words])
  config = ml_collections.ConfigDict(settings.restored(config.to_dict()))
  found = lambda name: plans.lora_settings(config.unlearn, config.runs[name])
  whole = dict(rslora=False, dtype='float32')
  own = dict(rank=4, alpha=6.0, targets=['language'])
  assert found('ga_diff') == own | whole
  every = dict(rank=4, alpha=32.0, targets=['all-linear'])
  assert found('mmunlearner') == every | whole
  assert found('npo') is None
  plain = recipes.load('people:fast')
  assert plans.lora_settings(plain.unlearn, plain.runs.ga_diff) is None


def test_adapters_are_of_the_leaves_that_the_config_names():
  words = ["runs.ga_diff.lora.targets=('language','.*/fc1/kernel')"]
  config = fields.read('people:fast', [f'--config.{w}' for w in words])
  lora = plans.adapters_of(config.unlearn, config.runs.ga_diff, toy.llava(), 7)
  assert (lora.rank, lora.scale, lora.seed) == (16, 2.0, 7)
  assert len(lora.targets) == 8 and any('fc1' in n for n in lora.targets)
  config.runs.ga_diff.lora.targets = ('embedding',)
  with pytest.raises(errors.UserError, match="'embedding' names none"):
    plans.adapters_of(config.unlearn, config.runs.ga_diff, toy.llava())


def test_a_leaf_that_is_trained_whole_has_no_factors():
  words = ["runs.ga_diff.lora.whole=('projector',)"]
  config = fields.read('people:fast', [f'--config.{w}' for w in words])
  lora = plans.adapters_of(config.unlearn, config.runs.ga_diff, toy.llava())
  kernels = [name for name in lora.whole if name.endswith('kernel')]
  assert len(kernels) == 2 and len(lora.targets) > 2
  assert not {*lora.whole} & {*lora.targets}
