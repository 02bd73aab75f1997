"""The tables of a plan are whole in 100 columns, and lose nothing in 80."""

import io
import re

import pytest
from rich import console

from mmu_jax import planning
from mmu_jax import recipes
from mmu_jax.planning import report
from mmu_jax.planning import writing

MESHES = ('fsdp=8', 'fsdp=4,tensor=2', 'data=2,fsdp=2,tensor=2', 'data=1')


def _written(plan, width):
  out = io.StringIO()
  writer = console.Console(file=out, width=width)
  for part in planning.tables(plan):
    writer.print(part)
  return out.getvalue()


@pytest.fixture(scope='module')
def config():
  return recipes.load('mllmu_bench')


@pytest.fixture(scope='module', params=MESHES)
def plan(request, config):
  return planning.plan(
    config, model='llava-1.5-7b', mesh=request.param, hbm='80GiB', chip='h100'
  )


@pytest.mark.parametrize('width', [80, 100])
def test_no_column_and_no_peak_is_lost(plan, width):
  text = _written(plan, width)
  assert max(map(len, text.splitlines())) <= width and '…' not in text
  tables = [t for t in planning.tables(plan) if hasattr(t, 'columns')]
  assert len(tables) >= 5
  words = set(text.split())
  for column in (c for t in tables for c in t.columns):
    assert set(column.header.split()) <= words, column.header
    if column.justify == 'right':
      cells = {word for cell in column.cells for word in cell.plain.split()}
      assert cells <= words, column.header
  for stage in plan.stages:
    assert writing.hundredths(stage.need.peak / 2**30) in words
    assert stage.name in words
    assert not stage.rows or {f'{stage.rows:,}', f'{stage.length:,}'} <= words


def test_peak_and_fits_come_first_and_empty_columns_are_left_out(plan):
  made = next(t for t in planning.tables(plan) if hasattr(t, 'columns'))
  titles = [c.header for c in made.columns]
  assert titles[:3] == ['stage, step', 'peak', 'fits']
  for column in made.columns:
    assert any(cell.plain for cell in column.cells), column.header


def test_bound_by_is_said_on_every_mesh(plan):
  made = [t for t in planning.tables(plan) if t.__class__.__name__ == 'Table']
  steps = next(t for t in made if t.title == 'one step on one device')
  titles = [c.header for c in steps.columns]
  assert titles[-1] == 'bound'
  assert ('tens.' in titles) == ('tensor' in plan.mesh)


def test_a_plan_for_a_chip_says_how_its_step_scales(plan):
  text = ' '.join(_written(plan, 100).split())
  for devices in (8, 16, 32, 64, 128, 256, 512, 1024):
    assert f'fsdp={devices} ' in text
  assert report.crossing(plan.scaling) in text
  assert 'XLA_CLIENT_MEM_FRACTION' in text


def test_one_device_is_one_and_brackets_are_no_markup(config):
  made = planning.plan(config, model='llava-1.5-7b', mesh='data=1')
  made = made._replace(
    model='a[red]b', trained=tuple(f'{n}[bold]' for n in made.trained)
  )
  text = _written(made, 100)
  assert '1 device\n' in text and 'a[red]b' in text
  assert 'train[bold]' in re.sub(r'\s+', ' ', text)
