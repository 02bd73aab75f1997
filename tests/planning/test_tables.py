"""Tables of a plan: the verdict first, and no number lost in 80 columns."""

import io

import plans
import pytest
from rich import console

from mmu_jax import planning
from mmu_jax.planning import compiled
from mmu_jax.planning.tables import gib
from mmu_jax.planning.tables import verdict

MESHES = ('fsdp=8', 'data=2,fsdp=2,tensor=2', 'data=1')


def _written(plan, width):
  out = io.StringIO()
  writer = console.Console(file=out, width=width)
  for part in planning.plan_tables(plan):
    writer.print(part)
  return out.getvalue()


def _tables(plan):
  return [t for t in planning.plan_tables(plan) if hasattr(t, 'columns')]


@pytest.fixture(scope='module', params=MESHES)
def plan(request):
  config = plans.config(mesh=request.param)
  return planning.plan(config, hbm='80GiB', chip='h100')


@pytest.mark.parametrize('width', [80, 100])
def test_no_column_and_no_number_is_lost(plan, width):
  sizes = [n * 2**30 for n in (1, 3, 1, 4)]
  plan = plan._replace(checked=[compiled.Checked('vanilla train', *sizes)])
  text = _written(plan, width)
  assert max(map(len, text.splitlines())) <= width and '…' not in text
  words = set(text.split())
  for column in (c for t in _tables(plan) for c in t.columns):
    assert set(column.header.split()) <= words, column.header
    if column.justify == 'right':
      cells = {word for cell in column.cells for word in cell.plain.split()}
      assert cells and cells <= words, column.header
  for program, need in plan.stages:
    assert gib(need.peak) in words, program.stage
  assert '-25.0%' in words


def test_the_verdict_is_the_first_line(plan):
  first = _written(plan, 300).splitlines()[0]
  answer = 'does not fit' if plan.setting.mesh.size == 1 else 'fits'
  assert first.startswith(f'The job {answer} on ')
  size = gib(plan.worst[1].peak)
  assert f'{size} GiB per device' in first and 'is fsdp=4.' in first


def test_without_a_memory_the_verdict_says_how_to_give_one():
  plan = planning.plan(plans.config())
  assert '--hbm=16GiB' in verdict(plan)
  titles = [c.header for c in _tables(plan)[0].columns]
  assert titles[:2] == ['stage, step', 'peak'] and 'fits' not in titles


def test_rows_are_shown_as_they_are_computed():
  cells = _tables(planning.plan(plans.config()))[0].columns[-1].cells
  assert '8x1792' in [cell.plain for cell in cells]  # batches of 4, 8 devices
