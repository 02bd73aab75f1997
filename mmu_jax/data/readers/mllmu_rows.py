"""The rows of MLLMU-Bench: people, scored questions, training questions.

Columns are named as on the hub; ``mllmu_bench`` makes a dataset of the rows.
"""

from collections.abc import Iterator, Mapping, Sequence, Set
import pathlib
from typing import Any, NamedTuple

from mmu_jax.data.readers import fields
from mmu_jax.data.readers import parquet
from mmu_jax.data.readers import reading
from mmu_jax.data.row import CLASSIFICATION
from mmu_jax.data.row import CLOZE
from mmu_jax.data.row import GENERATION
from mmu_jax.data.row import Picture
from mmu_jax.data.row import Row
from mmu_jax.errors import UserError

TASKS = ('Classification_Task', 'Generation_Task', 'Mask_Task')
PERSON = ('image', 'ID', *TASKS)  # columns of a config with one image
HOLDOUT = ('images', 'ID', *TASKS)  # of Test_Set
TRAINING = ('image', 'metadata')
# Which questions are asked about a picture, and which in text alone.
QUESTIONS = {
  'vqa': ('Image_Textual_Questions', 'Image_Textual'),
  'qa': ('Pure_Text_Questions', 'Pure_Text'),
}
_QUESTION = {
  'Question': fields.TEXT,
  'Ground_Truth': fields.WORDS,
  'Type': fields.TEXT,
}
_CHOICE = {
  'Question': fields.TEXT,
  'Options': {...: fields.WORDS},
  'Correct_Answer': fields.WORDS,
}
_FORM = {
  'ID': fields.WORDS,
  'images': [object],
  'Classification_Task': {
    chosen: [_CHOICE] for chosen, _ in QUESTIONS.values()
  },
  'Generation_Task': [_QUESTION],
  'Mask_Task': [_QUESTION],
}
_LESSONS = [
  {'Question': fields.WORDS, 'Answer': fields.WORDS, 'ID': fields.WORDS}
]


class Profile(NamedTuple):
  """A person as a config has them.

  Attributes:
    person: the id: ``'093'``.
    pictures: one picture, or several in Test_Set.
    tasks: the columns of ``TASKS``.
    name: '' if the biography does not tell it.
  """

  person: str
  pictures: tuple[Picture, ...]
  tasks: Mapping[str, Any]
  name: str = ''


class Lesson(NamedTuple):
  """A question and its answer to train on, about a picture."""

  person: str
  number: int
  question: str
  answer: str
  picture: Picture


def profiles(
  root: pathlib.Path, config: str, pictures: reading.Pictures
) -> Iterator[Profile]:
  """Yields the people of a config.

  Raises:
    FileNotFoundError: if the config is not there.
    ValueError: if a column or a picture is missing, a column has another
      form, or an id occurs twice.
  """
  holdout = config == 'Test_Set'
  columns = HOLDOUT if holdout else PERSON
  ids = []
  for row in parquet.read_config(
    root, config, columns, optional=('biography',)
  ):
    person = reading.person_id(row['ID'])
    ids.append(person)
    name = f'row {person} of {config}'
    tasks = tasks_of(row, name)
    images = (row['images'] or ()) if holdout else (row['image'],)
    found = tuple(pictures.get(i, root / config, name) for i in images)
    if not found or None in found:
      raise UserError(
        f'every person of MLLMU-Bench has a picture; {name} has none. Get '
        f'the files of {config} again, or drop the row.'
      )
    yield Profile(
      person, found, tasks, name_of(row['biography'], f'biography of {name}')
    )
  reading.check_unique(ids, f'{root / config}')


