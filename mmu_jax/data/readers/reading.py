"""Shared by the readers: pictures, choices, and rows that are left out."""

from collections.abc import Mapping, Sequence
import pathlib
import re
from typing import Any
import unicodedata

import numpy as np

from mmu_jax import inputs
from mmu_jax.data import dataset as dataset_lib
from mmu_jax.data.dataset import Task
from mmu_jax.data.encoding.images import LazyImage
from mmu_jax.data.readers import parquet
from mmu_jax.data.rng import named_rng
from mmu_jax.data.row import Picture
from mmu_jax.data.row import Row
from mmu_jax.errors import UserError

# Group of rows in a benchmark -> the name of its task, for each modality. The
# group 'holdout' has other pictures of the people to forget, or other words.
TASK_NAMES = {
  'forget': 'forget_{}',
  'holdout': 'forget_{}_holdout',
  'retain': 'retain_{}',
  'real': 'real_{}',
}
# (split, modality) of the tasks that stand for the rest.
_HEADLINES = {
  ('forget', 'vqa'),
  ('forget', 'qa'),
  ('retain', 'vqa'),
  ('retain', 'qa'),
  ('real', 'vqa'),
}
# Letters with a stroke, which Unicode does not take apart.
_LETTERS = str.maketrans(
  {'ø': 'o', 'ł': 'l', 'đ': 'd', 'ħ': 'h', 'ı': 'i', 'æ': 'ae', 'œ': 'oe'}
)
# How a picture begins in base64: PNG, JPEG, GIF, WEBP, TIFF, or of any form.
_BASE64 = 'iVBORw0KGgo /9j/ R0lGOD UklGR SUkqAA TU0AKg data:'.split()


def task_name(group: str, modality: str) -> str:
  """The name of a task: of its score and of its files.

  Example:
    >>> task_name('holdout', 'vqa')
    'forget_vqa_holdout'
  """
  return TASK_NAMES[group].format(modality)


def make_tasks(
  rows: Mapping[tuple[str, str], Sequence[Row]],
) -> dict[str, Task]:
  """Makes the tasks of a benchmark.

  New pictures of the people to forget stand for their training pictures, where
  there are some.

  Args:
    rows: rows by (group, modality), the group a key of ``TASK_NAMES``.

  Returns:
    Tasks by name.
  """
  made = []
  for (group, modality), found in rows.items():
    holdout = group == 'holdout'
    split = dataset_lib.FORGET if holdout else group
    headline = (split, modality) in _HEADLINES
    if split == dataset_lib.FORGET:
      shown = modality == 'vqa' and ('holdout', modality) in rows
      headline = headline and holdout == shown
    role = dataset_lib.role_of(split, modality)
    name = task_name(group, modality)
    made.append(
      Task(name, found, split, modality, role, holdout, headline=headline)
    )
  return dataset_lib.by_name(*made)


class Pictures:
  """The pictures of a folder: the same file gives the same object.

  The configs of a benchmark hold a picture several times (``Full_Set``,
  ``ft_Data`` and ``forget_5`` of MLLMU-Bench have the same portrait), and it is
  kept and encoded once. The key of a picture is made of its bytes.
  """

  def __init__(self):
    """Has seen none."""
    self._seen: dict[str, Picture] = {}

  def get(
    self, value: Any, folder: pathlib.Path, name: str, *, outside: bool = False
  ) -> Picture | None:
    """Returns the picture of an image column, or None for a null.

    Args:
      value: ``{'bytes': ..., 'path': ...}`` as the hub has it, the bytes of a
        file, or its path.
      folder: folder where relative paths begin.
      name: name of the row, for messages.
      outside: whether a path may lead out of the folder.

    Raises:
      ValueError: if the value is something else, or a file is missing or
        outside of the folder.
    """
    source = image_source(value, folder, name)
    if isinstance(source, pathlib.Path) and not outside:
      check_inside(source, folder, name)
    if source is None:
      return None
    image = LazyImage(source, name)
    return self._seen.setdefault(image.digest(), Picture(image.digest(), image))


