"""A record says what was asked and answered, and outlives a kill."""

import pathlib
import warnings

import numpy as np
import pytest

from mmu_jax import errors
from mmu_jax import workdir
from mmu_jax.data.row import Row
from mmu_jax.distributed import preemption
from mmu_jax.evaluation.asking import answers
from mmu_jax.evaluation.asking import protocols
from mmu_jax.evaluation.asking.protocols import Question
from mmu_jax.workdir import seals

MODEL = 'a1b2'  # the content of the parameters that answer
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


def _complete(ask, questions, path, update=lambda n: None, source=MODEL):
  answers.complete(ask, questions, path, update, source=source)


def test_a_stopped_task_goes_on_behind_a_line_that_was_cut_off(tmp_path):
  path, asked, counted = tmp_path / 'forget_qa.jsonl', [], []
  questions = _questions(5)
  with pytest.raises(KeyboardInterrupt):
    _complete(
      _asker(questions, asked, stop_at=2), questions, path, counted.append
    )
  assert not path.exists() and asked == ['0', '1']
  partial = tmp_path / 'forget_qa.partial.jsonl'
  with partial.open('a') as file:
    file.write('{"key": "2", "te')
  with pytest.warns(UserWarning, match='is cut off'):
    _complete(_asker(questions, asked), questions, path, counted.append)
  assert asked == ['0', '1', '2', '3', '4']
  assert answers.read_records(path) == [_record(q) for q in questions]
  assert not partial.exists()
  assert sum(counted) == 2 + 5  # of each call


def test_answers_are_kept_in_the_order_of_their_questions(tmp_path):
  questions = _questions(4)
  path = tmp_path / 'a.jsonl'
  ask = _asker(questions[::-1], [])
  _complete(ask, questions, path)
  assert [a['key'] for a in answers.read_records(path)] == ['0', '1', '2', '3']


def test_a_file_that_lacks_an_answer_is_completed(tmp_path):
  """As when a question was added."""
  path, asked, questions = tmp_path / 'a.jsonl', [], _questions(3)
  _complete(_asker(questions[:2], []), questions[:2], path)
  left = answers.unanswered(questions, answers.read_records(path))
  assert [q.row.key for q in left] == ['2']
  _complete(_asker(questions, asked), questions, path)
  assert asked == ['2']
  assert not answers.unanswered(questions, answers.read_records(path))
  assert answers.mismatch(path, MODEL) == ''


def _cut(path):
  path.write_text(''.join(path.read_text().splitlines(True)[:2]))


def _edit(path):
  path.write_text(path.read_text().replace('to 1', 'to 7'))


def _swap(path):
  other = path.with_name('b.jsonl')
  _complete(_asker(_questions(3), []), _questions(3), other)
  path.write_bytes(other.read_bytes())
  seal, others = (p.with_name(p.name + '.seal') for p in (path, other))
  seal.write_bytes(others.read_bytes())


def _unseal(path):
  path.with_name(path.name + '.seal').unlink()


def _garble(path):
  path.with_name(path.name + '.seal').write_text('{')


@pytest.mark.parametrize('harm', [_cut, _edit, _swap, _unseal, _garble])
def test_answers_that_are_not_as_written_are_asked_again(tmp_path, harm):
  path, asked, questions = tmp_path / 'a.jsonl', [], _questions(3)
  _complete(_asker(questions, []), questions, path)
  whole = path.read_bytes()
  harm(path)
  harmed = path.read_bytes()
  assert answers.mismatch(path, MODEL)
  with pytest.raises(ValueError, match='a.jsonl'):
    answers.read_records(path)
  with pytest.warns(errors.DamageWarning, match='a.jsonl.damaged'):
    _complete(_asker(questions, asked), questions, path)
  assert asked == ['0', '1', '2'] and path.read_bytes() == whole
  assert path.with_name('a.jsonl.damaged').read_bytes() == harmed
  assert answers.mismatch(path, MODEL) == ''


