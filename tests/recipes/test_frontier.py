"""The runs beside the demo: valid, and comparable with it."""

import pytest

from mmu_jax import recipes
from mmu_jax.recipes import frontier
from mmu_jax.settings import table
from mmu_jax.stages.budgets import mask_specs as specs
from mmu_jax.stages.budgets import run_rules


@pytest.mark.parametrize('variant', [*frontier.VARIANTS, 'all', 'fast'])
def test_every_run_is_valid_and_starts_from_the_models_of_people(variant):
  config = recipes.load(f'frontier:{variant}')
  table.check(config)
  for name in config.runs:
    run_rules.run_settings(config, name)
  like = recipes.load('people:fast' if variant == 'fast' else 'people')
  for part in ('data', 'model', 'base', 'vanilla', 'unlearn', 'saliency'):
    assert _without_streams(config[part]) == _without_streams(like[part]), part
  streams = config.unlearn.streams.to_dict()
  for name, stream in like.unlearn.streams.to_dict().items():
    assert streams[name] == stream, name


def _without_streams(part):
  return {k: v for k, v in part.to_dict().items() if k != 'streams'}


def test_budgets_are_those_of_counterfactual():
  """As many rows a round to keep, rounds, schedule and retain rate."""
  config = recipes.load('frontier:budget')
  rows = lambda name: sum(p['size'] for p in config.unlearn.streams[name])
  want = recipes.load('people').runs.counterfactual
  assert rows('mixed_retain') == rows(want.retain) == 34
  runs = [run for name, run in config.runs.items() if name.endswith('_120')]
  assert len(runs) == 5
  for run in runs:
    assert run.retain == 'mixed_retain' and run.retain_rate == want.rate
    for field in ('rounds', 'schedule', 'warmup'):
      assert run[field] == want[field]


def test_masks_have_controls_of_their_density():
  config = recipes.load('frontier:masks')
  for density in frontier.DENSITIES:
    name = f'turn_{100 * density:.0f}'
    made = specs.spec(config, name)
    assert made['density'] == density and made['preserve_loss'] == 'margin'
    assert set(made['protects']['language']) > {'text', 'forget_text'}
    for kind in ('random', 'topk'):
      control = specs.spec(config, f'{name}_{kind}')
      assert (control['kind'], control['of']) == (kind, name)
  own = specs.importances(config, specs.spec(config, 'saliency'))
  for name, which in specs.importances(config, made).items():
    assert not which.own and which.folder.startswith(f'{name}-')
  assert {which.folder for which in own.values()} == {*own}


def test_ablations_change_parts_of_counterfactual_60():
  config = recipes.load('frontier:ablations')
  runs = {name: run.to_dict() for name, run in config.runs.items()}
  want = runs.pop('counterfactual_60')
  assert (
    want == recipes.load('frontier:budget').runs.counterfactual_60.to_dict()
  )
  changed = {
    name: {
      field for field in {*want, *run} if run.get(field) != want.get(field)
    }
    for name, run in runs.items()
  }
  assert changed['cf_no_ascent'] == changed['cf_whole_answers'] == {'options'}
  assert runs['cf_whole_answers']['options']['spared'] == 0
  for name in ('cf_no_ascent', 'cf_rehearsal'):
    assert runs[name]['options']['weight'] == 1e-6
  assert changed['cf_random_teacher'] == {'teacher'}
  assert changed['cf_30'] == {'rounds'}
  assert changed['cf_little_text'] == changed['cf_people_alone'] == {'retain'}
  streams = config.unlearn.streams
  text, less = streams.mixed[2], streams.mixed_little_text[2]
  assert text['splits'] == less['splits'] == ('qa:everybody',)
  assert (text['size'], text['weight']) == (8, 1.0)
  assert (less['size'], less['weight']) == (4, 0.5)
  assert streams.mixed_people == streams.mixed[:3]
  short = streams.mixed_short
  assert short == (streams.mixed[0], *streams.retain) and len(short) == 3


def test_adapters_are_of_three_methods_and_change_no_other_run():
  config = recipes.load('frontier:lora')
  runs = {name: run.to_dict() for name, run in config.runs.items()}
  methods = {run['method'] for run in runs.values()}
  assert methods == {'ga_diff', 'npo_retain', 'mmunlearner'}
  assert all(run['lora']['rank'] == 16 for run in runs.values())
  every = recipes.load('frontier:all').runs
  assert sum('lora' in run for run in every.values()) == 3


def test_the_reported_runs_are_at_both_budgets_and_some_are_attacked():
  config = recipes.load('frontier:reported')
  short = recipes.load('people').runs
  for name in ('ga_diff', 'kl_min', 'npo_retain', 'mmunlearner'):
    one, other = config.runs[name], config.runs[f'{name}_120']
    assert one.method == other.method and other.rounds == 120
  assert {*short} < {*config.runs}
  assert all(config.runs[name] == run for name, run in short.items())
  attacked = config.attacks.relearn.models
  assert {*attacked} - {*config.runs} == {'retrained'} and len(attacked) == 7
