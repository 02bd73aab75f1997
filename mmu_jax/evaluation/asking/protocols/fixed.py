"""The corrected protocol: one way to ask, for text and pictures alike."""

import re

from mmu_jax import metrics
from mmu_jax.data import row as row_lib
from mmu_jax.data.encoding import processing
from mmu_jax.data.row import Row
from mmu_jax.evaluation.asking.protocols import question as question_lib
from mmu_jax.evaluation.asking.protocols.question import ChatTurn
from mmu_jax.evaluation.asking.protocols.question import Protocol
from mmu_jax.evaluation.asking.protocols.question import Question

_BLANK = '[Blank]'
_INSTRUCTIONS = {
  row_lib.CLASSIFICATION: 'Answer with the letter of the right option only.',
  row_lib.CLOZE: f'Answer only with the words that {_BLANK} stands for.',
  row_lib.GENERATION: 'Answer in one sentence in English.',
}


def _questions(task, tasks, shots, seed):
  """Rows of everybody but the people of the shots, which stand before them.

  The shots of a row are the questions of its kind about those people.
  """
  del tasks
  rows = task.rows
  people = question_lib.draw_shots(rows, shots, seed, task.split)
  solved = [row for row in rows if question_lib.subject_of(row) in people]
  return [
    Question(row, tuple(shot for shot in solved if shot.task == row.task))
    for row in rows
    if question_lib.subject_of(row) not in people
  ]


def _ask(question, encoder):
  """Options listed, instruction below, by the chat template."""
  turns, pictures = _turns(question, instructed, _short_answer)
  prompt, _ = question_lib.chat(turns, encoder.processor)
  return question_lib.encode_prompt(
    prompt, pictures, question.row, encoder.processor
  )


def instructed(row: Row) -> str:
  """The question with its options and what to do.

  Example:
    >>> row = Row('k', 'Where?', 'Oslo', 'Oslo', task='classification',
    ...           options=('Rome', 'Oslo'))
    >>> print(instructed(row))
    Where?
    A: Rome
    B: Oslo
    Answer with the letter of the right option only.
  """
  asked = row.question
  if row.task == row_lib.CLOZE:  # one blank for each gap
    asked = re.sub('_{2,}', _BLANK, asked)
  options = question_lib.list_options(row)
  return '\n'.join([asked, *options, _INSTRUCTIONS[row.task]])


def _short_answer(row: Row) -> str:
  """The right answer to the instructed question."""
  if row.task == row_lib.CLASSIFICATION:
    return metrics.letter_of(row.answer, row.options)
  return row.fact if row.task == row_lib.CLOZE else row.answer


def _answers(question, encoder):
  """Given answers to the question as it was trained on, without instruction.

  Of a cloze row the fact, with its instruction; of the others the options, or
  the answer, the paraphrase and the wrong answers.
  """
  row = question.row
  if row.task == row_lib.CLOZE:
    turns, pictures = _turns(question, instructed, _short_answer)
    given = [row.fact]
  else:
    turns, pictures = _turns(question, lambda r: r.question, lambda r: r.answer)
    given = row.options or _with_perturbed(row)
  examples = []
  for i, answer in enumerate(given):
    candidate = row._replace(key=f'{row.key}#{i}', answer=answer)
    prompt, full = question_lib.chat(turns, encoder.processor, answer)
    examples.append(
      processing.encode_chat(
        prompt, full, candidate, pictures, encoder.processor
      )
    )
  return examples


def _with_perturbed(row):
  """The answer; and paraphrase and wrong answers, if the row has them."""
  if not row.perturbed:
    return (row.answer,)
  return (row.answer, row.paraphrase or row.answer, *row.perturbed)


def _turns(question, text, answer):
  """Turns, a picture with the first question about it; and all pictures."""
  turns, last = [], None
  for row in question.shots:
    seen = last is not None and row.picture_key == last
    pictures = () if seen else row.pictures
    turns.append(ChatTurn(text(row), pictures, answer(row)))
    last = row.picture_key
  row = question.row
  turns.append(ChatTurn(text(row), row.pictures))
  return turns, [p for turn in turns for p in turn.pictures]


def _mark(answer):
  """Whether the answer names the right letter, or any, or begins with it."""
  text, options = answer['text'], answer['options']
  right = metrics.letter_of(answer['answer'], options)
  parsed = metrics.find_letter(text, options)
  return {
    'accuracy': int(parsed == right),
    'accuracy_first_letter': int(metrics.first_letter(text) == right),
    'unparsed': int(parsed is None),
  }


PROTOCOL = Protocol('fixed', _questions, _ask, _mark, _answers)