def questions(
  profile: Profile, kind: str, where: str, dropped: reading.Dropped
) -> Iterator[Row]:
  """Yields the questions about a person: a row for each and each picture.

  Args:
    profile: the person.
    kind: ``'vqa'`` or ``'qa'``.
    where: the task, for the keys: ``'forget_vqa'``.
    dropped: record that gets the questions that are left out.
  """
  chosen, written = QUESTIONS[kind]
  shown = profile.pictures if kind == 'vqa' else (None,)
  for index, picture in enumerate(shown):
    view = f'/{index}' if len(shown) > 1 else ''
    for row in _asked(profile, chosen, written, dropped):
      yield row._replace(
        key=f'{where}/{profile.person}{view}/{row.key}', picture=picture
      )


def lessons(
  root: pathlib.Path,
  config: str,
  pictures: reading.Pictures,
  dropped: reading.Dropped,
) -> Iterator[Lesson]:
  """Yields the training questions of a config, each with its picture.

  Raises:
    FileNotFoundError: if the config is not there.
    ValueError: if a column or a picture is missing, a row does not tell its
      person, or a person occurs twice.
  """
  check_training_columns(root, config)
  persons = []
  for number, row in enumerate(
    parquet.read_config(root, config, TRAINING, optional=('ID',))
  ):
    where = f'row {number} of {config}'
    picture = pictures.get(row['image'], root / config, where)
    items = lesson_items(row['metadata'], where)
    person = person_of(row['ID'], items, where)
    persons.append(person)
    if picture is None:
      raise UserError(
        f'training rows have a picture; {where} (person {person}) has '
        'none. Get the file again, or drop the row.'
      )
    yield from _taught(person, picture, items, dropped)
  reading.check_unique(persons, f'{root / config}')


def tasks_of(row: Mapping[str, Any], where: str) -> dict[str, Any]:
  """Returns the columns of ``TASKS``, with JSON parsed.

  Args:
    row: a row of a config; a column that it lacks is None.
    where: names the row, for messages.

  Raises:
    ValueError: if one is no JSON, or a column of the row has another form.
  """
  tasks = {
    name: parquet.parse_json(row.get(name), f'{name} of {where}')
    for name in TASKS
  }
  fields.check_form({**row, **tasks}, _FORM, where)
  return tasks


def unmatched(
  forget: Set[str], retain: Set[str], taught: Set[str], shown: Set[str]
) -> dict[str, list[str]]:
  """Returns the people of whom a config lacks what another has.

  Args:
    forget: people of the forget set.
    retain: people of the retain set.
    taught: people with training questions.
    shown: people of Test_Set.

  Returns:
    Problem -> people, sorted; only problems that somebody has.
  """
  questions = 'without training questions'
  found = {
    f'people of the forget set {questions}': forget - taught,
    f'people of the retain set {questions}': retain - taught,
    'people with training questions who are in neither set': (
      taught - forget - retain
    ),
    'people of the forget set without pictures in Test_Set': forget - shown,
  }
  return {what: sorted(who) for what, who in found.items() if who}


def options_of(item: Mapping[str, Any]) -> tuple[dict[str, str], str]:
  """Returns the options of a classification question and the right letter.

  Returns:
    Letter -> text, and the letter; '' if the options lack it.

  Example:
    >>> options_of({'Options': {'A': 'cat', 'B': None}, 'Correct_Answer': 'a.'})
    ({'A': 'cat'}, 'A')
  """
  given = item.get('Options') or {}
  options = {
    letter: str(given[letter]).strip()
    for letter in sorted(given)
    if not reading.is_blank(given[letter])
  }
  right = str(item.get('Correct_Answer') or '').strip()
  letter = right.rstrip('.):').upper()
  if letter not in options:
    letter = next((k for k, v in options.items() if v == right), '')
  return options, letter


