"""A plan of a config, and its tables."""

import importlib.util
import io
import pathlib

import pytest
from rich import console

from mmu_jax import planning
from mmu_jax.planning import planner
from mmu_jax.planning import report

CONFIGS = pathlib.Path(__file__).parents[2] / 'configs'


def _config(name, *variant):
  path = CONFIGS / f'{name}.py'
  spec = importlib.util.spec_from_file_location(name, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config(*variant)


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
      'vanilla', 'importance', 'mask', 'kl_min', 'mmunlearner', 'evaluate'
  }  # fmt: skip
  # 7.06 B parameters in float32 on 8 devices: 3.29 GiB, twice that of moments.
  held = plan_7b.stages[0].need.held
  assert held['parameters'] / 2**30 == pytest.approx(3.29, abs=0.01)
  assert held['moments'] == pytest.approx(2 * held['parameters'], rel=1e-6)


def test_the_worst_stage_is_the_largest(plan_7b):
  peaks = [stage.need.peak for stage in plan_7b.stages]
  assert plan_7b.worst.peak == max(peaks)
  assert plan_7b.smallest == 'fsdp=16'


def test_the_tables_fit_a_hundred_columns(plan_7b):
  out = io.StringIO()
  writer = console.Console(file=out, width=100)
  for part in planning.tables(plan_7b):
    writer.print(part)
  text = out.getvalue()
  assert max(map(len, text.splitlines())) <= 100
  assert '…' not in text and 'The job does not fit' in text


def test_memory_is_read_with_its_unit():
  assert planner.parse_size('0.5GiB') == 2**29
  with pytest.raises(ValueError, match='like 16GiB'):
    planner.parse_size('16')


def test_an_estimate_near_the_limit_is_called_tight():
  judged = [report.fits(peak, 100) for peak in (90, 91, 100, 101)]
  assert judged == ['yes', 'tight', 'tight', 'no']


def test_an_unknown_model_or_chip_is_refused():
  config = _config('mllmu_bench')
  with pytest.raises(ValueError, match='llava-1.5-7b'):
    planning.plan(config, model='llava-2')
  with pytest.raises(ValueError, match='v5e'):
    planning.plan(config, model='llava-1.5-7b', chip='abacus')