def test_answers_of_other_parameters_are_asked_again(tmp_path):
  path, asked, questions = tmp_path / 'a.jsonl', [], _questions(2)
  _complete(_asker(questions, []), questions, path)
  assert 'other parameters' in answers.mismatch(path, 'others')
  with pytest.warns(errors.DamageWarning):
    _complete(_asker(questions, asked), questions, path, source='others')
  assert asked == ['0', '1']


def test_a_kill_between_a_file_and_its_seal_loses_no_answer(
  tmp_path, monkeypatch
):
  path, asked, questions = tmp_path / 'a.jsonl', [], _questions(3)

  def killed(*_):
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(seals, 'seal', killed)
    with pytest.raises(KeyboardInterrupt):
      _complete(_asker(questions, []), questions, path)
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    _complete(_asker(questions, asked), questions, path)
  assert asked == [] and answers.mismatch(path, MODEL) == ''
  assert not list(tmp_path.glob('*.damaged'))


def test_a_cut_seal_beside_a_partial_file_loses_no_answer(
  tmp_path, monkeypatch
):
  path, asked, questions = tmp_path / 'a.jsonl', [], _questions(3)
  with monkeypatch.context() as patch:
    patch.setattr(pathlib.Path, 'unlink', lambda *_, **__: None)  # a kill
    _complete(_asker(questions, []), questions, path)
  assert path.with_suffix('.partial.jsonl').exists()
  seal = path.with_name('a.jsonl.seal')
  seal.write_bytes(seal.read_bytes()[:20])
  with pytest.warns(errors.DamageWarning, match='a.jsonl.damaged'):
    _complete(_asker(questions, asked), questions, path)
  assert asked == [] and answers.mismatch(path, MODEL) == ''
  assert [p.name for p in sorted(tmp_path.iterdir())] == [
    'a.jsonl',
    'a.jsonl.damaged',
    'a.jsonl.seal',
  ]


def test_a_preempted_process_keeps_its_answers(tmp_path, monkeypatch):
  monkeypatch.setattr(preemption, 'requested', lambda number: number == 1)
  path = tmp_path / 'vanilla' / 'a.jsonl'
  questions = _questions(3)
  with pytest.raises(preemption.Preempted, match='vanilla: the answers to a'):
    _complete(_asker(questions, []), questions, path)
  head, *kept = workdir.read_log(path.with_suffix('.partial.jsonl'))
  assert head == {'source': MODEL} and len(kept) == 2


def test_a_line_twice_in_a_partial_file_changes_nothing(tmp_path):
  path, questions = tmp_path / 'a.jsonl', _questions(3)
  for number in range(3):
    with pytest.raises(KeyboardInterrupt):
      _complete(_asker(questions, [], stop_at=2), questions, path)
    partial, asked = path.with_suffix('.partial.jsonl'), []
    lines = partial.read_text().splitlines(True)
    partial.write_text(''.join(lines[: number + 1] + lines[number:]))
    _complete(_asker(questions, asked), questions, path)
    assert asked == ['2']
    assert answers.read_records(path) == [_record(q) for q in questions]
    path.unlink()


@pytest.mark.parametrize('lines', [slice(1, None), slice(0, 0), None])
def test_a_partial_file_of_another_source_is_put_aside(tmp_path, lines):
  """Also one that lost its first line, or all."""
  path, asked, questions = tmp_path / 'a.jsonl', [], _questions(4)
  partial = path.with_suffix('.partial.jsonl')
  with pytest.raises(KeyboardInterrupt):
    stopped = _asker(questions, [], stop_at=2)
    other = MODEL if lines else 'others'
    _complete(stopped, questions, path, source=other)
  if lines:
    kept = partial.read_text().splitlines(True)[lines]
    partial.write_text(''.join(kept))
  with pytest.warns(errors.DamageWarning, match='a.partial.jsonl.damaged'):
    _complete(_asker(questions, asked), questions, path)
  assert asked == ['0', '1', '2', '3']
