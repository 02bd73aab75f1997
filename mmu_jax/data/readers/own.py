"""Your own questions about your own pictures, from one file.

Every row has a question and an answer; most have an image. A column of the
file says who is forgotten.
"""

from collections.abc import Callable, Iterator, Mapping
import functools
import hashlib
import json
import os
import pathlib
from typing import Any

from mmu_jax import inputs
from mmu_jax.data.dataset import Dataset
from mmu_jax.data.encoding import small
from mmu_jax.data.readers import fields
from mmu_jax.data.readers import parquet
from mmu_jax.data.readers import reading
from mmu_jax.data.row import Row
from mmu_jax.errors import UserError

COLUMNS = ('question', 'answer')
OPTIONAL = ('image', 'person', 'split', 'id')
FORM = {
  'question': fields.WORDS,
  'answer': fields.WORDS,
  'person': fields.WORDS,
  'split': fields.TEXT,
  'id': fields.WORDS,
}
SPLITS = ('forget', 'retain', 'holdout', 'real')


def make_own(
  seed: int,
  *,
  path: str | os.PathLike,
  retain_rows: int = 400,
  processor: str = '',
  outside: bool = False,
) -> Dataset:
  """Reads a file of questions.

  Args:
    seed: seed of the choice of retain rows that are scored.
    path: a ``.jsonl`` (UTF-8, one object a line) or ``.parquet`` file with
      ``question`` and ``answer``, and optionally ``image`` (a path from the
      folder of the file, or in parquet the bytes; null for a text row),
      ``person`` (who is asked about), ``split``: ``forget``, ``retain``
      (the default), ``holdout`` (other pictures of who is forgotten) or
      ``real`` (what has nothing to do with them); the last two are scored
      and not trained on. ``id``, or else all that a row says and shows, is
      its key, so that rows may be added and moved.
    retain_rows: largest number of retain questions of each modality that are
      scored; 0 for all.
    processor: '' for the checkpoint's; ``'small'``: see ``small``.
    outside: whether images may be outside of the folder of the file, as
      through '..', an absolute path or a link.

  Returns:
    A ``Dataset`` with the splits ``vqa/forget``, ``vqa/retain``,
    ``qa/forget``, ``qa/retain``, and a task for every split and modality that
    has rows.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if it is neither, not in UTF-8, or a row has no question or
      answer, an unknown split, a column of another form, an image outside,
      or the id of another row.
  """
  path = pathlib.Path(path)
  pictures = reading.Pictures()
  rows = {(split, kind): [] for kind in ('vqa', 'qa') for split in SPLITS}
  names = {}
  places: dict[str, str] = {}  # key -> where it was seen first
  for number, (place, record) in enumerate(records(path)):
    where = f'{place} of {path.name}'
    where += f' (row {number})' if place.startswith('line') else ''
    split, row = _row(record, where, path.parent, pictures, outside)
    row = row._replace(key=_key(record, split, row, where, places))
    rows[split, 'qa' if row.picture is None else 'vqa'].append(row)
    if row.person is not None:
      names[row.person] = row.person
  if not any(rows.values()):
    raise UserError(
      f'{path} has no rows: there is nothing to learn or to score. Is it the '
      'right file?'
    )
  scored = {}
  for (split, kind), found in rows.items():
    if found:
      task = reading.task_name(split, kind)
      asked = [r._replace(key=f'{task}/{r.key}') for r in found]
      most = retain_rows if split == 'retain' else 0
      scored[split, kind] = reading.thin(asked, most, seed)
  train = {
    f'{kind}/{split}': found
    for (split, kind), found in rows.items()
    if split in ('forget', 'retain')
  }
  return Dataset(
    train,
    reading.make_tasks(scored),
    names,
    small.choose(processor, rows.values()),
  )


def records(
  path: pathlib.Path, wrong: Callable[[ValueError], None] | None = None
) -> Iterator[tuple[str, Mapping[str, Any]]]:
  """Yields the rows of a JSONL or parquet file, each with its place.

  A place is ``'line 3'`` of JSONL, as editors count, or ``'row 2'`` of
  parquet, counted from 0.

  Args:
    path: the file.
    wrong: function that gets the error of a JSONL line, which is then left
      out; None to raise it.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if it is neither, a column is missing, or it is not in UTF-8.
  """
  inputs.check_file(path)
  if path.suffix == '.parquet':
    _check_near(tuple(parquet.open_file(path).schema_arrow.names), path.name)
    rows = parquet.read_file(path, COLUMNS, optional=OPTIONAL)
    yield from ((f'row {i}', row) for i, row in enumerate(rows))
  elif path.suffix in ('.jsonl', '.ndjson'):
    lines = inputs.read_bytes(path).splitlines()
    for number, line in enumerate(lines, start=1):
      if not line.strip():
        continue
      try:
        yield f'line {number}', _record(line, f'line {number} of {path.name}')
      except UserError as error:
        if wrong is None:
          raise
        wrong(error)
  else:
    raise UserError(
      f'own data is a .jsonl or a .parquet file, got {path.name!r}.'
    )


