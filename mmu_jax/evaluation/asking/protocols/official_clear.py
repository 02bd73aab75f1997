"""MMUnlearner's published evaluation of CLEAR, its errors included.

Three errors that ``fixed`` does not have. Questions in text are also asked in
the visual evaluation, with the placeholder of a picture and no picture, and
their scores count in its averages. The evaluation in text then decodes the
last answer of the visual one, for every question. A name without options is
searched in lower case, so it is never found.

Two deviations, so a score is not the published one digit by digit. The averages
of the retain set are over the tasks ``retain_vqa`` and ``retain_qa`` of our
data, not over all its captions and all rows in text asked without a picture.
And the options of a question stand in the order that our seed gives.
"""

import re

from mmu_jax import metrics
from mmu_jax.data import dataset as dataset_lib
from mmu_jax.data import row as row_lib
from mmu_jax.data.dataset import QA
from mmu_jax.data.dataset import VQA
from mmu_jax.errors import UserError
from mmu_jax.evaluation.asking.protocols import question as question_lib
from mmu_jax.evaluation.asking.protocols.question import ChatTurn
from mmu_jax.evaluation.asking.protocols.question import Protocol
from mmu_jax.evaluation.asking.protocols.question import Question


def _questions(task, tasks, shots, seed):
  """All rows; those in text stand once more behind those about pictures.

  The published set holds both in one table; that its pictures come first is
  taken from how it was made.
  """
  del seed
  if shots:
    raise UserError(
      f'the published evaluation of CLEAR has no shots, got shots={shots}. '
      "Set it to 0, or use protocol='fixed'."
    )
  found = [Question(row) for row in task.rows]
  if task.modality != VQA:
    return found
  in_text = dataset_lib.sibling(task, tasks, modality=QA)
  return found + [
    Question(row._replace(key=f'{row.key}@vqa'), blind=True)
    for row in (in_text.rows if in_text else ())
    if row.task == row_lib.GENERATION
  ]


def _ask(question, encoder):
  """The chat template and no instruction; every option ends its line."""
  row, processor = question.row, encoder.processor
  pictures = row.pictures
  text = row.question
  if row.options:
    text = '\n'.join([text, *question_lib.list_options(row, '.'), ''])
  turn = ChatTurn(text, (None,) if question.blind else pictures)
  prompt, _ = question_lib.chat([turn], processor)
  return question_lib.encode_prompt(prompt, pictures, row, processor)


def _mark(answer):
  """The first letter or digit; without options, the name in small letters."""
  if answer['options']:
    right = metrics.letter_of(answer['answer'], answer['options'])
    return {'accuracy': int(metrics.first_letter(answer['text']) == right)}
  parsed = re.sub('[^a-zA-Z0-9]', '', answer['text']).lower()
  return {'accuracy': int(answer['answer'] in parsed)}


def _answers_from(task, tasks):
  """Answers in text are read from the visual task of the same people."""
  if task.modality != QA:
    return None
  return dataset_lib.sibling(task, tasks, modality=VQA)


PROTOCOL = Protocol(
  'official_clear',
  _questions,
  _ask,
  _mark,
  max_new_tokens=50,
  answers_from=_answers_from,
  published=True,
)
