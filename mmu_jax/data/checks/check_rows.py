"""Rows of every kind of folder, in one form for the checks."""

from collections.abc import Iterator, Mapping
import pathlib
import re
from typing import Any, NamedTuple

from mmu_jax.data.readers import clear
from mmu_jax.data.readers import clear_rows
from mmu_jax.data.readers import fields
from mmu_jax.data.readers import mllmu_bench
from mmu_jax.data.readers import mllmu_rows
from mmu_jax.data.readers import own
from mmu_jax.data.readers import parquet
from mmu_jax.data.readers import reading

MLLMU, TRAIN, CLEAR, OWN = 'MLLMU-Bench', 'MLLMU training', 'CLEAR', 'own data'
_BOTH = ('question', 'answer')  # columns
# Config -> rows as published; None where only about so many are known.
_PAIRS = {
  'forget_5': 25,
  'forget_10': 50,
  'forget_15': 75,
  'retain_95': 475,
  'retain_90': 450,
  'retain_85': 425,
}
CONFIGS: dict[str, dict[str, int | None]] = {
  MLLMU: {
    'Full_Set': 500,
    'ft_Data': 500,
    'Test_Set': 500,
    'Retain_Set': 153,
    **_PAIRS,
  },
  TRAIN: dict(_PAIRS),
  CLEAR: {
    'full': 3768,
    'full+tofu': None,
    'retain_perturbed': 395,
    'real_faces': 151,
    'real_world': 367,
    'forget01': 35,
    'forget05': 188,
    'forget10': 379,
    'forget01+tofu': 75,
    'forget05+tofu': 388,
    'forget10+tofu': 779,
    'forget01_perturbed': 35,
    'forget05_perturbed': 188,
    'forget10_perturbed': 378,
    **{f'retain{r}{x}': None for r in (99, 95, 90) for x in ('', '+tofu')},
  },
  OWN: {},
}


class Text(NamedTuple):
  """A question with its answer.

  Attributes:
    key: place within the row: ``'metadata 3'``.
    question: question as the file has it.
    answer: answer as the file has it.
    alone: whether it says by itself whom it is about, without a picture.
    optional: whether a reader leaves it out where it is empty.
    columns: columns of question and answer; '' where it is the key.
  """

  key: str
  question: Any
  answer: Any
  alone: bool = False
  optional: bool = False
  columns: tuple[str, str] = ('', '')


class Choice(NamedTuple):
  """Options to choose from; ``right`` is None if they lack the answer."""

  key: str
  options: tuple[str, ...]
  right: str | None


class Entry(NamedTuple):
  """A row, whatever folder it is from.

  Attributes:
    where: ``'row 3 (093)'``.
    person: person it is about, or None.
    role: 'forget 5', 'retain 5': in which of the two sets, of which ratio;
      '' for neither.
    images: values of the image columns; None where one is missing.
    texts: questions with their answers.
    choices: questions with their options.
    unique: whether no other row of the config may have the person.
    problem: problem of the row as a whole, or ''.
    key: id of the row, which no other row may have; '' if it has none.
  """

  where: str
  person: str | None
  role: str
  images: tuple[Any, ...] = ()
  texts: tuple[Text, ...] = ()
  choices: tuple[Choice, ...] = ()
  unique: bool = False
  problem: str = ''
  key: str = ''


def columns(kind: str, config: str) -> tuple[str, ...]:
  """Returns the columns that the reader of a config needs."""
  if kind == OWN:
    return own.COLUMNS
  if kind == CLEAR:
    if config.startswith('real_'):
      return clear_rows.REAL
    if config.endswith('+tofu'):
      return clear_rows.TOFU
    if 'perturbed' in config:
      return clear_rows.PERTURBED
    return clear_rows.CAPTIONED
  if kind == TRAIN or config == 'ft_Data':
    return mllmu_rows.TRAINING
  return mllmu_rows.HOLDOUT if config == 'Test_Set' else mllmu_rows.PERSON


def optional(kind: str, config: str) -> tuple[str, ...]:
  """Returns the columns that are read where they are."""
  if kind == OWN:
    return own.OPTIONAL
  if kind == CLEAR:
    return ('question', 'answer')
  return ('ID',) if 'metadata' in columns(kind, config) else ()


def entry(kind: str, config: str, place: str, row: Mapping[str, Any]) -> Entry:
  """Returns a row in the common form; columns that it lacks hold nothing.

  Args:
    kind: kind of the folder, a key of ``CONFIGS``.
    config: name of the config that the row is in.
    place: place of the row: 'row 3'.
    row: columns of the row.

  Raises:
    ValueError: if a column that is JSON does not parse, or one has another
      form than its reader takes.
  """
  role, where = set_of(config), place
  if kind == OWN:
    return _own(row, where)
  if kind == CLEAR:
    return _clear(row, where, config, role)
  if 'metadata' in row:
    return _lesson(row, where, role)
  return _profile(row, where, role)


def set_of(config: str) -> str:
  """Returns the set that a config belongs to, with its ratio in per cent.

  Example:
    >>> set_of('forget_10'), set_of('retain95+tofu'), set_of('Full_Set')
    ('forget 10', 'retain 5', '')
  """
  match = re.match(r'(forget|retain)_?(\d+)', config)
  if match is None:
    return ''
  ratio = int(match[2])
  return f'{match[1]} {100 - ratio if match[1] == "retain" else ratio}'