def lesson_items(metadata: Any, where: str) -> list[dict[str, str]]:
  """Returns the questions and answers of a row's ``metadata``.

  Raises:
    ValueError: if it is no JSON list of objects, or a field of one is neither
      text nor a number.
  """
  items = parquet.parse_json(metadata, f'metadata of {where}')
  if not isinstance(items, list) or not all(
    isinstance(item, dict) for item in items
  ):
    raise UserError(
      'metadata is a JSON list of {Question, Answer}; in '
      f'{where} it begins with {str(metadata)[:60]!r}. Repair the row.'
    )
  fields.check_form(items, _LESSONS, where, 'metadata')
  return items


def check_training_columns(root: pathlib.Path, config: str) -> None:
  """Raises if these are rows of the benchmark and not of its training set.

  Raises:
    ValueError: the message says where the training rows are.
  """
  for files in parquet.splits(root, config).values():
    names = parquet.open_file(files[0]).schema_arrow.names
    if 'metadata' not in names and 'Classification_Task' in names:
      raise UserError(
        f'training rows have a column metadata, and {root / config} has '
        'none: its rows are scored questions. The training rows are '
        'in a second repository, MLLMMU/baseline_train_split (train_path), '
        'or in the config ft_Data of MLLMMU/MLLMU-Bench (leave train_path '
        'empty).'
      )


def name_of(biography: Any, where: str) -> str:
  """Returns the name in a biography that is a JSON object; '' in any other."""
  if isinstance(biography, str) and biography.lstrip().startswith('{'):
    biography = parquet.parse_json(biography, where)
  if not isinstance(biography, Mapping):
    return ''
  for key, value in biography.items():
    if key.lower().replace('_', ' ') in ('name', 'full name') and value:
      return str(value).strip()
  return ''


def person_of(value: Any, items: Sequence[Mapping], where: str) -> str:
  """Returns the id of a training row: its own, or the one in its questions."""
  given = (item.get('ID') for item in items)
  ids = {reading.person_id(i) for i in given if not reading.is_blank(i)}
  if reading.is_blank(value):
    value = ids.pop() if len(ids) == 1 else None
  if value is None:
    raise UserError(
      f'{where} does not tell its person: it has no column ID, and its '
      f'metadata has {len(ids)} IDs. Add the column.'
    )
  return reading.person_id(value)


def _taught(person, picture, items, dropped) -> Iterator[Lesson]:
  """The questions of one row that have a question and an answer."""
  for number, item in enumerate(items):
    question, answer = item.get('Question'), item.get('Answer')
    if reading.is_blank(question) or reading.is_blank(answer):
      dropped.add('empty training questions or answers', f'{person}/{number}')
    else:
      text = str(question).strip(), str(answer).strip()
      yield Lesson(person, number, *text, picture)


def _asked(profile, chosen, written, dropped) -> Iterator[Row]:
  """The questions of one modality, without picture and task in their keys."""
  tasks, person = profile.tasks, profile.person
  for column in [name for name in TASKS if not tasks[name]]:
    dropped.add(f'people without {column}', person)
  of_class = (tasks['Classification_Task'] or {}).get(chosen) or ()
  for i, item in enumerate(of_class):
    options, letter = options_of(item)
    key = f'{CLASSIFICATION}{i}'
    if reading.is_blank(item.get('Question')) or not letter:
      dropped.add(
        'classification questions without their answer', f'{person}/{key}'
      )
      continue
    answer, choices = options[letter], tuple(options.values())
    row = Row(key, item['Question'].strip(), answer, answer, person=person)
    yield row._replace(task=CLASSIFICATION, options=choices)
  for column, task in (('Mask_Task', CLOZE), ('Generation_Task', GENERATION)):
    for i, item in enumerate(tasks[column] or ()):
      if item.get('Type') != written:
        continue
      key, answer = f'{task}{i}', item.get('Ground_Truth')
      if reading.is_blank(item.get('Question')) or reading.is_blank(answer):
        dropped.add(
          f'{task} questions without question or answer', f'{person}/{key}'
        )
        continue
      answer = str(answer).strip()
      yield Row(
        key, item['Question'].strip(), answer, answer, person=person, task=task
      )