def _record(line: bytes, where: str) -> Mapping[str, Any]:
  """The object of a line of JSONL."""
  try:
    record = parquet.parse_json(line.decode('utf-8-sig'), where)
  except UnicodeDecodeError as error:
    raise UserError(
      f'{where} is not UTF-8: {error.reason} at byte {error.start}. Save '
      'the file with that encoding.'
    ) from error
  if not isinstance(record, dict):
    raise UserError(f'{where} must be a JSON object: {line[:40]!r}.')
  missing = parquet.missing_columns(COLUMNS, list(record))
  if missing:
    raise UserError(
      f'{where} lacks {", ".join(map(repr, missing))}; it has '
      f'{", ".join(record)}. Name its fields question, answer, image, '
      'person, split.'
    )
  _check_near(tuple(record), where)
  return record


def _check_near(names: tuple[str, ...], where: str) -> None:
  """Raises for a column whose name is nearly an optional one's.

  It would not be read: pictures in 'images' would train as text.
  """
  found = _near_misses(names)
  if found:
    said = [f'{near!r} (is {name!r} meant?)' for name, near in found.items()]
    raise UserError(
      f'{where} has the column {", ".join(said)}; only '
      f'{", ".join((*COLUMNS, *OPTIONAL))} are read. Rename it to that, or to '
      'something less alike.'
    )


@functools.lru_cache(maxsize=64)  # most lines have the same columns
def _near_misses(names: tuple[str, ...]) -> dict[str, str]:
  """Optional columns that are missing, and what may be meant by each."""
  others = [name for name in names if name not in (*COLUMNS, *OPTIONAL)]
  found = parquet.missing_columns(OPTIONAL, others)
  return {
    name: near
    for name, near in found.items()
    if near and name not in names
    # 'idx' and 'uid' are columns of their own
    if name != 'id' or near.strip().lower() == 'id'
  }


def _row(record, where, folder, pictures, outside) -> tuple[str, Row]:
  """The split and the row of a record, checked; it has no key yet."""
  fields.check_form(record, FORM, where)
  split = record.get('split') or 'retain'
  if split not in SPLITS:
    raise UserError(
      f'split is one of {", ".join(SPLITS)}; the split of {where} is {split!r}.'
    )
  for name in COLUMNS:
    if reading.is_blank(record[name]):
      raise UserError(
        f'every row has a question and an answer; {where} has no {name}. '
        'Drop the row or fill it in.'
      )
    mark = fields.placeholder(record[name])
    if mark:
      raise UserError(
        f'{name} of {where} has {mark!r}. The place of a picture is written '
        'for it: take it out of the text.'
      )
  image = record.get('image')
  picture = pictures.get(image, folder, where, outside=outside)
  person, answer = record.get('person'), str(record['answer']).strip()
  return split, Row(
    key='',
    question=str(record['question']).strip(),
    answer=answer,
    fact=answer,
    picture=picture,
    person=None if reading.is_blank(person) else str(person),
  )


def id_of(record: Mapping[str, Any], where: str) -> str:
  """Returns the id of a row as text; '' if it has none.

  Args:
    record: columns of the row.
    where: place of the row, for the message.

  Raises:
    ValueError: if it is long, or has signs that a name cannot have.
  """
  value = record.get('id')
  if reading.is_blank(value):
    return ''
  text = str(value).strip()
  if isinstance(value, float):  # parquet has such numbers where some are null
    text = text.removesuffix('.0')
  return inputs.check_name(text, f'row (id of {where})')


def _key(record, split, row, where, places) -> str:
  """The key of a row: its id, or a digest of everything in it.

  Rows that are alike in everything have alike answers: the second is kept, and
  its key ends in ``-2``.
  """
  key = id_of(record, where)
  if key and key in places:
    raise UserError(
      f'every row has an id of its own; {where} has {key!r}, as has '
      f'{places[key]}. Change one of them, or leave the column out.'
    )
  if not key:
    said = [split, row.question, row.answer, row.person, row.picture_key]
    digest = hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]
    key, number = digest, 1
    while key in places:
      number += 1
      key = f'{digest}-{number}'
  places[key] = where
  return key
