"""Plans of runs that train adapters agree with XLA, and with arithmetic."""

import jax
import plans
import pytest

from mmu_jax import lora as lora_lib
from mmu_jax import methods
from mmu_jax import models
from mmu_jax import tree as tree_lib
from mmu_jax.planning import adapters
from mmu_jax.planning import compiled
from mmu_jax.planning import memory
from mmu_jax.planning import programs

pytestmark = pytest.mark.usefixtures('quick_compile')


def _program(method, index, on, count, **options):
  """A turn of a method that trains adapters of all linear layers."""
  model = on.model
  ends = models.MODELS[model.family].convolutions(model.config)
  targets = lora_lib.choose_targets(
    ['all-linear'], model.abstract_params, model.components, ends
  )
  kinds = lora_lib.kinds_of(turn.masked for turn in methods.make(method))
  lora = lora_lib.Lora(targets, **{'rank': 8} | options)
  program = plans.turn(method, index, count)
  return program._replace(lora=lora, kinds=kinds)


@pytest.mark.slow
@pytest.mark.parametrize(
  'spec, method, index, count',
  [('data=1', 'mmunlearner', 0, 4), ('fsdp=8', 'kl_min', 1, 12)],
)
def test_a_turn_of_adapters_needs_what_xla_says(spec, method, index, count):
  """Masked and free, and a reference that is the base."""
  on = plans.setting(spec)
  found = compiled.compare(_program(method, index, on, count), on)
  # XLA leaves out the masks of leaves without adapters.
  assert found.arguments == pytest.approx(found.xla_arguments, rel=4e-3)
  assert found.peak == pytest.approx(found.xla_peak, rel=0.1)


def test_moments_are_of_the_adapters_alone():
  """At 7B and rank 16: 0.55 GB with the adapters, and not 84 GB."""
  on = plans.setting(config=plans.LLAVA_7B)
  program = _program('ga_diff', 0, on, 4, rank=16, dtype='bfloat16')
  need, whole = (
    memory.need(program, on),
    memory.need(program._replace(lora=None, kinds=()), on),
  )
  size = sum(x.size for x in jax.tree.leaves(on.trees(program).trained))
  assert need.held['adapters'] == 4 * size
  assert need.held['moments'] == pytest.approx(8 * size, rel=1e-4)
  assert 12 * size == pytest.approx(0.55e9, rel=0.05)
  assert need.held['parameters'] * 2 == whole.held['parameters']
  assert whole.held['moments'] > 56e9
  linear = sum(x.size for x in jax.tree.leaves(on.trees(program).merged))
  assert need.largest['merged weights'] == 2 * linear
  assert need.peak < 0.45 * whole.peak


def test_a_job_plans_its_runs_with_their_adapters():
  config = plans.config(mesh='data=1')
  with config.unlocked():
    config.runs.kl_min.lora = dict(rank=4)
  _, jobs, _ = programs.read_job(config)
  found = {(p.stage, p.step): p for p in jobs}
  program = found['kl_min', 'retain']
  assert program.lora.rank == 4 and program.kinds == ('free',)
  assert not program.reference and not program.reads_reference
  assert found['mmunlearner', 'forget'].lora is None


def test_a_stage_plans_its_adapters_and_the_leaves_beside_them():
  config = plans.config(mesh='data=1')
  with config.unlocked():
    config.vanilla.lora = dict(rank=4, targets=('language',), whole=('vision',))
  setting, jobs, _ = programs.read_job(config)
  found = {p.stage: p for p in jobs}
  assert found['kl_min'].lora is None
  program = found['vanilla']
  merged = setting.trees(program).merged
  components = setting.model.components
  part = lambda name: tree_lib.component_of(name, components)
  assert {part(name) for name in merged} == {'vision', 'language'}
  assert {*merged} == {*program.lora.targets, *program.lora.whole}
  assert memory.need(program, setting).held['moments'] > 0


def test_the_trees_of_whole_weights_are_the_parameters():
  model = plans.model()
  made = adapters.trees(model, None, ())
  assert all(tree is model.abstract_params for tree in made)
