"""The benchmark's lines: figures of small models, and their meaning."""

import itertools
import json
import sys

import bench
import families
import jax
import measuring
import numpy as np
import pytest
import rows_asking
import rows_costs
import rows_device
import rows_learning
import rows_memory
import subjects

from mmu_jax import models

pytestmark = pytest.mark.usefixtures('quick_compile')


@pytest.fixture(scope='module')
def subject():
  """A model of a few weights, without torch."""
  with pytest.MonkeyPatch.context() as patch:
    size = subjects.Size((16, 16, 1, 2), (16, 16, 2, 2), 24)
    patch.setitem(subjects.SIZES, 'tiny', size)
    yield subjects.load('tiny', torch=False)


def test_calls_take_turns_in_both_orders(monkeypatch):
  said = []
  clock = itertools.count()
  monkeypatch.setattr(measuring.time, 'perf_counter', lambda: next(clock))
  ways = {name: (lambda name=name: said.append(name)) for name in 'ab'}
  found = measuring.take_turns(ways, 3)
  assert ''.join(said) == 'ab' + 'ab' + 'ba' + 'ab'  # the first two compile
  assert found == {'a': [1, 1, 1], 'b': [1, 1, 1]}


def test_ratios_are_repeat_by_repeat(monkeypatch, tmp_path):
  times = {'ours': [1.0, 2.0, 4.0], 'base': [1.0, 1.0, 1.0], 'torch': [2.0] * 3}
  monkeypatch.setattr(measuring, 'take_turns', lambda ways, repeats: times)
  over = {'ours': 'base'}
  (line,) = measuring.compare('row', 'm', {}, 3, over, {'ours': 'torch'})
  assert line.ratio == [1, 2, 4] and line.torch == [2, 1, 0.5]
  cells = [x.strip() for x in measuring.shown(line).split('|')[1:-1]]
  assert cells == ['row', 'm', 'ours', '2', 's', '2 (1-4)', 'base', '1 (0.5-2)']
  measuring.write(tmp_path / 'made' / 'b.json', [line], torch='none')
  found = json.loads((tmp_path / 'made' / 'b.json').read_text())
  assert found['lines'][0]['ratio'] == [1, 2, 4] and found['torch'] == 'none'
  (line,) = measuring.compare('row', 'm', {}, 3, over, {'ours': 'absent'})
  assert line.torch == []


def test_an_importance_a_mask_and_rounds_are_checked_and_timed(
  subject, monkeypatch
):
  found = list(rows_learning.importance(subject, 1))
  assert [line.way for line in found] == ['importance', 'backward', 'mask']
  monkeypatch.setattr(rows_learning, 'METHODS', ('mmunlearner',))
  found = list(rows_learning.rounds(subject, 1))
  assert [line.way for line in found] == [
    'mmunlearner plain',
    'mmunlearner packed',
  ]
  assert all(len(line.values) == len(line.ratio) == 1 for line in found)


def test_answers_are_timed_and_a_token_needs_less_than_the_cache(
  subject, monkeypatch
):
  monkeypatch.setattr(rows_asking, 'NEW_TOKENS', 3)
  found = list(rows_asking.evaluation(subject, 1))
  assert [line.way for line in found] == ['batched', 'one at a time']
  found = list(rows_asking.decoding(subject, 1))
  assert all(0 < line.ratio[0] < 1.2 for line in found)


@pytest.mark.skipif(sys.platform != 'linux', reason='Linux alone counts it')
def test_the_peak_of_a_call_is_found_though_it_is_given_back():
  call = lambda: np.ones(2**24).sum()  # 128 MiB
  for _ in range(2):
    assert rows_memory.raised(call) == pytest.approx(2**27, rel=0.1)


def test_bytes_a_weight_are_what_is_held_and_what_a_step_raises(monkeypatch):
  taken = []
  monkeypatch.setattr(rows_memory, '_held_ours', lambda: 16_000)
  monkeypatch.setattr(
    rows_memory, 'raised', lambda take: taken.append(take()) or 4_000
  )
  size = subjects.Size((16, 16, 1, 2), (16, 16, 2, 2), 24)
  monkeypatch.setitem(subjects.SIZES, 'little', size)
  params = subjects.load('little', torch=False).params
  weights = sum(x.size for x in jax.tree.leaves(params))
  for step in rows_memory.STEPS:
    found = rows_memory.measure('little', step, 'ours')
    assert found == 20_000 / weights
  assert len(taken) == 3


@pytest.mark.skipif(sys.platform != 'linux', reason='Linux alone counts it')
def test_each_step_has_a_line(subject, monkeypatch):
  told = []
  monkeypatch.setattr(
    rows_memory, '_process', lambda *words: told.append(words) or 20.0
  )
  lines = list(rows_memory.memory(subject, 2))
  assert [line.way for line in lines] == list(rows_memory.STEPS)
  assert len(told) == 6 and lines[0].values == [20.0, 20.0]


def test_a_cost_is_a_share_of_the_ceiling(monkeypatch):
  monkeypatch.setattr(rows_costs, 'WIDE', 64)
  monkeypatch.setattr(rows_costs, 'ANSWER', 4)
  size = subjects.Size((16, 16, 1, 2), (16, 16, 2, 2), 24)
  monkeypatch.setitem(subjects.SIZES, 'tiny', size)
  line = rows_costs._cost('tokens', 'here', 'tiny', 100, 2, 16, 1)
  assert line.ratio[0] > 0 and line.over == 'matmul ceiling'


@pytest.mark.parametrize('name', rows_device.NAMES)
def test_the_lines_of_a_device_run_with_small_models(name, monkeypatch):
  family = 'qwen2_vl' if 'qwen' in name else 'llava'

  def build(name, layers=0, remat='full'):
    options = families.CASES[family].options
    how = dict(dtype='bfloat16', remat=remat)
    return models.from_options(family, 64, **options, **how)

  monkeypatch.setattr(rows_device, 'build', build)
  monkeypatch.setattr(rows_device, 'NAMES', (name,))
  monkeypatch.setattr(rows_device, 'NEW_TOKENS', 2)
  found = list(rows_device.lines(layers=1, repeats=1))
  assert [(line.row, line.way) for line in found if line.unit == 'GiB'] == [
    ('importance', 'peak'),
    ('round, mmunlearner', 'peak'),
  ]
  assert {line.row.split(',')[0] for line in found} == {
    'ceiling',
    'forward',
    'backward',
    'importance',
    'decode',
    'round',
  }


def test_a_row_that_is_not_there_is_refused(capsys):
  with pytest.raises(SystemExit):
    bench.main(['--only=speed'])
  assert 'importance, round, evaluation' in capsys.readouterr().err
