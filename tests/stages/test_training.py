"""A run gets the mask of its kind, and a run without one gets none."""

import pathlib
import types

import ml_collections
import pytest

from mmu_jax.stages import training


@pytest.mark.parametrize(
  'kind, want',
  [('saliency', 'mask saliency'), ('random', 'mask random'), ('', None)],
)
def test_a_run_is_trained_with_the_mask_of_its_kind(monkeypatch, kind, want):
  plans = []
  streams = ml_collections.ConfigDict(dict(forget=(), retain=()))
  unlearn = types.SimpleNamespace(streams=streams, save_every=1)
  job = types.SimpleNamespace(
    config=types.SimpleNamespace(unlearn=unlearn),
    folder=pathlib.Path('work'),
    unlearned=pathlib.Path('work'),
    model=types.SimpleNamespace(forward=None),
  )
  run = types.SimpleNamespace(mask=kind, retain='retain')
  nothing = lambda *_, **__: None
  for name in ('require', 'make_stream', '_reference', 'run_claim'):
    monkeypatch.setattr(training, name, nothing)
  monkeypatch.setattr(training, '_found_finished', lambda *_: False)
  monkeypatch.setattr(training.masking, 'mask', lambda _, kind: f'mask {kind}')
  monkeypatch.setattr(
    training,
    'unlearning_plan',
    lambda config, run, **given: types.SimpleNamespace(**given),
  )
  monkeypatch.setattr(
    training, 'fit_model', lambda job, name, plan, *rest: plans.append(plan)
  )
  training.run_method(job, 'run', run, probe=False)
  assert [plan.mask for plan in plans] == [want]
