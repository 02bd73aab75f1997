"""Scores mean what their tasks say, whatever the tasks are called."""

import pytest
from results import result
from shown import benchmark_row
from shown import clear
from shown import mllmu
from shown import people
from shown import people_row

from mmu_jax.evaluation.report import plots
from mmu_jax.evaluation.report import scored
from mmu_jax.evaluation.report import summary
from mmu_jax.evaluation.report import table

VALUES = {  # vanilla, retrained, ga
  'forget_vqa': (1.0, 0.0, 0.1),
  'forget_vqa_holdout': (0.9, 0.0, 0.2),
  'forget_qa': (1.0, 1.0, 0.6),
  'retain_vqa': (0.9, 0.9, 0.8),
  'retain_qa': (1.0, 1.0, 0.9),
  'real_vqa': (0.7, 0.7, 0.5),
  'real_qa': (1.0, 1.0, 1.0),
}
NAMES = dict(zip(VALUES, 'one two three four five six seven'.split()))
HISTORY = {
  'ga': [{'probe': dict.fromkeys(VALUES, value)} for value in (0.9, 0.5, 0.3)]
}


def _results(names=None, **changes):
  """Scores of three runs; tasks by other names, some fields changed."""
  return [
    result(run, task, 'exact_match', values[i])
    | changes.get(task, {})
    | {'task': (names or {}).get(task, task)}
    for i, run in enumerate(('vanilla', 'retrained', 'ga'))
    for task, values in VALUES.items()
  ]


@pytest.mark.parametrize('names', [{'forget_vqa': 'pictures'}, NAMES])
def test_a_renamed_task_keeps_its_meaning(names):
  plain, renamed = _results(), _results(names)
  assert scored.rows(renamed) == scored.rows(plain)
  assert summary.headline(renamed) == summary.headline(plain)


@pytest.mark.parametrize(
  'empty, gibberish, marked',
  [(1.0, 0.0, True), (0.0, 0.97, True), (0.3, 0.25, True), (0.2, 0.2, False)],
)
@pytest.mark.parametrize('kind', ['', 'choice_', 'cloze_'])
def test_a_run_whose_answers_are_no_answers_is_marked(
  kind, empty, gibberish, marked
):
  row = lambda what, value: benchmark_row(
    'mmunlearner', 'forget_vqa', f'{kind}{what}', value
  )
  results = [*mllmu(), row('empty', empty), row('gibberish', gibberish)]
  found = scored.unusable(results)
  assert set(found) == ({'mmunlearner'} if marked else set())
  if marked:
    assert f'{100 * (empty + gibberish):.0f} % of' in found['mmunlearner']
    assert 'forget_vqa' in found['mmunlearner']


def test_utility_is_of_headlines_to_keep_and_distance_of_all_tasks():
  cells = scored.rows(_results())['ga']
  assert cells['utility'].value == pytest.approx((0.6 + 0.8 + 0.9 + 0.5) / 4)
  apart = 0.1 + 0.2 + 0.4 + 0.1 + 0.1 + 0.2 + 0
  assert cells['distance'].value == pytest.approx(apart / 7)


def test_a_task_that_is_no_headline_is_not_in_the_utility():
  cells = scored.rows(_results(real_vqa={'headline': False}))['ga']
  assert cells['utility'].value == pytest.approx((0.6 + 0.8 + 0.9) / 3)


def test_a_task_to_forget_is_not_in_the_utility():
  cells = scored.rows(_results(forget_qa={'role': 'forget'}))['ga']
  assert cells['utility'].value == pytest.approx((0.8 + 0.9 + 0.5) / 3)


def test_headlines_are_found_by_role():
  tasks = scored.tasks_in(_results())
  names = lambda role: [task.name for task in scored.headlines(tasks, role)]
  assert names('forget') == ['forget_vqa_holdout']
  assert names('keep') == ['forget_qa', 'retain_vqa', 'retain_qa', 'real_vqa']


def test_the_trajectory_goes_by_meaning():
  left, right = plots.trajectory(HISTORY, _results()).axes
  assert left.get_xlabel().startswith('forget VQA, held-out images')
  assert right.get_ylabel().startswith('forget QA')
  drawn = lambda ax: [line.get_xydata().tolist() for line in ax.lines]
  assert [0.9, 0.9] in [xy for path in drawn(left) for xy in path]
  assert [0.2, 0.6] not in [xy for path in drawn(right) for xy in path]


