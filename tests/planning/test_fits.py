"""What fits: the verdict, the smallest mesh, the levers."""

import dataclasses

import plans
import pytest

from mmu_jax import planning
from mmu_jax.planning import fits
from mmu_jax.planning import memory


@pytest.fixture(scope='module')
def plan():
  return planning.plan(plans.config(), hbm='16GiB')


def test_seven_billion_parameters_on_eight_devices_of_16_gib_do_not_fit(plan):
  held = plan.stages[0][1].held
  # 7.06 B parameters in float32 on 8 devices.
  assert held['parameters'] / plans.GIB == pytest.approx(3.29, abs=0.01)
  program, need = plan.worst
  assert (program.stage, program.step) == ('kl_min', 'retain')
  assert need.peak == max(n.peak for _, n in plan.stages)
  assert need.peak / plans.GIB == pytest.approx(18.13, abs=0.01)
  assert plan.smallest == 'fsdp=16'


def test_levers_lower_the_peak_of_a_job_that_does_not_fit(plan):
  assert set(plan.levers) == {"offload=('reference',)", 'all of them'}
  saved = plan.worst[1].peak - plan.levers["offload=('reference',)"]
  assert saved / plans.GIB == pytest.approx(3.19, abs=0.01)
  large = planning.plan(plans.config(), hbm='80GiB')
  assert not large.levers and large.smallest == 'fsdp=2'


def test_a_batch_that_leaves_devices_idle_is_named_with_a_mesh_that_does_not():
  jobs = [plans.turn('finetune', 0, 4), plans.turn('finetune', 0, 7)]
  note = fits.padding_note(jobs, plans.setting('fsdp=8'))
  assert '4 rows on 8 parts, so 50% of a step is padding' in note
  assert 'fsdp=4,tensor=2, or 8 rows' in note
  for count, rows in ((5, 8), (6, 8), (9, 16)):  # 3 parts of 8 are no mesh
    few = plans.turn('finetune', 0, count)
    note = fits.padding_note([few], plans.setting('fsdp=8'))
    assert f'take --config.mesh=fsdp=2,tensor=4, or {rows} rows' in note
  few = plans.turn('finetune', 0, 1)
  assert 'take 2 rows' in fits.padding_note([few], plans.setting('fsdp=2'))
  for mesh in ('fsdp=4', 'fsdp=4,tensor=2', 'data=1'):
    assert fits.padding_note(jobs, plans.setting(mesh)) == ''
  assert fits.padding_note(jobs[1:], plans.setting('fsdp=8')) == ''


def test_memory_is_read_with_its_unit():
  assert fits.parse_size('0.5GiB') == fits.parse_size('0.5gib') == 2**29
  for text in ('16', '16 parsecs', '0GiB'):
    with pytest.raises(ValueError, match='like 16GiB'):
      fits.parse_size(text)


def test_a_peak_near_the_limit_is_tight_and_one_above_does_not_fit():
  judged = [fits.fit_of(peak, 100) for peak in (90, 91, 100, 101)]
  assert judged == ['yes', 'tight', 'tight', 'no']


def test_the_smallest_mesh_keeps_a_tenth_of_the_memory():
  jobs = [plans.turn('finetune', 0, 4, 640)]
  on = plans.setting('fsdp=4', config=plans.LLAVA_7B)
  peak = memory.need(jobs[0], on).peak
  found = [
    fits.smallest_mesh(jobs, on, int(peak / share)) for share in (0.89, 0.91)
  ]
  assert found == ['fsdp=4', 'fsdp=8']
  assert fits.smallest_mesh(jobs, on, 2**20) == ''


def test_each_lever_that_helps_is_named():
  config = dataclasses.replace(plans.LLAVA_7B, remat='none')
  jobs = [plans.turn('finetune', 0, count, 640) for count in (2, 16)]
  on = plans.setting('fsdp=4', config=config)
  now = max(memory.need(p, on).peak for p in jobs)
  found = fits.levers(jobs, on)
  assert set(found) == {'model.remat=full', 'micro_batches=4', 'all of them'}
  assert all(peak < now for peak in found.values())


def test_an_unknown_chip_is_refused():
  with pytest.raises(ValueError, match='v5e.*abacus'):
    planning.plan(plans.config(), chip='abacus')
