"""Every run is drawn, in a colour of its own."""

import colours
import numpy as np
import pytest
from shown import benchmark_row
from shown import BENCHMARKS
from shown import MASKS
from shown import mllmu
from shown import people
from shown import people_row
from shown import RUNS
from shown import SCORES
from shown import undefined

from mmu_jax import recipes
from mmu_jax.evaluation.report import plots


def test_every_plot_draws_something_for_every_run():
  probe = {'forget_vqa_holdout': 0.2, 'retain_vqa': 0.9, 'forget_qa': 0.9}
  history = {'mmunlearner': [{'round': 10, 'probe': probe}], 'new_method': []}
  results = [*people(), *people({'new_method': SCORES['ga_diff']})]
  figures = (
    plots.tradeoff(results),
    plots.trajectory(history, results),
    plots.bars(results),
    plots.mask_density(MASKS),
  )
  for figure in figures:
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3]
    coloured = np.ptp(pixels.astype(int), axis=-1) > 40
    assert coloured.mean() > 1e-4
  names = {text.get_text() for text in figures[0].axes[0].texts}
  assert names == {*SCORES, 'new_method'}


def test_an_undefined_score_has_no_point_and_no_bar():
  results = undefined(mllmu(), 'accuracy')
  for ax in plots.tradeoff(results).axes:
    assert {text.get_text() for text in ax.texts} == {*RUNS} - {'mmunlearner'}
  words, widths = [], []
  for ax in plots.bars(results).findobj(lambda x: hasattr(x, 'barh')):
    words += [text.get_text() for text in ax.texts]
    widths += [bar.get_width() for bar in ax.patches]
  assert words.count('undefined') == 7
  assert len(widths) == len(words) - 7 and min(widths) > 0


def test_a_probe_that_was_undefined_is_left_out_of_the_way():
  probe = {'forget_vqa_holdout': 0.2, 'retain_vqa': 0.9, 'forget_qa': 0.9}
  rows = [probe, probe | {'retain_vqa': None}, probe | {'forget_qa': 0.8}]
  history = {'mine': [{'round': i, 'probe': p} for i, p in enumerate(rows)]}
  left, _ = plots.trajectory(history, people()).axes
  assert [len(line.get_xdata()) for line in left.lines][0] == 2


def test_a_run_keeps_its_colour_whoever_else_is_shown():
  alone = plots.styles(['mmunlearner'])['mmunlearner']
  assert plots.styles(['mine', 'ga', 'mmunlearner'])['mmunlearner'] == alone
  everything = plots.styles([*plots.styles(SCORES), 'npo', 'mine', 'yours'])
  assert len(set(everything.values())) == len(everything)


@pytest.mark.parametrize(
  'name', ('counterfactual', 'mmunlearner_counterfactual')
)
def test_a_counterfactual_run_is_told_apart_by_every_reader(name):
  """By at least 20 in CIELAB, where black and white differ by 100."""
  runs = ('vanilla', *recipes.load('people').runs)
  colour = {run: colour for run, (colour, _) in plots.styles(runs).items()}
  mine = colour.pop(name)
  assert min(colours.distance(mine, other) for other in colour.values()) > 20


def test_masks_of_the_counterfactual_turn_are_named_in_words():
  note = MASKS['mmunlearner']
  names = ('saliency', 'turn', 'turn_topk', 'turn_random')
  figure = plots.mask_density({k: note | {'kind': k} for k in names})
  (legend,) = figure.legends
  shown = dict(zip((t.get_text() for t in legend.texts), legend.get_patches()))
  turn = 'counterfactual turn'
  assert [*shown] == ['saliency', turn, f'{turn}, top-k', f'{turn}, random']
  assert len({patch.get_facecolor() for patch in shown.values()}) == 4
  style = plots.styles(['mmunlearner_counterfactual'])
  colour = figure.axes[1].lines[1].get_color()  # of the run that uses it
  assert colour == style['mmunlearner_counterfactual'][0]


@pytest.mark.parametrize('name', BENCHMARKS)
def test_the_tradeoff_shows_forget_against_retain_around_the_scores(name):
  results = BENCHMARKS[name]()
  left, right = plots.tradeoff(results).axes
  assert left.get_ylabel().startswith('retain VQA')
  assert right.get_ylabel().startswith('forget QA')
  for ax in (left, right):
    assert {text.get_text() for text in ax.texts} == set(RUNS)
    low, high = ax.get_xlim()
    assert 0 < low < 0.33 and 0.47 < high < 0.85


def test_every_compared_score_has_a_panel():
  titles = [
    ax.get_title('left')
    for ax in plots.bars(mllmu()).findobj(
      lambda x: hasattr(x, 'get_title') and hasattr(x, 'barh')
    )
  ]
  assert len([t for t in titles if t]) == 21
  assert sum('chance' in t for t in titles) == 7


def test_bars_stay_within_their_panel_and_titles_beside_each_other():
  bits = [
    people_row(r, 'forget_vqa_holdout', 2.0, 'choice_exposure') for r in SCORES
  ]
  nats = [people_row(r, 'forget_vqa_holdout', 16.0, 'nll') for r in SCORES]
  figure = plots.bars([*people(), *bits, *nats])
  figure.canvas.draw()
  axes = [
    ax for ax in figure.findobj(lambda x: hasattr(x, 'barh')) if ax.patches
  ]
  assert len(axes) == 8
  for ax in axes:
    assert max(bar.get_width() for bar in ax.patches) <= ax.get_xlim()[1]
  titles = [
    ax.title if ax.get_title() else ax._left_title  # where it is drawn
    for ax in axes
  ]
  boxes = [title.get_window_extent() for title in titles]
  for i, box in enumerate(boxes):
    assert not any(box.overlaps(other) for other in boxes[:i])


def test_the_retrained_star_is_in_front():
  for ax in plots.tradeoff(people()).axes:
    order = {line.get_marker(): line.get_zorder() for line in ax.lines}
    star = order.pop('*')
    assert star > max(order.values())


def test_plots_are_cropped_to_the_data():
  low = {
    run: (0.3, 0.3 + i / 50, 0.9, 0.9, 1, 0.7, 1, 0.4)
    for i, run in enumerate(SCORES)
  }
  for ax in plots.tradeoff(people(low)).axes:
    left, right = ax.get_xlim()
    assert 0.2 < left < 0.27 and 0.4 < right < 0.47


def test_own_sentences_are_plotted_by_a_score_that_tells_models_apart():
  rows = [
    benchmark_row(run, task, metric, value, layout='own')
    for run, rouge in (('vanilla', 0.9), ('retrained', 0.3), ('ga', 0.4))
    for task in ('forget_vqa_holdout', 'retain_vqa', 'forget_qa')
    for metric, value in (('contains', 0.0), ('rougeL', rouge))
  ]
  left, right = plots.tradeoff(rows).axes
  assert left.get_xlabel().startswith('holdout VQA, ROUGE-L')
  assert left.get_ylabel().startswith('retain VQA, ROUGE-L')
  assert right.get_ylabel().startswith('forget QA, ROUGE-L')
  alone = [r for r in rows if r['task'] != 'forget_qa']
  assert len(plots.tradeoff(alone).axes) == 1
