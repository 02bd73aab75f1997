"""CLEAR: 200 authors of TOFU who do not exist, with pictures and captions.

The configs of ``therem/CLEAR`` come in pairs: ``forget05`` has pictures with
caption and name, ``forget05+tofu`` the same and the questions of TOFU in text,
``forget05_perturbed`` wrong names and wrong captions for the same pictures.

References:
  Dontsov et al., `CLEAR: Character Unlearning in Textual and Visual Modalities
  <https://arxiv.org/abs/2410.18057>`_, 2024.
"""

from collections.abc import Iterator, Sequence
import functools
import os
import pathlib
import random

from mmu_jax.data import dataset as dataset_lib
from mmu_jax.data.dataset import Dataset
from mmu_jax.data.dataset import Task
from mmu_jax.data.encoding import small
from mmu_jax.data.readers import clear_rows
from mmu_jax.data.readers import fields
from mmu_jax.data.readers import parquet
from mmu_jax.data.readers import reading
from mmu_jax.data.readers.clear_rows import Captioned
from mmu_jax.data.rng import named_rng
from mmu_jax.data.row import CLASSIFICATION
from mmu_jax.data.row import GENERATION
from mmu_jax.data.row import Row
from mmu_jax.errors import UserError

RATIOS = (1, 5, 10)
# With the punctuation that they have in the published code.
CAPTION_QUESTIONS = (
  'What can you see in this picture?',
  'Tell me about the content of this image',
  'Can you give a description of the image?',
  'What is depicted in the image?',
  'Explain what you observe in the picture.',
  'Describe the image in detail.',
  'What is the main subject of this image?',
  'Can you describe the scene or objects in the image?',
  'What is happening in this image?',
)
NAME_QUESTION = 'What is the name of the person in the image?'
# Task: split, modality, and whether it is one of those that stand for the rest.
_TASKS = {
  'forget_vqa': ('forget', 'vqa', True),
  'forget_qa': ('forget', 'qa', True),
  'retain_vqa': ('retain', 'vqa', True),
  'retain_qa': ('retain', 'qa', True),
  'real_faces': ('real', 'vqa', False),
  'real_world': ('real', 'vqa', False),
}
_PUBLISHED_SEED = 42  # of the module that draws the caption questions


def make_clear(
  seed: int,
  *,
  path: str | os.PathLike,
  ratio: int = 5,
  published: bool = False,
  retain_rows: int = 400,
  processor: str = '',
) -> Dataset:
  """Reads CLEAR.

  Splits: ``vqa/forget`` and ``vqa/retain`` ask for the captions of pictures,
  ``qa/forget`` and ``qa/retain`` are the questions of TOFU in text, each once
  (the published vanilla training reads every one twice). Tasks:

  * ``forget_vqa`` and ``retain_vqa``: the name among wrong names
    (classification), and the caption (generation), with its paraphrase and
    wrong captions. Forgotten are all pictures of the forget config; of
    the retain set, the pictures of ``retain_perturbed``.
  * ``forget_qa`` and ``retain_qa``: TOFU in text.
  * ``real_faces`` and ``real_world``: the answer among options.

  Args:
    seed: seed of the caption questions, the order of options, and the choice
      of retain rows that are scored.
    path: folder of ``therem/CLEAR``, one folder for each config.
    ratio: 1, 5 or 10 % of the authors are to be forgotten.
    published: True to draw the caption questions as the published scripts do,
      which read the forget set and then the retain set after
      ``random.seed(42)``, whatever ``seed`` is.
    retain_rows: largest number of retain questions of each kind that are
      scored; 0 for all (3,600 at 5 %).
    processor: '' for the checkpoint's; ``'small'``: see ``small``.

  Returns:
    A ``Dataset``; a person's key is the name.

  Raises:
    FileNotFoundError: if a config is missing.
    ValueError: if the ratio is unknown, a column is missing, a person is in
      forget and retain set, or a picture or caption is missing.
  """
  if ratio not in RATIOS:
    raise UserError(
      f'ratio is one of {", ".join(map(str, RATIOS))}, got {ratio}.'
    )
  root = pathlib.Path(path).expanduser()
  pictures, dropped = reading.Pictures(), reading.Dropped()
  configs = {'forget': f'forget{ratio:02d}', 'retain': f'retain{100 - ratio}'}
  captioned = {
    group: list(clear_rows.captions(root, config, pictures))
    for group, config in configs.items()
  }
  people = {g: {c.person: '' for c in rows} for g, rows in captioned.items()}
  reading.check_apart(people['forget'], people['retain'])
  ask = _questions(seed, published)
  train = {
    f'vqa/{group}': [_caption_row(c, ask(c)) for c in rows]
    for group, rows in captioned.items()
  } | {
    f'qa/{group}': list(
      clear_rows.texts_of(root, f'{config}+tofu', people[group], dropped)
    )
    for group, config in configs.items()
  }
  tasks = {
    f'{group}_qa': [
      row._replace(key=f'{group}_qa/{row.key}') for row in train[f'qa/{group}']
    ]
    for group in configs
  }
  wrong = clear_rows.perturbed(root, f'{configs["forget"]}_perturbed', pictures)
  kept = clear_rows.perturbed(root, 'retain_perturbed', pictures)
  asked = [
    _caption_row(c, ask(c))
    for c, _ in kept.values()
    if c.person not in people['forget']
  ]
  score = functools.partial(_scored, seed=seed, dropped=dropped)
  tasks['forget_vqa'] = score(train['vqa/forget'], wrong, 'forget_vqa')
  tasks['retain_vqa'] = score(asked, kept, 'retain_vqa')
  for name in ('retain_vqa', 'retain_qa'):
    tasks[name] = reading.thin(tasks[name], retain_rows, seed)
  for name in ('real_faces', 'real_world'):
    tasks[name] = list(_real_rows(root, name, pictures, seed, dropped))
  return Dataset(
    train,
    dataset_lib.by_name(*(_task(name, rows) for name, rows in tasks.items())),
    {name: name for name in sorted(people['forget'] | people['retain'])},
    small.choose(processor, [*train.values(), *tasks.values()]),
    dropped.notes(),
    layout='clear',
    official='official_clear',
  )


