"""The published evaluation of MLLMU-Bench, prompt for prompt.

Unlike in ``fixed``, LLaVA is asked without its chat template, and so is
Qwen2-VL in text; every ``__`` becomes a ``[Blank]``, so ``____`` becomes two;
Qwen2-VL's cloze questions in text have the placeholder of a picture and no
picture; an answer is read by its first letter. The person of the shots was
drawn without a seed, and is drawn by the seed here.
"""

from mmu_jax import metrics
from mmu_jax.data import dataset as dataset_lib
from mmu_jax.data import row as row_lib
from mmu_jax.data.dataset import VQA
from mmu_jax.data.encoding import patches
from mmu_jax.data.encoding import tiles
from mmu_jax.errors import UserError
from mmu_jax.evaluation.asking.protocols import question as question_lib
from mmu_jax.evaluation.asking.protocols.question import ChatTurn
from mmu_jax.evaluation.asking.protocols.question import Protocol
from mmu_jax.evaluation.asking.protocols.question import Question

_LETTER = 'Just give ONE letter representing the answer directly.'
_REPLACE = (
  'Please **ONLY** provide the correct answer that should replace the [Blank].'
)
_SENTENCE = (
  'Answer the question based on your trained knowledge in one sentence'
)


def _questions(task, tasks, shots, seed):
  """All rows; with one shot, not the rows about the person of the shot.

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
  if task.modality == VQA:  # shots about new pictures show training pictures
    source = dataset_lib.sibling(task, tasks, holdout=False)
  solved = [
    row
    for row in (source.rows if source else ())
    if question_lib.subject_of(row) in people
  ]
  return [
    Question(row, _shots(row, solved, split))
    for row in rows
    if row.task == row_lib.GENERATION
    or question_lib.subject_of(row) not in people
  ]


def _shots(row, solved, split):
  """The solved questions that the published code puts before a row."""
  if row.task == row_lib.CLASSIFICATION and split == 'real':
    return ()
  if row.task == row_lib.GENERATION:
    return ()
  return tuple(shot for shot in solved if shot.task == row.task)


def _ask(question, encoder):
  """The published prompt, of two families, without some shots of Qwen2-VL."""
  row, shots, processor = question.row, question.shots, encoder.processor
  for asked in (row, *shots):
    text = ''.join((asked.question, asked.answer, *asked.options))
    question_lib.check_text(text, processor)
  others = {tiles.LlavaNextImages: 'LLaVA-1.6', patches.Gemma3Images: 'Gemma 3'}
  other = others.get(type(processor.images))
  if other:
    raise UserError(
      'the published evaluation of MLLMU-Bench has prompts for LLaVA-1.5 and '
      f"Qwen2-VL, none for {other}. Use protocol='fixed', which asks with the "
      'chat template of the checkpoint.'
    )
  qwen = isinstance(processor.images, patches.Qwen2VLImages)
  if qwen and shots and row.picture is not None:
    raise UserError(
      'the published evaluation cannot ask Qwen2-VL with shots about '
      f'pictures: row {row.key!r} would have {len(shots) + 1} pictures and '
      "one placeholder. Use shots=0, or protocol='fixed'."
    )
  prompt = _PROMPTS[row.task](row, shots, processor if qwen else None)
  pictures = [p for r in (*shots, row) for p in r.pictures]
  return question_lib.encode_prompt(prompt, pictures, row, processor)


def _classification(row, shots, qwen):
  """Options, one letter; Qwen2-VL's begins with an empty line."""
  listed = f'{_listed(row)}\n{_LETTER}'
  if qwen and row.picture is not None:
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
    line = '' if row.picture is None else '\n'
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
  if row.picture is None:
    return f'USER: {row.question}\n{_SENTENCE} in ENGLISH.\nASSISTANT:'
  text = f'{row.question}\n{_SENTENCE} accurately in ENGLISH.'
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
  return 'USER:' if row.picture is None else 'USER: <image>'


def _listed(row):
  """The question with its options."""
  return '\n'.join([row.question, *question_lib.list_options(row)])


def _blanks(row):
  """The cloze question and its instruction."""
  return f'{row.question.replace("__", "[Blank]")}\n{_REPLACE}'


def _chat(text, processor):
  """Qwen2-VL's chat template, with the placeholder of one picture."""
  placeholder = (None,)  # the template counts pictures, and sees none
  return question_lib.chat([ChatTurn(text, placeholder)], processor)[0]


def _mark(answer):
  """The first letter or digit, right if it is the letter of the answer."""
  right = metrics.letter_of(answer['answer'], answer['options'])
  return {'accuracy': int(metrics.first_letter(answer['text']) == right)}


PROTOCOL = Protocol(
  'official_mllmu_bench',
  _questions,
  _ask,
  _mark,
  max_new_tokens=50,
  published=True,
)
