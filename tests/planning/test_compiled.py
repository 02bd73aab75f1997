"""XLA is asked in a process of its own, once for each different step."""

import plans
import pytest

from mmu_jax import recipes
from mmu_jax.planning import compiled


def test_equal_steps_are_compiled_once(monkeypatch):
  compared = []
  monkeypatch.setattr(compiled, 'compare', lambda p, *_: compared.append(p))
  config = plans.config(runs=('ga', 'ga_diff', 'kl_min', 'mmunlearner'))
  compiled._compare_all(config.to_dict(), 0)
  names = [(p.stage, p.step) for p in compared]
  # The forget turns of ga, ga_diff and kl_min differ in how often they come.
  assert ('ga', 'forget') in names and ('ga_diff', 'forget') not in names
  assert len(names) == len(set(names)) < 12


@pytest.mark.slow
def test_xla_confirms_the_steps_of_a_small_config(monkeypatch):
  monkeypatch.setenv('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')  # the same peaks
  config = recipes.load('people:fast')
  config.mesh, config.model.remat = 'fsdp=2', 'none'
  with config.unlocked():
    config.runs = {'mmunlearner': config.runs['mmunlearner']}
  found = compiled.compile_job(config, devices=2)
  assert len(found) >= 4
  for c in found:
    assert c.arguments == pytest.approx(c.xla_arguments, rel=0.01), c.name
    assert c.peak == pytest.approx(c.xla_peak, rel=0.1), c.name


def test_a_failure_is_said_with_its_last_line():
  config = plans.config(path='llava-2')
  with pytest.raises(ValueError, match='compiling for 8 .*llava-1.5-7b'):
    compiled.compile_job(config, devices=8)


def test_xla_flags_of_the_environment_are_kept(monkeypatch):
  monkeypatch.setenv('XLA_FLAGS', '--xla_made_up=1')
  with pytest.raises(ValueError, match='--xla_made_up'):  # it came there
    compiled.compile_job(plans.config(), devices=8)