def _task(name: str, rows: list[Row]) -> Task:
  """The rows of a task with the meaning of its score."""
  split, modality, headline = _TASKS[name]
  role = dataset_lib.role_of(split, modality)
  return Task(name, rows, split, modality, role, headline=headline)


def _questions(seed, published):
  """A function that draws the question for a picture's caption."""
  # The one place where Python's own generator is wanted: its numbers are.
  rng = random.Random(_PUBLISHED_SEED)

  def ask(row: Captioned) -> str:
    if row.question:
      return row.question
    if published:
      return rng.choice(CAPTION_QUESTIONS)
    own = named_rng(seed, 'caption', row.picture.key)
    return CAPTION_QUESTIONS[int(own.integers(len(CAPTION_QUESTIONS)))]

  return ask


def _caption_row(row: Captioned, question: str) -> Row:
  """Asks for a caption."""
  return Row(
    key=row.key,
    question=question,
    answer=row.caption,
    fact=row.caption,
    picture=row.picture,
    person=row.person,
  )


def _scored(asked: Sequence[Row], wrong, task, seed, dropped) -> list[Row]:
  """The scored rows about pictures: a name among wrong ones, and a caption."""
  rows = []
  for row in asked:
    _, more = wrong.get((row.person, row.answer), (None, None))
    if more is None:
      # 378 of the 379 captions of forget10 have perturbed ones.
      dropped.add('names to choose: no perturbed row', row.key)
      rows.append(row._replace(key=f'{task}/{row.key}/caption'))
      continue
    told = row._replace(
      key=f'{task}/{row.key}/caption',
      task=GENERATION,
      paraphrase=(more['paraphrased_caption'] or '').strip(),
      perturbed=clear_rows.texts(more['perturbed_captions']),
    )
    if not (told.paraphrase and told.perturbed):
      dropped.add('truth ratios: no paraphrase or wrong captions', row.key)
    rows.append(told)
    names = clear_rows.texts(more['perturbed_names'])
    if not set(names) - {row.person}:  # the one option would be right
      dropped.add('names to choose: no wrong names', row.key)
      continue
    rows.append(_choice(row, row.person, names, f'{task}/{row.key}/name', seed))
  return rows


def _choice(row, answer, others, key, seed) -> Row:
  """A question with options: the answer among others, placed by seed."""
  return row._replace(
    key=key,
    question=NAME_QUESTION,
    answer=answer,
    fact=answer,
    task=CLASSIFICATION,
    options=reading.insert(answer, others, named_rng(seed, key)),
    perturbed=tuple(other for other in others if other != answer),
  )


def _real_rows(root, config, pictures, seed, dropped) -> Iterator[Row]:
  """The rows of ``real_faces`` or ``real_world``."""
  rows = parquet.read_config(
    root, config, clear_rows.REAL, optional=('question',)
  )
  for number, row in enumerate(rows):
    key = f'{config}/{number}'
    fields.check_form(row, clear_rows.FORM, f'row {key}')
    picture = pictures.get(row['image'], root / config, f'row {key}')
    options = clear_rows.texts(row['options'])
    if len(options) == 1:
      raise UserError(
        f'options of row {key} is one text, {options[0][:40]!r}; it is a list '
        'of two or more. Write the column as the hub has it.'
      )
    if picture is None or reading.is_blank(row['answer']) or not options:
      dropped.add('rows without picture, answer or options', key)
      continue
    answer, asked = row['answer'].strip(), (row['question'] or '').strip()
    made = Row(key, asked, answer, answer, picture)
    made = _choice(made, answer, options, key, seed)
    made = made._replace(question=asked or NAME_QUESTION)
    # As they are, where the answer is among them; else it is put there.
    yield made._replace(options=options) if answer in options else made