def _lesson(row, where, role) -> Entry:
  """A row of training questions."""
  items = mllmu_rows.lesson_items(row['metadata'], where)
  person = mllmu_rows.person_of(row.get('ID'), items, where)
  texts = tuple(
    Text(f'metadata {i}', x.get('Question'), x.get('Answer'), optional=True)
    for i, x in enumerate(items)
  )
  images = (row.get('image'),)
  return Entry(f'{where} ({person})', person, role, images, texts, unique=True)


def _profile(row, where, role) -> Entry:
  """A person with the questions about them."""
  person = None
  if row.get('ID') is not None:
    person = reading.person_id(row['ID'])
    where = f'{where} ({person})'
  tasks = mllmu_rows.tasks_of(row, where)
  images = row['images'] or (None,) if 'images' in row else (row.get('image'),)
  asked = list(_asked(tasks))
  return Entry(
    where,
    person,
    role,
    tuple(images),
    tuple(x for x in asked if isinstance(x, Text)),
    tuple(x for x in asked if isinstance(x, Choice)),
    unique=True,
  )


def _asked(tasks) -> Iterator[Text | Choice]:
  """The questions of the three tasks."""
  for kind, (chosen, written) in mllmu_rows.QUESTIONS.items():
    of_class = (tasks['Classification_Task'] or {}).get(chosen) or ()
    for i, item in enumerate(of_class):
      key = f'{chosen} {i}'
      options, letter = mllmu_rows.options_of(item)
      yield Choice(key, tuple(options.values()), options.get(letter))
      answer = options.get(letter, 'none')
      yield Text(key, item.get('Question'), answer, alone=kind == 'qa')
    for name in ('Mask_Task', 'Generation_Task'):
      for i, item in enumerate(tasks[name] or ()):
        if item.get('Type') == written:
          texts = item.get('Question'), item.get('Ground_Truth')
          yield Text(f'{name} {i}', *texts, alone=kind == 'qa')


def _clear(row, where, config, role) -> Entry:
  """A row of CLEAR: a caption, a question in text, or options."""
  fields.check_form(row, clear_rows.FORM, where)
  if config.startswith('real_'):
    options = clear_rows.texts(row.get('options'))
    answer = row.get('answer')
    right = answer if answer and answer.strip() in options else None
    asked = row.get('question') or clear.NAME_QUESTION
    text = Text('answer', asked, answer, columns=_BOTH)
    choices = (Choice('options', options, right),)
    return Entry(where, None, role, (row.get('image'),), (text,), choices)
  person, image = row.get('name'), row.get('image')
  if config.endswith('+tofu') and not image:
    said = row.get('question'), row.get('answer')
    texts = (Text('question', *said, alone=True, columns=_BOTH),)
    problem = ''
    if reading.is_blank(row.get('question')):
      problem = 'neither a picture nor a question'
      texts = ()
    return Entry(where, person, role, (), texts, problem=problem)
  asked = clear.CAPTION_QUESTIONS[0]
  text = Text('caption', asked, row.get('caption'), alone=True)
  return Entry(where, person, role, (image,), (text,))


def _own(row, where) -> Entry:
  """A row of own data."""
  fields.check_form(row, own.FORM, where)
  own.read_fact(row, where)
  own.read_options(row, where)
  split = row.get('split') or 'retain'
  wrong = f'the split {split!r} (there are {", ".join(own.SPLITS)})'
  problem = '' if split in own.SPLITS else wrong
  image, person = row.get('image'), row.get('person')
  person = None if reading.is_blank(person) else str(person)
  seen = reading.image_source(image, pathlib.Path(), where) is not None
  said = row.get('question'), row.get('answer')
  text = Text('answer', *said, alone=not seen, columns=_BOTH)
  role = '' if problem else f'{split} 0'
  images = (image,) if seen else ()
  key = own.id_of(row, where)
  return Entry(where, person, role, images, (text,), problem=problem, key=key)


def kind_of(names: Mapping[str, set[str]]) -> str:
  """Returns the kind of a folder, from configs and their columns; '' if none.

  Args:
    names: config -> names of its columns.
  """
  if any('metadata' in found for found in names.values()):
    if not set(names) & {'Full_Set', 'ft_Data', 'Test_Set', 'Retain_Set'}:
      return TRAIN
  scores = {
    kind: sum(
      name in known or bool(parquet.nearest(name, known)) for name in names
    )
    for kind, known in CONFIGS.items()
    if kind in (MLLMU, CLEAR)
  }
  best = max(scores, key=scores.get)
  return best if scores[best] else ''


def pairs(kind: str) -> list[tuple[str, ...]]:
  """Returns the configs that are needed for each ratio of a benchmark."""
  if kind == CLEAR:
    return [
      (
        f'forget{r:02d}',
        f'forget{r:02d}+tofu',
        f'forget{r:02d}_perturbed',
        f'retain{100 - r}',
        f'retain{100 - r}+tofu',
      )
      for r in clear.RATIOS
    ]
  return [(f'forget_{r}', f'retain_{100 - r}') for r in mllmu_bench.RATIOS]


def ratios(kind: str, folder: pathlib.Path) -> list[int]:
  """Returns the ratios, in per cent, whose configs a folder has."""
  there = set(parquet.configs(folder))
  known = clear.RATIOS if kind == CLEAR else mllmu_bench.RATIOS
  return [r for r, pair in zip(known, pairs(kind)) if set(pair) <= there]


def own_file(folder: pathlib.Path) -> pathlib.Path | None:
  """The file of own data that a path is, or a folder holds alone."""
  if folder.is_file():
    return folder
  found = [
    path
    for path in sorted(folder.glob('*'))
    if path.suffix in ('.jsonl', '.ndjson', '.parquet')
  ]
  nested = any(folder.glob('*/*.parquet'))
  return found[0] if len(found) == 1 and not nested else None
