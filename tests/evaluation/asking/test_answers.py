"""A record says what was asked and answered, and outlives a kill."""

import numpy as np
import pytest

from mmu_jax import workdir
from mmu_jax.data.row import Row
from mmu_jax.distributed import preemption
from mmu_jax.evaluation.asking import answers
from mmu_jax.evaluation.asking import protocols
from mmu_jax.evaluation.asking.protocols import Question

FIXED = protocols.PROTOCOLS['fixed']


class _Example:
  """Stands for a given answer of so many tokens."""

  def __init__(self, answer, tokens):
    self.row = _row('x', answer=answer)
    self.labelled = np.array([False, *[True] * tokens])


def _row(key, **fields):
  return Row(key, f'Q {key}?', **{'answer': 'Oslo', 'fact': 'Oslo'} | fields)


@pytest.mark.parametrize('task', ['../x', '..', '/abs', 'a/b', '', None])
def test_a_task_that_leads_elsewhere_has_no_file(task, tmp_path):
  with pytest.raises(ValueError, match='the name of a task becomes a file'):
    answers.task_file(tmp_path, task)


def test_a_task_has_its_files_in_the_folder_of_the_run(tmp_path):
  assert answers.task_file(tmp_path, 'qa') == tmp_path / 'qa.jsonl'
  judged = answers.task_file(tmp_path, 'qa', 'judged.jsonl')
  assert judged == tmp_path / 'qa.judged.jsonl'


def _questions(number):
  return [Question(_row(str(i))) for i in range(number)]


def test_a_record_holds_the_row_the_prompt_and_the_text():
  row = _row('a', person='p1', task='cloze')
  found = answers.record(Question(row), FIXED, ('USER: Q a?', 'In Oslo'), ())
  assert found == {
    'key': 'a',
    'kind': 'cloze',
    'protocol': 'fixed',
    'person': 'p1',
    'picture': None,
    'question': 'Q a?',
    'answer': 'Oslo',
    'fact': 'Oslo',
    'options': [],
    'text': 'In Oslo',
    'prompt': 'USER: Q a?',
  }
  same = answers.record(Question(row), FIXED, ('Q a?', 'In Oslo'), ())
  assert 'prompt' not in same
  assert 'text' not in answers.record(Question(row), FIXED, None, ())


def test_every_given_answer_has_a_name_its_nll_and_its_tokens():
  given = [(_Example(text, n), float(n)) for n, text in enumerate('abcd', 1)]
  found = answers.record(Question(_row('a')), FIXED, None, given)
  assert [g['of'] for g in found['likelihoods']] == [
    'answer',
    'paraphrase',
    'perturbed',
    'perturbed',
  ]
  assert found['likelihoods'][2] == {
    'of': 'perturbed',
    'text': 'c',
    'nll': 3.0,
    'tokens': 3,
  }
  row = _row('b', task='classification', options=('Rome', 'Oslo'))
  found = answers.record(Question(row), FIXED, None, given[:2])
  assert [g['of'] for g in found['likelihoods']] == ['option'] * 2
  alone = answers.record(Question(_row('a')), FIXED, None, given[:1])
  assert [g['of'] for g in alone['likelihoods']] == ['answer']


def _record(question):
  return answers.record(question, FIXED, ('', f'to {question.row.key}'), ())


def _asker(questions, asked, stop_at=None):
  """Answers two questions at a time, and remembers which."""

  def ask(done):
    left = [q for q in questions if q.row.key not in done]
    for i in range(0, len(left), 2):
      if i == stop_at:
        raise KeyboardInterrupt
      asked.extend(q.row.key for q in left[i : i + 2])
      yield [_record(q) for q in left[i : i + 2]]

  return ask


def test_a_stopped_task_goes_on_behind_a_line_that_was_cut_off(tmp_path):
  path, asked, counted = tmp_path / 'forget_qa.jsonl', [], []
  questions = _questions(5)
  with pytest.raises(KeyboardInterrupt):
    answers.complete(
      _asker(questions, asked, stop_at=2), questions, path, counted.append
    )
  assert not path.exists() and asked == ['0', '1']
  partial = tmp_path / 'forget_qa.partial.jsonl'
  with partial.open('a') as file:
    file.write('{"key": "2", "te')
  with pytest.warns(UserWarning, match='is cut off'):
    answers.complete(_asker(questions, asked), questions, path, counted.append)
  assert asked == ['0', '1', '2', '3', '4']
  assert answers.read_records(path) == [_record(q) for q in questions]
  assert not partial.exists()
  assert sum(counted) == 2 + 5  # of each call


def test_answers_are_kept_in_the_order_of_their_questions(tmp_path):
  questions = _questions(4)
  path = tmp_path / 'a.jsonl'
  ask = _asker(questions[::-1], [])
  answers.complete(ask, questions, path, lambda n: None)
  assert [a['key'] for a in answers.read_records(path)] == ['0', '1', '2', '3']


def test_a_file_that_lacks_an_answer_is_completed(tmp_path):
  """As when the last line is lost in a power cut."""
  path, asked, questions = tmp_path / 'a.jsonl', [], _questions(3)
  workdir.write_jsonl(path, [_record(q) for q in questions[:2]])
  left = answers.unanswered(questions, answers.read_records(path))
  assert [q.row.key for q in left] == ['2']
  answers.complete(_asker(questions, asked), questions, path, lambda n: None)
  assert asked == ['2']
  assert not answers.unanswered(questions, answers.read_records(path))


def test_a_preempted_process_keeps_its_answers(tmp_path, monkeypatch):
  monkeypatch.setattr(preemption, 'requested', lambda number: number == 1)
  path = tmp_path / 'vanilla' / 'a.jsonl'
  questions = _questions(3)
  with pytest.raises(preemption.Preempted, match='vanilla: the answers to a'):
    answers.complete(_asker(questions, []), questions, path, lambda n: None)
  assert len(answers.read_records(path.with_suffix('.partial.jsonl'))) == 2


def test_files_of_an_earlier_version_are_refused(tmp_path):
  path = tmp_path / 'vanilla' / 'forget_qa.jsonl'
  assert answers.read_records(path) == []
  workdir.write_jsonl(path, [{'key': 'a', 'task_kind': 'cloze', 'correct': 1}])
  with pytest.raises(ValueError, match='Delete the folder .*vanilla and run'):
    answers.read_records(path)
