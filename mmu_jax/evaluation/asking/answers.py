"""Answer records: a question, the model's answer, and likelihoods.

One JSON line of ``predictions/<run>/<task>.jsonl`` each, without any score:
scores are computed from the records, see ``scoring.scores``. The fields::

  key kind protocol             of the row, and how it was asked
  person picture                whom and which picture it is about, or null
  question answer fact options  the row itself
  prompt                        where more was asked than the question
  text                          the generated answer, where there is one
  likelihoods                   of given answers: [{of, text, nll, tokens}]

``of`` names a given answer: ``'option'``, ``'answer'``, ``'paraphrase'`` or
``'perturbed'``; ``nll`` is in nats and of the whole answer.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
import pathlib
from typing import Any
import warnings

from mmu_jax import distributed
from mmu_jax import inputs
from mmu_jax import workdir as workdir_lib
from mmu_jax.data.encoding.processing import Example
from mmu_jax.distributed import preemption
from mmu_jax.errors import DamageWarning
from mmu_jax.evaluation.asking.protocols import Protocol
from mmu_jax.evaluation.asking.protocols import Question
from mmu_jax.workdir import seals

Answer = dict[str, Any]
DAMAGED = '.damaged'


def record(
  question: Question,
  protocol: Protocol,
  said: tuple[str, str] | None,
  given: Sequence[tuple[Example, float]],
) -> Answer:
  """Returns the record of one question.

  Args:
    question: question that was asked.
    protocol: protocol that asked it.
    said: prompt and generated answer; None where none was generated.
    given: given answers with their nll in nats, in the protocol's order.
  """
  row = question.row
  answer: Answer = {
    'key': row.key,
    'kind': row.task,
    'protocol': protocol.name,
    'person': row.person,
    'picture': row.picture_key,
    'question': row.question,
    'answer': row.answer,
    'fact': row.fact,
    'options': list(row.options),
  }
  if said:
    prompt, answer['text'] = said
    if prompt != row.question:
      answer['prompt'] = prompt
  if given:
    answer['likelihoods'] = [
      {
        'of': name,
        'text': example.row.answer,
        'nll': nll,
        'tokens': int(example.labelled.sum()),
      }
      for name, (example, nll) in zip(_names(row, len(given)), given)
    ]
  return answer


def _names(row, number: int) -> list[str]:
  """Names of given answers, in the order of ``Protocol.answers``."""
  if row.options:
    return ['option'] * number
  return (['answer', 'paraphrase'] + ['perturbed'] * number)[:number]


def task_file(
  folder: pathlib.Path, task: str, kind: str = 'jsonl'
) -> pathlib.Path:
  """Returns the file of a run's answers to a task.

  Args:
    folder: folder of the run.
    task: name of the task.
    kind: ending of the file: 'jsonl' for answers, 'judged.jsonl' for scores of
      a judge.

  Raises:
    ValueError: if the name leads out of the folder.
  """
  return folder / f'{inputs.check_name(task, "task")}.{kind}'


def read_records(path: pathlib.Path) -> list[Answer]:
  """Returns the records of a finished task, none if it does not exist.

  Raises:
    ValueError: if the file is not as it was written.
  """
  if not path.exists():
    return []
  advice = 'Ask again: `mmu evaluate`, which puts the file aside.'
  return seals.read_rows(path, path.stem, advice)[0]


def mismatch(path: pathlib.Path, source: str) -> str:
  """Returns why a file of answers cannot be used, '' if it can.

  Args:
    path: file of a finished task.
    source: hash of all that the answers should come from.
  """
  wrong = seals.fault(path, path.stem)
  if not wrong and seals.read_note(path) != {'source': source}:
    return (
      f'{path} holds answers of other parameters or data, or that were asked '
      'for in another way'
    )
  return wrong


def unanswered(
  questions: Sequence[Question], found: Iterable[Answer]
) -> list[Question]:
  """Returns the questions that have no answer yet."""
  keys = {answer['key'] for answer in found}
  return [question for question in questions if question.row.key not in keys]


def complete(
  ask: Callable[[Collection[str]], Iterable[list[Answer]]],
  questions: Sequence[Question],
  path: pathlib.Path,
  update: Callable[[int], Any],
  *,
  source: str,
) -> None:
  """Asks the questions of a task that have no answer yet.

  Until all are answered, the answers are in ``<task>.partial.jsonl``, where
  every batch is written at once: a process that is killed loses one batch. Of
  several processes the first reads and writes.

  Args:
    ask: function from the keys that are answered to batches of new answers.
    questions: questions of the task.
    path: file of the finished task.
    update: called with the number of new answers.
    source: hash of all that the answers come from: parameters, data, and the
      way to ask. A finished file that is not as it was written, or of another
      source, is renamed to ``<task>.jsonl.damaged``; so is a partial file.

  Raises:
    Preempted: if the machine is to stop; the answers so far are kept.
  """
  partial = path.with_suffix('.partial.jsonl')
  found = {
    a['key']: a for a in distributed.first(_begin, path, partial, source)
  }
  update(len(found))
  if unanswered(questions, found.values()):
    for number, batch in enumerate(ask(found.keys()), 1):
      distributed.first(workdir_lib.append_jsonl, partial, batch)
      new = {answer['key']: answer for answer in batch}
      update(len(new.keys() - found.keys()))
      found |= new
      if preemption.requested(number):
        raise preemption.Preempted(
          f'{path.parent.name}: the answers to {path.stem} so far are kept'
        )
  ordered = [found[question.row.key] for question in questions]
  distributed.first(_finish, path, partial, ordered, source)


def _begin(
  path: pathlib.Path, partial: pathlib.Path, source: str
) -> list[Answer]:
  """The answers so far, all of them in the partial file if more are needed."""
  so_far = _read_partial(partial, source)
  wrong = mismatch(path, source)
  if wrong and path.exists():
    sealed = path.with_name(path.name + seals.SUFFIX).exists()
    if partial.exists() and not sealed:
      path.unlink()  # a kill came before its seal; all answers are in partial
    else:
      _put_aside(path, wrong)
      seals.remove(path)
  found = [] if wrong else read_records(path)
  found += so_far
  head = {'source': source}
  workdir_lib.write_log(partial, [head, *found])  # without a cut-off line
  return found


def _read_partial(partial: pathlib.Path, source: str) -> list[Answer]:
  """The answers of a partial file, whose first line says their source."""
  if not partial.exists():
    return []
  head = {'source': source}
  rows = workdir_lib.read_log(partial)
  if rows[:1] == [head]:
    return [row for row in rows if row != head]
  _put_aside(partial, f'{partial} holds answers of another source')
  return []


def _put_aside(path: pathlib.Path, wrong: str) -> None:
  """Renames a file that cannot be used, and says so."""
  aside = path.with_name(path.name + DAMAGED)
  path.replace(aside)
  warnings.warn(
    f'{wrong}. It is now called {aside.name}, and its questions are asked '
    'again.',
    DamageWarning,
    stacklevel=3,
  )


def _finish(
  path: pathlib.Path,
  partial: pathlib.Path,
  answers: Sequence[Answer],
  source: str,
) -> None:
  """Writes the file of a finished task; a kill in between loses nothing."""
  seals.write_rows(path, answers, path.stem, {'source': source})
  partial.unlink(missing_ok=True)
