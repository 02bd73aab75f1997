"""A plan of a config, and its tables."""

import dataclasses

import pytest

from mmu_jax import methods
from mmu_jax import models
from mmu_jax import planning
from mmu_jax import recipes
from mmu_jax.models import llava
from mmu_jax.planning import inputs
from mmu_jax.planning import layout
from mmu_jax.planning import planner
from mmu_jax.planning import remarks
from mmu_jax.planning import search
from mmu_jax.planning import writing
from mmu_jax.planning.memory import Setting
from mmu_jax.planning.programs import Program
from mmu_jax.planning.shapes import Rows


def _config(name, *variant):
  return recipes.load(':'.join([name, *variant]))


@pytest.fixture(scope='module')
def plan_7b():
  config = _config('mllmu_bench')
  keep = ('kl_min', 'mmunlearner')
  with config.unlocked():
    config.runs = {name: config.runs[name] for name in keep}
  return planning.plan(
    config, model='llava-1.5-7b', mesh='fsdp=8', hbm='16GiB', chip='v5e'
  )


def test_a_plan_of_a_published_model_needs_no_data(plan_7b):
  assert plan_7b.devices == 8 and 'no data' in plan_7b.notes[0]
  stages = {stage.name for stage in plan_7b.stages}
  assert stages == {
    'vanilla',
    'retrained',
    'importance',
    'mask',
    'kl_min',
    'mmunlearner',
    'evaluate',
  }
  # 7.06 B parameters in float32 on 8 devices: 3.29 GiB, twice that of moments.
  held = plan_7b.stages[0].need.held
  assert held['parameters'] / 2**30 == pytest.approx(3.29, abs=0.01)
  assert held['moments'] == pytest.approx(2 * held['parameters'], rel=1e-6)


def test_the_worst_stage_is_the_largest(plan_7b):
  peaks = [stage.need.peak for stage in plan_7b.stages]
  assert plan_7b.worst.peak == max(peaks)
  assert plan_7b.smallest == 'fsdp=16'


def test_memory_is_read_with_its_unit():
  assert planner.parse_size('0.5GiB') == planner.parse_size('0.5gib') == 2**29
  with pytest.raises(ValueError, match='like 16GiB'):
    planner.parse_size('16')


def test_an_estimate_near_the_limit_is_called_tight():
  judged = [writing.fits(peak, 100) for peak in (90, 91, 100, 101)]
  assert judged == ['yes', 'tight', 'tight', 'no']


@pytest.mark.parametrize(
  'values, length, message',
  [
    (dict(micro_batches=0), 0, 'at least 1'),
    (dict(offload=('moments',)), 0, 'reference'),
    ({}, -5, 'at least 577 tokens'),
    ({}, 576, 'at least 577 tokens'),
  ],
)
def test_an_option_out_of_range_is_refused(values, length, message):
  config = _config('mllmu_bench')
  config.update(values)
  with pytest.raises(ValueError, match=message):
    planning.plan(config, model='llava-1.5-7b', length=length)


def test_a_plan_of_a_benchmark_without_its_folder_says_what_to_give():
  with pytest.raises(ValueError, match='config.data.path is empty: give'):
    planning.plan(_config('mllmu_bench'))


def test_shots_lengthen_the_prompts_of_the_evaluation():
  config = _config('mllmu_bench')
  alone = inputs.read(config, 'llava-1.5-7b').prompts
  config.evaluation.shots = 2
  made = inputs.read(config, 'llava-1.5-7b').prompts
  assert (made.length, made.room) == (3 * alone.length, 3 * alone.room)


def test_rows_of_padding_and_axes_without_use_are_said(plan_7b):
  model = models.build(llava.LlavaConfig())
  jobs = [Program('vanilla', 'train', Rows(4, 640, 1), methods.finetune()[0])]
  said = lambda spec, chip='': remarks.of_job(
    jobs, model, Setting(layout.parse(spec)), chip
  )
  assert said('fsdp=64') == [
    'batches of 4 rows on 64 devices: 60 compute padding'
  ]
  assert said('fsdp=4,tensor=2') == []
  assert 'tensor=3 divides no layer of this model' in said('tensor=3')[0]
  assert '75 %' in said('fsdp=4', 'h100')[0] and not said('fsdp=4', 'v5e')
  assert [s.padding for s in plan_7b.stages if s.name == 'vanilla'] == [4]


def test_the_smallest_mesh_keeps_a_tenth_of_the_memory():
  model = models.build(llava.LlavaConfig(dtype='bfloat16', remat='full'))
  options = dict(name='hf_adamw')
  turn = methods.finetune()[0]
  jobs = [Program('vanilla', 'train', Rows(4, 640, 1), turn, options)]
  setting = Setting(layout.mesh(fsdp=4))
  peak = search.worst(jobs, model, setting).peak
  found = [
    search.smallest_mesh(jobs, model, setting, int(peak / share)).size
    for share in (0.89, 0.91)
  ]
  assert found == [4, 8]


def test_a_lever_lowers_the_peak_and_says_what_it_pads():
  model = models.build(llava.LlavaConfig(dtype='bfloat16', remat='none'))
  options = dict(name='hf_adamw')
  turn = methods.finetune()[0]
  jobs = [
    Program('vanilla', 'train', Rows(n, 640, 1), turn, options) for n in (2, 16)
  ]
  setting = Setting(layout.mesh(fsdp=4))
  now = search.worst(jobs, model, setting).peak
  found = {x.name: x for x in search.levers(jobs, model, setting)}
  assert set(found) == {
    'model.remat=dots',
    'model.remat=full',
    'micro_batches=4',
    'all of them',
  }
  assert all(lever.worst.peak < now for lever in found.values())
  assert found['micro_batches=4'].note == '2 rows are computed as 16'
  full = dataclasses.replace(model.config, remat='full')
  one = [jobs[0]._replace(rows=Rows(1, 8, 0))]
  assert not search.levers(one, models.build(full), setting)


def test_an_unknown_model_or_chip_is_refused():
  config = _config('mllmu_bench')
  with pytest.raises(ValueError, match='llava-1.5-7b'):
    planning.plan(config, model='llava-2')
  with pytest.raises(ValueError, match='v5e'):
    planning.plan(config, model='llava-1.5-7b', chip='abacus')
