"""Own data is judged by whatever its rows let measure, in its own words."""

import answered
import pytest

from mmu_jax.data.readers import reading
from mmu_jax.data.row import Row
from mmu_jax.evaluation.report import scored
from mmu_jax.evaluation.report import summary
from mmu_jax.evaluation.report import table
from mmu_jax.evaluation.scoring import results as results_lib

ROBOTS = {
  f'r{i}': f'Robot {name}' for i, name in enumerate(('Zed', 'Ano', 'Bix'))
}
COLOURS = ('red', 'blue', 'green', 'grey', 'pink')
RIGHT = {'vanilla': 1.0, 'retrained': 0.0, 'ga_diff': 0.0}


def _answer(key, right, robot='r0', options=False, protocol='fixed'):
  """Whether a robot's colour was known; with likelihoods, as recorded."""
  name = ROBOTS[robot]
  given = [answered.likelihood('answer', 1.0 if right else 40.0, 8)]
  text = f'{name} is {"red" if right else "blue"}.'
  common = dict(
    person=robot, answer=f'{name} is red.', fact='red', protocol=protocol
  )
  if options:
    nll = [1.0 if (c == 'red') == right else 9.0 for c in COLOURS]
    choices = [
      answered.likelihood('option', x, 8, f'{name} is {colour}.')
      for x, colour in zip(nll, COLOURS)
    ]
    common |= {'options': [choice['text'] for choice in choices]}
    return answered.answer(
      key, 'classification', text='A', likelihoods=choices, **common
    ) | {'options': common['options']}
  return answered.answer(key, text=text, likelihoods=given, **common)


def _results(tasks, runs=RIGHT, options=False, names=ROBOTS):
  """Scores of runs that know 60 answers of each task, or not."""
  row = Row('k', 'Q?', 'A', 'A')
  made = reading.make_tasks({task: [row] for task in tasks}).values()
  share = lambda run, task: (
    runs[run] if (task.split, task.modality) == ('forget', 'vqa') else 1.0
  )
  answers = {
    run: [
      (
        task,
        [
          _answer(f'{i}/{kind}', i < 60 * share(run, task), f'r{i % 3}', kind)
          for i in range(60)
          for kind in ((False, True) if options else (False,))
        ],
      )
      for task in made
    ]
    for run in runs
  }
  steps = dict.fromkeys(runs, 5)
  rows = results_lib.score_all(
    answers, steps, retrained='retrained', names=names
  )
  asked = {'protocol': 'fixed', 'shots': 0, 'layout': 'own'}
  return [row | asked for row in rows]


WHOLE = [
  (split, kind)
  for split in ('forget', 'holdout', 'retain', 'real')
  for kind in ('vqa', 'qa')
]


def test_every_measured_score_has_a_table_in_the_words_of_the_file():
  results = _results(WHOLE, options=True)
  blocks = {b.title: b for b in scored.shown_blocks(results)}
  assert list(blocks) == [
    'exact match',
    'fact',
    'ROUGE-L',
    'answer probability',
    'options, the likeliest',
    'options, by letter',
    'traces of the forgotten',
    'the model as a whole',
  ]
  wanted = ' '.join(f'{c.title}{c.wanted}' for c in blocks['fact'].columns)
  assert wanted == (
    'forget VQA↓ holdout VQA↓ forget QA↑ holdout QA↑ retain VQA↑ retain QA↑ '
    'real VQA↑ real QA↑'
  )
  traces = [
    f'{c.metric}{c.wanted}' for c in blocks['traces of the forgotten'].columns
  ]
  assert traces == [
    *('names_another≈', 'names_another≈', 'nll≈', 'nll≈'),
    *('js_divergence↓', 'js_divergence↓'),
  ]
  assert scored.rows(results)['ga_diff']['holdout VQA/contains'].value == 0


@pytest.mark.parametrize(
  'tasks',
  [
    WHOLE,
    [('forget', 'vqa')],
    [('forget', 'vqa'), ('retain', 'vqa')],
    [('forget', 'vqa'), ('holdout', 'vqa'), ('retain', 'qa')],
    [('forget', 'vqa'), ('forget', 'qa'), ('retain', 'qa')],
  ],
)
@pytest.mark.parametrize('retrained', [True, False])
@pytest.mark.parametrize('options', [True, False])
def test_whatever_was_measured_is_judged(tasks, retrained, options):
  runs = {k: v for k, v in RIGHT.items() if retrained or k != 'retrained'}
  results = _results(tasks, runs, options=options)
  said = summary.headline(results, 'ga_diff')
  text = ' '.join(said)
  assert said[0].startswith('A model was asked to forget 3 entities:')
  assert 'After unlearning with ga_diff it no longer recognises them' in said[1]
  assert 'cannot be judged' not in text and 'people' not in text
  assert 'None of the 3 entities has a right answer.' in said
  assert ('There is no retrained model' in text) != retrained
  kept = len(tasks) > 1
  assert ('Nothing that is to be kept was measured' in text) != kept
  assert (' it kept what it knows' in said[1]) == kept
  new = ('holdout', 'vqa') in tasks
  assert said[2].startswith('New pictures' if new else 'Pictures')
  assert 'fact' in table.markdown_table(results)


@pytest.mark.parametrize('named', [True, False])
def test_ids_that_no_answer_holds_are_said_to_name_nobody(named):
  """A column `person` of ids: nothing can be said of others that are named."""
  names = ROBOTS if named else {key: key for key in ROBOTS}
  said = ' '.join(summary.headline(_results(WHOLE, names=names), 'ga_diff'))
  assert ('name another known entity' in said) == named
  assert ('Whether its answers name another entity is not m' in said) != named


def test_a_method_that_forgot_nothing_is_said_to_have():
  runs = RIGHT | {'ga_diff': 1.0}
  said = summary.headline(_results(WHOLE, runs, options=True), 'ga_diff')
  assert 'it still recognises them, but it kept' in said[1]
  assert 'above chance, so something is left' in ' '.join(said)
  assert 'Robot' in ' '.join(said)


def test_chance_is_one_over_the_number_of_options():
  results = _results(WHOLE, options=True)
  assert '(0%, chance 20%) is below chance' in ' '.join(
    summary.headline(results, 'ga_diff')
  )