def image_source(
  value: Any, folder: pathlib.Path, name: str
) -> bytes | pathlib.Path | None:
  """Returns the bytes of an image column's file, or else its path.

  Null, an empty path, and a pair of two nulls are no image: None.
  """
  data, path = (value, None) if isinstance(value, bytes) else (None, value)
  if isinstance(value, Mapping) and value.keys() & {'bytes', 'path'}:
    data, path = value.get('bytes'), value.get('path')
  if isinstance(data, bytes):
    return data
  if data is None and (path is None or path == ''):
    return None
  if data is None and isinstance(path, str):
    coded = len(path) > 100 and path.startswith(tuple(_BASE64))
    if coded or re.match(r'\w+://', path):
      kind = 'text in base64' if coded else 'an address'
      raise UserError(
        f'the image of {name} is {kind}, {path[:24]!r}...; a path, or bytes in '
        'parquet, is read. Write each picture to a file.'
      )
    return folder / path
  raise UserError(
    f'the image of {name} must be {{bytes, path}}, bytes or a path, got '
    f'{type(value).__name__} {str(value)[:40]}. Write the column as the hub '
    'has it.'
  )


def check_inside(path: pathlib.Path, folder: pathlib.Path, name: str) -> None:
  """Raises ValueError if the image of a row is outside of the data."""
  if not inputs.is_inside(path, folder):
    raise UserError(
      f'images are in the folder of the data; the image of {name} is '
      f'{str(path)[:200]!r}, which is outside of it (links are followed). Move '
      'it there; for own data that you trust, set config.data.outside=True.'
    )


class Dropped:
  """Rows that a reader leaves out, by reason."""

  def __init__(self):
    """Nothing is left out yet."""
    self._keys: dict[str, dict[str, None]] = {}

  def add(self, reason: str, key: str) -> None:
    """Notes a row that is left out."""
    self._keys.setdefault(reason, {})[key] = None

  def notes(self) -> tuple[str, ...]:
    """One line for each reason: how many rows, and the first of them."""
    return tuple(
      f'left out {len(keys)} {reason}: {some(list(keys))}'
      for reason, keys in self._keys.items()
    )


def some(keys: Sequence[str]) -> str:
  """The first five of some keys, for a message."""
  return ', '.join(keys[:5]) + (', ...' if len(keys) > 5 else '')


def is_blank(text: Any) -> bool:
  """Whether a text column says nothing: null, NaN, empty, or white space."""
  return text is None or text != text or not str(text).strip()


def person_id(value: Any) -> str:
  """Returns an id as the benchmarks write it.

  A table program makes numbers of the ids '001', '002', ...; then '93' and
  '093' would be two people. An id of digits has at least three.

  Example:
    >>> person_id(93), person_id('093'), person_id(93.0), person_id(' 93')
    ('093', '093', '093', '093')
    >>> person_id('ana')
    'ana'
  """
  text = str(value).strip()
  number = re.fullmatch(r'0*([0-9]+)(\.0)?', text)
  return number[1].zfill(3) if number else text


def insert(
  answer: str, others: Sequence[str], rng: np.random.Generator
) -> tuple[str, ...]:
  """Returns wrong answers with the right one at a random place among them."""
  options = list(dict.fromkeys(o for o in others if o and o != answer))
  options.insert(int(rng.integers(len(options) + 1)), answer)
  return tuple(options)


def thin(rows: Sequence[Row], number: int, seed: int) -> list[Row]:
  """Returns at most so many rows of each task, in their order; 0 for all.

  Args:
    rows: rows of one task.
    number: number of rows to keep of each ``Row.task``.
    seed: seed of the choice.
  """
  if not number:
    return list(rows)
  kept = set()
  for task in {row.task for row in rows}:
    keys = [row.key for row in rows if row.task == task]
    order = named_rng(seed, 'thin', task).permutation(len(keys))
    kept |= {keys[i] for i in order[:number]}
  return [row for row in rows if row.key in kept]


