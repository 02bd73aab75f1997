"""MLLMU-Bench: 500 people who do not exist, and 153 celebrities.

Two repositories of the hub belong together: ``MLLMMU/MLLMU-Bench`` has the
scored questions, and in its config ``ft_Data`` the training rows of vanilla;
``MLLMMU/baseline_train_split`` has the same training rows cut into forget and
retain sets.

References:
  Liu et al., `Protecting Privacy in Multimodal Large Language Models with
  MLLMU-Bench <https://arxiv.org/abs/2410.22108>`_, 2024.
"""

from collections.abc import Iterator, Sequence
import functools
import os
import pathlib
import re

from mmu_jax.data.dataset import Dataset
from mmu_jax.data.dataset import Task
from mmu_jax.data.encoding import small
from mmu_jax.data.readers import mllmu_rows
from mmu_jax.data.readers import parquet
from mmu_jax.data.readers import reading
from mmu_jax.data.readers.mllmu_rows import Lesson
from mmu_jax.data.readers.mllmu_rows import Profile
from mmu_jax.data.rng import named_rng
from mmu_jax.data.row import GENERATION
from mmu_jax.data.row import Row
from mmu_jax.errors import UserError

RATIOS = (5, 10, 15)
TEXT = ('classification', 'generation', 'training', 'none')


def make_mllmu_bench(
  seed: int,
  *,
  path: str | os.PathLike,
  train_path: str | os.PathLike = '',
  ratio: int = 5,
  text: str = 'classification',
  holdout: str = 'one',
  retain_rows: int = 0,
  processor: str = '',
) -> Dataset:
  """Reads MLLMU-Bench.

  Splits: ``vqa/forget`` and ``vqa/retain`` are the training questions about
  the portraits; ``qa/forget`` and ``qa/retain`` are knowledge in text, by
  name. Tasks: ``forget_vqa``, ``forget_vqa_holdout`` (Test_Set: other pictures
  and other words), ``retain_vqa``, ``real_vqa`` (celebrities), and the same
  with ``qa``; each has classification (``options`` in the order of their
  letters), cloze (the question as it is, with its ``__``) and generation rows.

  Args:
    seed: seed of the choices below.
    path: folder of ``MLLMMU/MLLMU-Bench``, one folder for each config.
    train_path: folder of ``MLLMMU/baseline_train_split``; '' for ``ft_Data``
      of ``path``, split by the ids of the forget and retain configs.
    ratio: 5, 10 or 15 % of the people are to be forgotten.
    text: source of the text splits. ``'classification'``: as the
      published code, which *trains on the questions that it scores*, the right
      option being the answer. ``'generation'``: scored questions as well.
      ``'training'``: made of the training questions alone, with the name in
      place of "this person". ``'none'``: no text.
    holdout: ``'one'`` picture of Test_Set for each person, chosen by seed (the
      published code chooses one anew in every run), or ``'all'``.
    retain_rows: largest number of retain questions of each kind that are
      scored; 0 for all.
    processor: '' for the checkpoint's; ``'small'``: see ``small``.

  Returns:
    A ``Dataset``. Its notes say which questions were left out: those without
    question or answer, and those whose options lack the answer; and who lacks
    training questions or other pictures.

  Raises:
    FileNotFoundError: if a config is missing.
    ValueError: if an option is unknown, a column is missing or has another
      form, an id occurs twice or in forget and retain set, a picture is
      missing, or nobody of the forget set has training questions.
  """
  _check_options(ratio, text, holdout)
  path = pathlib.Path(path).expanduser()
  pictures, dropped = reading.Pictures(), reading.Dropped()
  people = functools.partial(mllmu_rows.profiles, path, pictures=pictures)
  groups = {
    'forget': list(people(f'forget_{ratio}')),
    'retain': list(people(f'retain_{100 - ratio}')),
  }
  group_of = _group_of(groups)
  train = {f'{kind}/{g}': [] for kind in ('vqa', 'qa') for g in groups}
  lessons = [
    lesson
    for root, config in _training_configs(path, train_path, ratio)
    for lesson in mllmu_rows.lessons(root, config, pictures, dropped)
  ]
  taught = {lesson.person for lesson in lessons}
  lessons = [lesson for lesson in lessons if lesson.person in group_of]
  for lesson in lessons:
    train[f'vqa/{group_of[lesson.person]}'].append(_training_row(lesson))
  names = _names(path, lessons)
  for row in _text_rows(path, text, lessons, names, dropped):
    if row.person in group_of:
      train[f'qa/{group_of[row.person]}'].append(row)
  groups['holdout'] = [
    _chosen(profile, holdout, seed)
    for profile in people('Test_Set')
    if group_of.get(profile.person) == 'forget'
  ]
  groups['real'] = [
    profile._replace(person=f'real/{profile.person}')
    for profile in people('Retain_Set')
  ]
  notes = _unmatched(groups, taught, train_path or path)
  tasks = _tasks(groups, dropped)
  for name in ('retain_vqa', 'retain_qa'):
    thinned = reading.thin(tasks[name].rows, retain_rows, seed)
    tasks[name] = tasks[name]._replace(rows=thinned)
  return Dataset(
    train,
    tasks,
    {person: name for person, name in names.items() if person in group_of},
    small.choose(
      processor, [*train.values(), *(task.rows for task in tasks.values())]
    ),
    dropped.notes() + notes,
    official='official_mllmu_bench',
  )


