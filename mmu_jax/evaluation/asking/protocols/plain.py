"""The question as it is: what models were trained on, word for word."""

from mmu_jax.data.encoding import processing
from mmu_jax.data.row import CLASSIFICATION
from mmu_jax.data.row import GENERATION
from mmu_jax.errors import UserError
from mmu_jax.evaluation.asking.protocols import question as question_lib
from mmu_jax.evaluation.asking.protocols.question import Asked
from mmu_jax.evaluation.asking.protocols.question import Protocol
from mmu_jax.evaluation.asking.protocols.question import Question


def _questions(task, tasks, shots, seed):
  """Every row; no shots."""
  del tasks, seed
  if shots:
    raise UserError(
      f"the protocol 'plain' asks without shots, got shots={shots}. Set it "
      "to 0, or use protocol='fixed'."
    )
  return [Question(row) for row in task.rows]


def _ask(question, encoder):
  """The prompt of a row; options are not generated but compared."""
  row = question.row
  if row.task == CLASSIFICATION:
    return None
  if question.shots:
    return _behind_shots(question, encoder.processor)
  return Asked(row.question, processing.prompt_of(encoder.example(row)))


def _behind_shots(question, processor):
  """The prompt of a row behind solved questions, which only attacks give."""
  turns = [
    question_lib.ChatTurn(shot.question, shot.pictures, shot.answer)
    for shot in (*question.shots, question.row._replace(answer=''))
  ]
  prompt, _ = question_lib.chat(turns, processor)
  pictures = [picture for turn in turns for picture in turn.pictures]
  return question_lib.encode_prompt(prompt, pictures, question.row, processor)


def _answers(question, encoder):
  """The options; of a sentence the true answer, for its likelihood."""
  row = question.row
  if row.task == GENERATION:
    return [encoder.example(row)]
  return [
    encoder.example(row._replace(key=f'{row.key}#{i}', answer=option))
    for i, option in enumerate(row.options)
  ]


PROTOCOL = Protocol(
  'plain', _questions, _ask, lambda answer: {}, _answers, brief=True
)
