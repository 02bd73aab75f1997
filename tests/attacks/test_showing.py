"""Tables and curves of attacks say how far a model is from retrained."""

import io
import re

import numpy as np
import pytest
import rich.console

from mmu_jax.attacks import ATTACKS
from mmu_jax.attacks import showing

STEPS = (0, 2, 5, 10)


def _curve(values, case='one picture', metric='exact'):
  return [
    dict(case=case, metric=metric, value=v, n=144, step=s)
    for s, v in zip(STEPS, values)
  ]


FOUND = {
  'retrained': _curve([0, 0, 0.25, 0.75]) + _curve([16, 8, 3, 1], metric='nll'),
  'mmunlearner_random': _curve([0.5, 0.75, 1, 1]),
  'ga': _curve([0, 0, 0.25, 0.75]),
}


@pytest.mark.parametrize('seed', range(3))
def test_the_area_is_the_mean_gap_over_log_steps(seed):
  """Against an integral over many points."""
  rng = np.random.default_rng(seed)
  steps = sorted(rng.choice(100, 6, replace=False).tolist())
  a, b = (dict(zip(steps, rng.random(6).tolist())) for _ in range(2))
  x = np.log2(1 + np.array(steps))
  fine = np.linspace(x[0], x[-1], 200_001)
  gap = np.interp(fine, x, [*a.values()]) - np.interp(fine, x, [*b.values()])
  assert showing.curve_area(a, b) == pytest.approx(gap.mean(), abs=1e-5)
  assert showing.curve_area(b, a) == pytest.approx(-showing.curve_area(a, b))
  shifted = {k: v + 0.25 for k, v in a.items()}
  assert showing.curve_area(shifted, a) == pytest.approx(0.25)
  assert showing.curve_area(a, {steps[0]: 0.0, 101: 1.0}) is None


def test_a_model_that_only_hides_is_far_above_retrained():
  lines = showing.lines_of(FOUND)
  area = next(line for line in lines if line.score == 'exact, area')
  assert area.values['ga'] == 0 and area.values['mmunlearner_random'] > 0.5
  assert 'retrained' not in area.values and area.summary
  assert [line.score for line in lines if line.case == 'one picture'][:3] == [
    'exact, area',
    'exact, step 0',
    'exact, step 2',
  ]


def test_scores_without_steps_are_lines_of_their_own():
  row = dict(case='int8', metric='exact', value=0.5, n=9, step=None)
  found = {'ga': [row, row | {'case': 'int4', 'value': 0.25}]}
  lines = showing.lines_of(found)
  assert [(x.case, x.score, x.values['ga']) for x in lines] == [
    ('int8', 'exact', 0.5),
    ('int4', 'exact', 0.25),
  ]
  made = showing.section(ATTACKS['relearn'], found)
  assert made['figure'] is None and not made['more']
  assert [line['cells'] for line in made['lines']] == [['.50'], ['.25']]


def test_a_section_has_areas_and_every_step_on_demand():
  made = showing.section(ATTACKS['relearn'], FOUND)
  assert {line['score'] for line in made['lines']} == {'exact, area'}
  assert len(made['more']) == 1 + 2 * len(STEPS)
  assert made['lines'][0]['cells'][0] == '–'


def test_curves_have_a_panel_for_each_case_and_a_line_for_each_model():
  more = {k: rows + _curve([0.1] * 4, 'two') for k, rows in FOUND.items()}
  figure = showing.draw_curves(more)
  axes = [ax for ax in figure.axes if ax.lines]
  assert [ax.get_title(loc='left') for ax in axes] == ['one picture', 'two']
  lines = {line.get_label(): line for line in axes[0].lines}
  assert {*lines} == {*FOUND} and lines['retrained'].get_ls() == '--'
  np.testing.assert_allclose(lines['ga'].get_ydata(), [0, 0, 0.25, 0.75])
  assert axes[0].get_ylabel() == 'exact'


def test_nats_are_drawn_where_no_answer_is_ever_given_word_for_word():
  rows = _curve([0, 0, 0, 0.01]) + _curve([9, 8, 7, 6], metric='nll')
  figure = showing.draw_curves({'ga': rows})
  assert figure.axes[0].get_ylabel() == 'nll'
  assert showing.draw_curves({'ga': _curve([0, 0, 0, 0])}) is None


def test_the_table_of_the_terminal_fits_80_columns():
  out = io.StringIO()
  found = FOUND | {f'model_number_{i}': FOUND['ga'] for i in range(9)}
  rich.console.Console(file=out, width=80).print(showing.terminal_table(found))
  text = out.getvalue()
  assert max(map(len, text.splitlines())) <= 80
  assert re.search(r'exact, area +144 +– +\.\d\d +\.00', text)
  assert 'nll, step' not in text and 'number' in text