def test_scores_that_do_not_say_what_they_mean_are_refused():
  row = {k: v for k, v in _results()[0].items() if k != 'role'}
  with pytest.raises(ValueError, match='run `mmu evaluate` again'):
    scored.rows([row])


def _all_about(tasks, layout, metric):
  """Scores of three runs; tasks by name are ``(values, changed fields)``."""
  return [
    result(run, task, metric, values[i], layout=layout) | changes
    for i, run in enumerate(('vanilla', 'retrained', 'ga'))
    for task, (values, changes) in tasks.items()
  ]


OF_LAYOUTS = pytest.mark.parametrize(
  'layout, metric',
  [
    ('people', 'exact_match'),
    ('mllmu_bench', 'accuracy'),
    ('clear', 'accuracy'),
  ],
)


@OF_LAYOUTS
def test_a_task_of_no_dataset_has_a_column_and_counts(layout, metric):
  """A request made later: another task with the same split and modality."""
  more = {'role': 'forget', 'headline': False}
  tasks = {
    'forget_vqa': ((1.0, 0.0, 0.1), {}),
    'forget_qa': ((1.0, 1.0, 1.0), {}),
    'forget_vqa_later': ((0.9, 0.1, 0.5), more | {'holdout': False}),
    'retain_vqa_later': ((0.9, 0.9, 0.7), {'holdout': False}),
  }
  results = _all_about(tasks, layout, metric)
  cells = scored.rows(results)['ga']
  others = scored.shown_blocks(results)[-1]
  assert others.title == 'other tasks'
  wanted = {column.about.name: column.wanted for column in others.columns}
  assert wanted == {'forget_vqa_later': '↓'}
  assert cells[f'forget_vqa_later/{metric}'].value == 0.5
  known = (0.1 + 0) + (0.4 + 0.2)  # forget_vqa, forget_qa and the two others
  assert cells['distance'].value == pytest.approx(known / 4)
  assert 'forget_vqa_later' in table.markdown_table(results)


@OF_LAYOUTS
def test_the_verdict_is_about_another_task_where_the_usual_one_is_missing(
  layout, metric
):
  fields = {'split': 'forget', 'modality': 'audio', 'holdout': False}
  tasks = {
    'songs': ((1.0, 0.0, 0.02), fields | {'role': 'forget'}),
    'lyrics': ((1.0, 1.0, 0.7), fields | {'role': 'keep'}),
  }
  results = _all_about(tasks, layout, metric)
  _, happened, figures, text, *_ = summary.headline(results)
  assert 'no longer recognises' in happened and 'but it lost' in happened
  assert figures.startswith('Questions of songs: 2% ')
  assert '100% before, 0% retrained' in figures
  assert text.startswith('Knowledge in text about them: 70% ')


def test_utility_and_distance_are_those_worked_by_hand():
  cells = scored.rows(people())
  # mmunlearner: forget QA 1.00, retain VQA .93, retain QA 1.00, real VQA .67.
  assert cells['mmunlearner']['utility'].value == pytest.approx(3.6 / 4)
  # Against retrained: .05 + .05 + 0 + .03 + 0 + .05 + 0 over seven tasks.
  assert cells['mmunlearner']['distance'].value == pytest.approx(0.18 / 7)
  # ga_diff: 0 + .01 + .75 + .08 + .01 + .10 + 0.
  assert cells['ga_diff']['distance'].value == pytest.approx(0.95 / 7)
  assert cells['retrained']['distance'].value == 0


def test_a_missing_task_leaves_a_gap_and_not_another_mean():
  results = [
    r for r in people() if (r['run'], r['task']) != ('ga_diff', 'retain_qa')
  ]
  cells = scored.rows(results)['ga_diff']
  assert not {'utility', 'distance', 'retain_qa'} & set(cells)
  assert '–' in table.markdown_table(results)


def test_the_last_score_of_a_task_holds():
  again = people_row('mmunlearner', 'forget_qa', 0.8)
  cells = scored.rows([*people(), again])
  assert cells['mmunlearner']['forget_qa'].value == 0.8


def test_the_distance_is_the_mean_over_accuracy_rouge_and_cloze():
  cells = scored.rows(mllmu())['mmunlearner']
  # .02 + .02 + .03 + .01 + .06 + .01 + .01 over seven tasks, the same thrice.
  assert cells['distance'].value == pytest.approx(0.16 / 7)
  assert cells['utility'] == pytest.approx((0.4, 0.36, 0.44, 15))
  names = scored.rows(clear())['mmunlearner']
  assert names['distance'].value == pytest.approx(0.04 / 8)
