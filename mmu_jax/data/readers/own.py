"""Your own questions about your own pictures, from one file.

Every row has a question and an answer; most have an image. A column of the
file says who is forgotten.
"""

from collections.abc import Callable, Iterator, Mapping
import os
import pathlib
from typing import Any

from mmu_jax.data.dataset import Dataset
from mmu_jax.data.encoding import small
from mmu_jax.data.readers import fields
from mmu_jax.data.readers import parquet
from mmu_jax.data.readers import reading
from mmu_jax.data.row import Row
from mmu_jax.errors import MissingError
from mmu_jax.errors import UserError

COLUMNS = ('question', 'answer')
OPTIONAL = ('image', 'person', 'split')
FORM = {
  'question': fields.WORDS,
  'answer': fields.WORDS,
  'person': fields.WORDS,
  'split': fields.TEXT,
}
SPLITS = ('forget', 'retain', 'holdout', 'real')


def make_own(
  seed: int,
  *,
  path: str | os.PathLike,
  retain_rows: int = 400,
  processor: str = '',
) -> Dataset:
  """Reads a file of questions.

  Args:
    seed: seed of the choice of retain rows that are scored.
    path: a ``.jsonl`` (UTF-8, one object a line) or ``.parquet`` file with
      ``question`` and ``answer``, and optionally ``image`` (a path from the
      folder of the file, or in parquet the bytes; null for a text row),
      ``person`` (who is asked about) and ``split``: ``forget``, ``retain``
      (the default), ``holdout`` (other pictures of who is forgotten) or
      ``real`` (what has nothing to do with them); the last two are scored
      and not trained on.
    retain_rows: largest number of retain questions of each modality that are
      scored; 0 for all.
    processor: '' for the checkpoint's; ``'small'``: see ``small``.

  Returns:
    A ``Dataset`` with the splits ``vqa/forget``, ``vqa/retain``,
    ``qa/forget``, ``qa/retain``, and a task for every split and modality that
    has rows.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if it is neither, not in UTF-8, or a row has no question or
      answer, an unknown split, or a column of another form.
  """
  path = pathlib.Path(path)
  pictures = reading.Pictures()
  rows = {(split, kind): [] for kind in ('vqa', 'qa') for split in SPLITS}
  names = {}
  for number, record in enumerate(records(path)):
    split, row = _row(record, number, path, pictures)
    rows[split, 'qa' if row.picture is None else 'vqa'].append(row)
    if row.person is not None:
      names[row.person] = row.person
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
) -> Iterator[Mapping[str, Any]]:
  """Yields the rows of a JSONL or parquet file as dicts.

  Args:
    path: the file.
    wrong: function that gets the error of a JSONL line, which is then left
      out; None to raise it.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if it is neither, a column is missing, or it is not in UTF-8.
  """
  if not path.is_file():
    raise MissingError(
      f'there is no file {path}. Give a .jsonl or .parquet file.'
    )
  if path.suffix == '.parquet':
    yield from parquet.read_file(path, COLUMNS, optional=OPTIONAL)
  elif path.suffix in ('.jsonl', '.ndjson'):
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
      if not line.strip():
        continue
      try:
        yield _record(line, f'line {number} of {path}')
      except ValueError as error:
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
  return record


def _row(record, number, path, pictures) -> tuple[str, Row]:
  """The split and the row of a record, checked."""
  where = f'row {number} of {path.name}'
  fields.check_form(record, FORM, where)
  split = record.get('split') or 'retain'
  if split not in SPLITS:
    raise UserError(
      f'split is one of {", ".join(SPLITS)}; that of {where} is {split!r}.'
    )
  for name in COLUMNS:
    if reading.is_blank(record[name]):
      raise UserError(
        f'every row has a question and an answer; {where} has no {name}. '
        'Drop the row or fill it in.'
      )
  picture = pictures.get(record.get('image'), path.parent, where)
  person, answer = record.get('person'), str(record['answer']).strip()
  return split, Row(
    key=f'{number:05d}',
    question=str(record['question']).strip(),
    answer=answer,
    fact=answer,
    picture=picture,
    person=None if reading.is_blank(person) else str(person),
  )