def _check_options(ratio, text, holdout):
  """Raises if an option is none of those there are."""
  for name, value, known in (
    ('ratio', ratio, RATIOS),
    ('text', text, TEXT),
    ('holdout', holdout, ('one', 'all')),
  ):
    if value not in known:
      raise UserError(
        f'{name} is one of {", ".join(map(repr, known))}, got {value!r}.'
      )


def _training_configs(path, train_path, ratio):
  """(folder, config) of the training rows."""
  if not train_path:
    return [(path, 'ft_Data')]
  configs = f'forget_{ratio}', f'retain_{100 - ratio}'
  return [(pathlib.Path(train_path), config) for config in configs]


def _group_of(groups) -> dict[str, str]:
  """Person -> group; raises if somebody is in both."""
  forget, retain = ({p.person: '' for p in groups[g]} for g in groups)
  reading.check_apart(forget, retain)
  return dict.fromkeys(forget, 'forget') | dict.fromkeys(retain, 'retain')


def _unmatched(groups, taught, where) -> tuple[str, ...]:
  """Notes who lacks something; raises if no forgotten one can be learnt."""
  people = {g: {p.person for p in found} for g, found in groups.items()}
  found = mllmu_rows.unmatched(
    people['forget'], people['retain'], taught, people['holdout']
  )
  if not people['forget'] & taught:
    raise UserError(
      f'none of the {len(people["forget"])} people to forget '
      f'({reading.some(sorted(people["forget"]))}) has training questions in '
      f'{where}, so vanilla would never learn them; the questions are about '
      f'{reading.some(sorted(taught)) or "nobody"}. Compare the column ID of '
      'both.'
    )
  return tuple(
    f'{len(who)} {what}: {reading.some(who)}' for what, who in found.items()
  )


def _training_row(lesson: Lesson) -> Row:
  """A training question about a picture."""
  return Row(
    key=f'train/vqa/{lesson.person}/{lesson.number:02d}',
    question=lesson.question,
    answer=lesson.answer,
    fact=lesson.answer,
    picture=lesson.picture,
    person=lesson.person,
  )


def _names(path, lessons: Sequence[Lesson]) -> dict[str, str]:
  """Person -> name, from the biographies or else the training answers."""
  names = {}
  for lesson in lessons:
    if re.search(r'\bname\b', lesson.question) and lesson.person not in names:
      names[lesson.person] = reading.name_in(lesson.answer)
  for row in parquet.read_config(
    path, 'Full_Set', ('ID',), optional=('biography',)
  ):
    person = reading.person_id(row['ID'])
    where = f'biography of row {person} of Full_Set'
    told = mllmu_rows.name_of(row['biography'], where)
    names[person] = told or names.get(person, '')
  return {person: name for person, name in names.items() if name}


def _text_rows(path, text, lessons, names, dropped) -> Iterator[Row]:
  """Knowledge in text, to train on: see ``make_mllmu_bench``."""
  if text == 'training':
    yield from _named_lessons(lessons, names)
  if text not in ('classification', 'generation'):
    return
  for row in parquet.read_config(path, 'Full_Set', ('ID', *mllmu_rows.TASKS)):
    person = reading.person_id(row['ID'])
    where = f'row {person} of Full_Set'
    profile = mllmu_rows.Profile(person, (), mllmu_rows.tasks_of(row, where))
    for asked in mllmu_rows.questions(profile, 'qa', 'train/qa', dropped):
      if asked.task == text:
        yield asked._replace(task=GENERATION, options=())


def _named_lessons(lessons, names) -> Iterator[Row]:
  """Training questions in text, with the name for "this person"."""
  for lesson in lessons:
    name = names.get(lesson.person)
    if not name or re.search(r'\bname\b', lesson.question):
      continue
    question, found = _this_person(lesson.question, name)
    if found:
      answer, _ = _this_person(lesson.answer, name)
      yield _training_row(lesson)._replace(
        key=f'train/qa/{lesson.person}/{lesson.number:02d}',
        question=question,
        answer=answer,
        fact=answer,
        picture=None,
      )


def _this_person(text, name) -> tuple[str, int]:
  """A text with a name for "this person", and how often."""
  return re.subn(
    r'\b(?:this|the) (?:person|individual)\b',
    lambda _: name,
    text,
    flags=re.IGNORECASE,
  )


def _chosen(profile: Profile, holdout: str, seed: int) -> Profile:
  """A person of Test_Set with one picture, chosen by seed, or with all."""
  if holdout == 'all':
    return profile
  rng = named_rng(seed, 'holdout', profile.person)
  one = profile.pictures[int(rng.integers(len(profile.pictures)))]
  return profile._replace(pictures=(one,))


def _tasks(groups, dropped) -> dict[str, Task]:
  """The scored rows by task."""
  rows = {}
  for group in reading.TASK_NAMES:
    for kind in mllmu_rows.QUESTIONS:
      task = reading.task_name(group, kind)
      rows[group, kind] = [
        row
        for profile in groups[group]
        for row in mllmu_rows.questions(profile, kind, task, dropped)
      ]
  return reading.make_tasks(rows)