def check_unique(keys: Sequence[str], where: str) -> None:
  """Raises if a key occurs twice.

  Args:
    keys: ids of people or rows.
    where: name of the table, for the message.
  """
  counts: dict[str, int] = {}
  for key in keys:
    counts[key] = counts.get(key, 0) + 1
  twice = [key for key, count in counts.items() if count > 1]
  if twice:
    raise UserError(
      f'an ID occurs once in {where}; {len(twice)} occur more often: '
      f'{", ".join(twice[:5])}. Which row holds is not known: drop the '
      'others. `mmu data check` lists them all.'
    )


def spelling(name: str) -> str:
  """Returns a name without signs that a reader does not mind: for comparing.

  Case, accents, Unicode forms, spaces, hyphens and other signs do not count.

  Example:
    >>> spelling('Jean-Luc  Müller') == spelling('jean luc MULLER')
    True
    >>> spelling('Søren O’Neil') == spelling("Soren O'Neil")
    True
  """
  plain = unicodedata.normalize('NFKD', name).casefold().translate(_LETTERS)
  return ''.join(filter(str.isalnum, plain)) or name


def in_both(forget: Mapping[str, str], retain: Mapping[str, str]) -> list[str]:
  """Returns the people of two sets who are one, by any spelling.

  Args:
    forget: name -> place of a row about it; '' where it is not known.
    retain: the same of the other set.

  Example:
    >>> in_both({'José': 'line 1'}, {'Jose': 'line 3', 'Ana': 'line 4'})
    ['José = Jose (line 1; line 3)']
  """
  known: dict[str, str] = {}
  for name in retain:
    known.setdefault(spelling(name), name)
  found = {}
  for name, here in forget.items():
    other = known.get(spelling(name))
    if other is not None:
      there = f'{here}; {retain[other]}'
      said = name if name == other else f'{name} = {other}'
      found.setdefault(other, f'{said} ({there})' if here else said)
  return sorted(found.values())


def check_apart(
  forget: Mapping[str, str],
  retain: Mapping[str, str],
  fix: str = 'The two configs must be of one ratio.',
) -> None:
  """Raises if somebody is in the forget and in the retain set: ``in_both``.

  Args:
    forget: name -> place of a row about it; '' where it is not known.
    retain: the same of the other set.
    fix: next step, a sentence.
  """
  both = in_both(forget, retain)
  if both:
    raise UserError(
      f'nobody is both forgotten and retained; {len(both)} in both sets: '
      f'{some(both)}. {fix}'
    )


def strangers(
  holdout: Mapping[str, str],
  forget: Mapping[str, str],
  retain: Mapping[str, str],
) -> list[str]:
  """Returns the people of holdout rows whom the forget set does not name.

  A name counts in the spelling of the forget set alone. Where that set names
  nobody, only the people of the retain set are found.

  Args:
    holdout: name -> place of a row about it.
    forget: the same of the forget set.
    retain: the same of the retain set.

  Example:
    >>> strangers({'Jose': 'line 3', 'Bo': 'line 5'}, {'José': 'line 1'}, {})
    ["'Jose' (line 3; is 'José' meant?)", "'Bo' (line 5)"]
  """
  hints = {spelling(name): f'; retained in {at}' for name, at in retain.items()}
  known = {spelling(name): name for name in forget}
  found = []
  for name, here in holdout.items():
    near = known.get(spelling(name)) or parquet.nearest(name, forget)
    hint = hints.get(spelling(name), f'; is {near!r} meant?' if near else '')
    if name not in forget and (forget or hint):
      found.append(f'{name!r} ({here}{hint})')
  return found


def name_in(answer: str) -> str:
  """Returns the name in an answer that tells one, or ''.

  Example:
    >>> name_in("This person's name is Amelia Kuznetsov.")
    'Amelia Kuznetsov'
    >>> name_in('Dr. Ana Ruiz.'), name_in('This person is a chef.')
    ('Dr. Ana Ruiz', '')
  """
  text = re.sub(r'^.*\bis (?:named |called )?', '', answer.strip())
  text = text.removesuffix('.')
  is_name = re.fullmatch(r"[A-Z][\w'.-]*( [A-Z][\w'.-]*){1,4}", text)
  return text if is_name else ''
