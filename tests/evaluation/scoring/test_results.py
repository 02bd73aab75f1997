"""Every model has its rows, and all but the retrained one are compared."""

import json

import answered
import pytest
from shown import people
from shown import people_row

from mmu_jax import errors
from mmu_jax.evaluation.scoring import results
from mmu_jax.workdir import seals

TASKS = [answered.task(name) for name in ('forget_vqa', 'real_qa')]
STEPS = {'vanilla': 3, 'retrained': 4, 'ga': 5}


def _answers(right):
  """So many of four cloze questions right, and four choices."""
  cloze = [answered.cloze(int(i < right), f'{i}') for i in range(4)]
  choices = [
    answered.choice([1, 1 + right, 2], f'c{i}', text='B') for i in range(4)
  ]
  return [(task, cloze + choices) for task in TASKS]


ANSWERS = {'vanilla': _answers(4), 'retrained': _answers(0), 'ga': _answers(1)}


@pytest.fixture(scope='module')
def rows():
  return results.score_all(ANSWERS, STEPS, retrained='retrained')


def test_every_model_and_task_has_its_own_scores(rows):
  found = {(r['run'], r['task']): r for r in rows if r['metric'] == 'cloze'}
  assert {key: r['value'] for key, r in found.items()} == {
    (run, task.name): value
    for run, value in (('vanilla', 1), ('retrained', 0), ('ga', 0.25))
    for task in TASKS
  }
  assert {r['run']: r['step'] for r in rows} == STEPS


def test_rows_come_model_by_model_and_then_the_comparisons(rows):
  compared = [r for r in rows if r['metric'] == 'js_divergence']
  assert rows[-len(compared) :] == compared
  assert [(r['run'], r['task']) for r in compared] == [
    (run, task.name) for run in ('vanilla', 'ga') for task in TASKS
  ]
  runs = [r['run'] for r in rows[: -len(compared)]]
  assert list(dict.fromkeys(runs)) == list(STEPS)
  assert runs == sorted(runs, key=list(STEPS).index)


def test_each_model_has_one_utility(rows):
  found = [r['run'] for r in rows if r['metric'] == 'model_utility']
  assert found == list(STEPS)


def test_nothing_is_compared_without_the_retrained_model():
  alone = results.score_all({'ga': ANSWERS['ga']}, STEPS, retrained='retrained')
  assert {r['metric'] for r in alone} >= {'cloze', 'model_utility'}
  assert 'js_divergence' not in {r['metric'] for r in alone}
  bare = results.score_all(ANSWERS, STEPS)
  assert not {'js_divergence', 'model_utility'} & {r['metric'] for r in bare}


@pytest.fixture(name='folder')
def _folder(tmp_path):
  """A workdir whose scores are written with its settings."""
  for name in ('config.json', 'manifest.json'):
    (tmp_path / name).write_text(json.dumps({'seed': 3}))
  results.write(tmp_path, people(), {'left_out': {}})
  return tmp_path


def test_scores_are_read_with_their_note(folder):
  rows, note = results.read(folder)
  assert rows == people() and note['left_out'] == {}


@pytest.mark.parametrize('name', ['config.json', 'manifest.json'])
def test_settings_that_were_edited_or_lost_are_refused(folder, name):
  (folder / name).write_text(json.dumps({'seed': 4}))
  with pytest.raises(ValueError, match=f'{name} is not the one.*mmu evaluate'):
    results.read(folder)
  (folder / name).unlink()
  with pytest.raises(ValueError, match=f'{name} is not the one'):
    results.read(folder)


@pytest.mark.parametrize('left', [0, 1, 31])
def test_scores_that_were_cut_are_refused(folder, left):
  path = folder / results.NAME
  path.write_text(''.join(path.read_text().splitlines(True)[:left]))
  with pytest.raises(ValueError, match=f'{left} lines instead of 32'):
    results.read(folder)


def test_scores_that_are_not_there_or_not_finished_are_missing(folder):
  seals.remove(folder / results.NAME)
  with pytest.raises(errors.MissingError, match='not finished.*mmu evaluate'):
    results.read(folder)
  (folder / results.NAME).unlink()
  with pytest.raises(errors.MissingError, match='`mmu evaluate`'):
    results.read(folder)


@pytest.mark.parametrize('value', [float('inf'), 'high', [1]])
def test_a_score_without_a_number_is_refused(tmp_path, value):
  row = people_row('ga', 'forget_qa', 0.0) | {'value': value}
  results.write(tmp_path, [row], {})
  with pytest.raises(ValueError, match='a finite value'):
    results.read(tmp_path)


def test_a_score_without_its_task_is_refused(tmp_path):
  row = people_row('ga', 'forget_qa', 0.0)
  del row['role']
  results.write(tmp_path, [row], {})
  with pytest.raises(ValueError, match='role missing in'):
    results.read(tmp_path)
