"""The published evaluation of MLLMU-Bench, prompt for prompt.

What it does that ``fixed`` does not: LLaVA is asked without its chat template,
and so is Qwen2-VL in text; every ``__`` becomes a ``[Blank]``, so ``____``
becomes two; Qwen2-VL's cloze questions in text have the placeholder of a
picture and no picture; an answer is what its first letter says. The person of
the shots was drawn without a seed, and is drawn by the seed here.
"""

from mmu_jax import metrics
from mmu_jax.data import dataset as dataset_lib
from mmu_jax.data import row as row_lib
from mmu_jax.data.dataset import VQA
from mmu_jax.data.encoding import patches
from mmu_jax.errors import UserError
from mmu_jax.evaluation.asking.protocols import question as question_lib
from mmu_jax.evaluation.asking.protocols.question import Asked
from mmu_jax.evaluation.asking.protocols.question import Prompt
from mmu_jax.evaluation.asking.protocols.question import Protocol
from mmu_jax.evaluation.asking.protocols.question import Question
from mmu_jax.evaluation.asking.protocols.question import Turn

LETTER = 'Just give ONE letter representing the answer directly.'
REPLACE = (
  'Please **ONLY** provide the correct answer that should replace the [Blank].'
)
SENTENCE = 'Answer the question based on your trained knowledge in one sentence'
MAX_NEW_TOKENS = 50


def _questions(task, tasks, shots, seed):
  """All rows, or with one shot those of everybody but the person of the shot.

  Real people get shots in cloze questions alone, though the person is left
  out of classification too. Generation knows no shots, and leaves nobody out.
  """
  if shots not in (0, 1):
    raise UserError(
      'the published evaluation of MLLMU-Bench has the questions of no '
      f"person or of one as shots, got shots={shots}. Use protocol='fixed' "
      'for more.'
    )
  rows, split = task.rows, task.split
  asked = [row for row in rows if row.task != row_lib.GENERATION]
  people = question_lib.draw_shots(asked, shots, seed, split) if shots else ()
  source = task
  if task.modality == VQA:  # shots about new pictures have those of training
    source = dataset_lib.sibling(task, tasks, holdout=False)
  solved = [
    row
    for row in (source.rows if source else ())
    if question_lib.group_of(row) in people
  ]
  return [
    Question(row, _shots(row, solved, split))
    for row in rows
    if row.task == row_lib.GENERATION
    or question_lib.group_of(row) not in people
  ]


def _shots(row, solved, split):
  """The solved questions that the published code puts before a row."""
  if row.task == row_lib.CLASSIFICATION and split == 'real':
    return ()
  if row.task == row_lib.GENERATION:
    return ()
  return tuple(shot for shot in solved if shot.task == row.task)


def prompt(question: Question, processor) -> Prompt:
  """The published prompt of a question.

  Raises:
    ValueError: if the published evaluation cannot run: Qwen2-VL with shots
      about pictures, n + 1 pictures for one placeholder.
  """
  row, shots = question.row, question.shots
  for asked in (row, *shots):
    text = ''.join((asked.question, asked.answer, *asked.options))
    question_lib.check_text(text, processor)
  qwen = isinstance(processor.images, patches.Qwen2VLImages)
  if qwen and shots and row.image is not None:
    raise UserError(
      'the published evaluation cannot ask Qwen2-VL with shots about '
      f'pictures: row {row.key!r} would have {len(shots) + 1} pictures and '
      "one placeholder. Use shots=0, or protocol='fixed'."
    )
  pictures = question_lib.pictures_of((*shots, row))
  make = _PROMPTS[row.task]
  return Prompt(make(row, shots, processor if qwen else None), pictures)


def _classification(row, shots, qwen):
  """Options, one letter; Qwen2-VL's begins with an empty line."""
  listed = f'{_listed(row)}\n{LETTER}'
  if qwen and row.image is not None:
    return _chat(f'\n{listed}', qwen)
  solved = ''.join(
    f'{_user(shot)}\nQuestion: {_listed(shot)}\n'
    f'Correct Answer: {metrics.letter_of(shot.answer, shot.options)}\n'
    for shot in shots
  )
  return f'{solved}{_user(row)}\n{listed}\nASSISTANT:'


def _cloze(row, shots, qwen):
  """The blank to fill; Qwen2-VL's has no shots, and always a placeholder."""
  if qwen:
    line = '' if row.image is None else '\n'
    return _chat(f'{line}{_blanks(row)}', qwen)
  solved = ''.join(
    f'{_user(shot).replace(" ", "")}\n{_blanks(shot)}\n'
    f'Correct Answer: {shot.fact}\n'
    for shot in shots
  )
  return f'{solved}{_user(row)}\n{_blanks(row)}\nASSISTANT:'


def _generation(row, shots, qwen):
  """One sentence; about a picture LLaVA's prompt ends with a space."""
  del shots
  if row.image is None:
    return f'USER: {row.question}\n{SENTENCE} in ENGLISH.\nASSISTANT:'
  text = f'{row.question}\n{SENTENCE} accurately in ENGLISH.'
  if qwen:
    return _chat(text, qwen)
  return f'{_user(row)}\n{text}\nASSISTANT: '


_PROMPTS = {
  row_lib.CLASSIFICATION: _classification,
  row_lib.CLOZE: _cloze,
  row_lib.GENERATION: _generation,
}


def _user(row):
  """How a turn begins."""
  return 'USER:' if row.image is None else 'USER: <image>'


def _listed(row):
  """The question with its options."""
  letters = metrics.marking.LETTERS
  options = [f'{letters[i]}: {option}' for i, option in enumerate(row.options)]
  return '\n'.join([row.question, *options])


def _blanks(row):
  """The cloze question and its instruction."""
  return f'{row.question.replace("__", "[Blank]")}\n{REPLACE}'


def _chat(text, processor):
  """Qwen2-VL's chat template, with the placeholder of one picture."""
  placeholder = (None,)  # the template counts pictures, and sees none
  return question_lib.chat([Turn(text, placeholder)], processor)[0]


def _ask(question, encoder):
  """The published prompt as tokens."""
  made = prompt(question, encoder.processor)
  example = question_lib.encode(made, question.row, encoder.processor)
  return Asked(made.text, example)


def _mark(answer):
  """The first letter or digit, right if it is the letter of the answer."""
  right = metrics.letter_of(answer['answer'], answer['options'])
  return {'accuracy': int(metrics.first_letter(answer['text']) == right)}


PROTOCOL = Protocol(
  'official_mllmu_bench',
  _questions,
  _ask,
  lambda question, encoder: [],
  _mark,
  MAX_NEW_TOKENS,
)
