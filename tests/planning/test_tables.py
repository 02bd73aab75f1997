"""Tables of a plan: the verdict first, and no number lost in 80 columns."""

import io

import plans
import pytest
from rich import console

from mmu_jax import planning
from mmu_jax.planning import compiled
from mmu_jax.planning import memory
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
  first, second = _written(plan, 80).splitlines()[:2]
  assert first == {
    'fsdp=8': 'Fits on fsdp=8; fsdp=2 is enough.',
    'data=2,fsdp=2,tensor=2': (
      'Fits on data=2,fsdp=2,tensor=2; fsdp=2 is enough.'
    ),
    'data=1': 'Does not fit on data=1; fsdp=2 does.',
  }.get(memory.mesh_line(plan.setting.mesh))
  program, need = plan.worst
  size = f'{gib(need.peak)} of 80.00 GiB per device'
  assert second == f'The peak is {size}, in {program.name}.'


@pytest.mark.parametrize(
  'share, smallest, said',
  [
    (1.2, 'fsdp=8', 'Fits on fsdp=8.'),
    (1.2, '', 'Fits on fsdp=8.'),
    (1.05, 'fsdp=16', 'Fits on fsdp=8, just; fsdp=16 has 10 % to spare.'),
    (0.9, '', 'Does not fit on fsdp=8; no mesh of up to 1,024 devices does.'),
  ],
)
def test_the_verdict_names_a_mesh_where_there_is_another(share, smallest, said):
  plan = planning.plan(plans.config())
  hbm = int(plan.worst[1].peak * share)
  made = plan._replace(hbm=hbm, smallest=smallest)
  assert verdict(made).splitlines()[0] == said


def test_no_name_is_broken_in_80_columns():
  names = {'mmunlearner_random', 'mmunlearner_topk', 'kl_min'}
  plan = planning.plan(plans.config(runs=names), hbm='16GiB', chip='v5e')
  for line in _written(plan, 80).splitlines():
    assert len(line) <= 80
    names -= set(line.replace(',', ' ').split())
  assert not names


def test_without_a_memory_the_verdict_says_how_to_give_one():
  plan = planning.plan(plans.config())
  assert '--hbm=16GiB' in verdict(plan)
  titles = [c.header for c in _tables(plan)[0].columns]
  assert titles[:2] == ['stage, step', 'peak'] and 'fits' not in titles


def test_rows_are_shown_as_they_are_computed():
  cells = _tables(planning.plan(plans.config()))[0].columns[-1].cells
  assert '8x1792' in [cell.plain for cell in cells]  # batches of 4, 8 devices


def test_a_turn_on_two_batches_shows_the_rows_of_both(plan):
  beside = memory.Rows(20, 64, 1)
  program = plans.turn('counterfactual', count=6, beside=beside)
  _, need = plan.stages[0]
  made = plan._replace(stages=[(program, need)])
  (cell,) = _tables(made)[0].columns[-1].cells
  parts = plan.setting.mesh.size // plan.setting.mesh.shape['tensor']
  count = lambda rows: -(-rows // parts) * parts
  assert cell.plain == f'{count(6)}x104, {count(20)}x64'
