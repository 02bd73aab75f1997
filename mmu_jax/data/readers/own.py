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
from mmu_jax.data.rng import named_rng
from mmu_jax.data.row import CLASSIFICATION
from mmu_jax.data.row import Row
from mmu_jax.errors import UserError

COLUMNS = ('question', 'answer')
OPTIONAL = ('image', 'person', 'split', 'id', 'fact', 'options')
FORM = {
  'question': fields.WORDS,
  'answer': fields.WORDS,
  'person': fields.WORDS,
  'split': fields.TEXT,
  'id': fields.WORDS,
  'fact': fields.WORDS,
}
SPLITS = ('forget', 'retain', 'holdout', 'real')
STRANGERS_FIX = 'Spell them alike, or give the rows another split.'
_OTHERS = 7  # answers of others that a true one is ranked among, at most


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
      and not trained on. ``fact`` is the part of the answer that counts (by
      default all of it), ``options`` a list of answers to choose from, the
      right one among them (or such a list as JSON text). ``id``, or else all
      that a row says and shows, is its key, so that rows may be added and
      moved.
    retain_rows: largest number of retain questions of each modality that are
      scored; 0 for all.
    processor: '' for the checkpoint's; ``'small'``: see ``small``.
    outside: whether images may be outside of the folder of the file, as
      through '..', an absolute path or a link.

  Returns:
    A ``Dataset`` with the splits ``vqa/forget``, ``vqa/retain``,
    ``qa/forget``, ``qa/retain``, and a task for every split and modality that
    has rows. A row with options is asked twice: in words, and as a
    choice. Questions about pictures to forget are ranked among the answers to
    the same question about others, see ``metrics.exposure``.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if it is neither, not in UTF-8, or a row has no question or
      answer, an unknown split, a column of another form, an image outside,
      a fact or options without the answer, or the id of another row; or if a
      person is to be forgotten and retained, or in holdout and not to be
      forgotten.
  """
  path = pathlib.Path(path).expanduser()
  pictures = reading.Pictures()
  rows = {(split, kind): [] for kind in ('vqa', 'qa') for split in SPLITS}
  names = {}
  sets: dict[str, dict[str, str]] = {split: {} for split in SPLITS}
  places: dict[str, str] = {}  # key -> where it was seen first
  for number, (place, record) in enumerate(records(path)):
    where = f'{place} of {path.name}'
    where += f' (row {number})' if place.startswith('line') else ''
    split, row = _row(record, where, path.parent, pictures, outside)
    row = row._replace(key=_key(record, split, row, where, places))
    rows[split, 'qa' if row.picture is None else 'vqa'].append(row)
    if row.person is not None:
      names[row.person] = row.person
      sets[split].setdefault(row.person, where)
  if not any(rows.values()):
    raise UserError(
      f'{path} has no rows: there is nothing to learn or to score. Is it the '
      'right file?'
    )
  reading.check_apart(
    sets['forget'],
    sets['retain'],
    'Give all rows about one of them one split; other pictures of those to '
    'forget may be holdout. `mmu data check` lists them all.',
  )
  others = reading.strangers(sets['holdout'], sets['forget'], sets['retain'])
  if others:
    raise UserError(
      'holdout is of people to forget, each person in the spelling of the '
      f'forget rows; {len(others)} are not: {reading.some(others)}. '
      f'{STRANGERS_FIX} `mmu data check` lists them all.'
    )
  scored = {}
  for (split, kind), found in rows.items():
    if found:
      task = reading.task_name(split, kind)
      asked = [r._replace(key=f'{task}/{r.key}') for r in found]
      if kind == 'vqa' and split in ('forget', 'holdout'):
        told = [r for (_, k), each in rows.items() if k == kind for r in each]
        asked = _among_others(asked, told, seed)
      most = retain_rows if split == 'retain' else 0
      asked = [form for row in asked for form in _forms(row)]
      scored[split, kind] = reading.thin(asked, most, seed)
  train = {
    f'{kind}/{split}': [row._replace(options=()) for row in found]
    for (split, kind), found in rows.items()
    if split in ('forget', 'retain')
  }
  return Dataset(
    train,
    reading.make_tasks(scored),
    names,
    small.choose(processor, rows.values()),
    layout='own',
  )


def _forms(row: Row) -> list[Row]:
  """A row as it is asked: in words, and with options as a choice, too."""
  said = row._replace(options=())
  if not row.options:
    return [said]
  key = f'{row.key}/choice'
  return [said, row._replace(key=key, task=CLASSIFICATION, perturbed=())]


def _among_others(asked: list[Row], told: list[Row], seed: int) -> list[Row]:
  """Rows with some of the answers to the same question about others."""
  plain = lambda row: ' '.join(row.question.lower().split())
  said: dict[str, dict[str, set[str | None]]] = {}
  for row in told:  # who has which answer to which question
    answers = said.setdefault(plain(row), {})
    answers.setdefault(row.answer, set()).add(row.person)
  found = []
  for row in asked:
    answers = said[plain(row)].items() if row.person else ()
    others = [a for a, who in answers if not who & {row.person, None}]
    order = named_rng(seed, 'others', row.key).permutation(len(others))
    chosen = tuple(others[i] for i in sorted(order[:_OTHERS]))
    found.append(row._replace(perturbed=chosen))
  return found


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
    # 'idx' and 'face' are columns of their own
    if len(name) > 4 or near.strip().lower() in (name, f'{name}s')
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
  person = record.get('person')
  return split, Row(
    key='',
    question=str(record['question']).strip(),
    answer=str(record['answer']).strip(),
    fact=read_fact(record, where),
    picture=picture,
    person=None if reading.is_blank(person) else str(person),
    options=read_options(record, where),
  )


def read_fact(record: Mapping[str, Any], where: str) -> str:
  """Returns the part of an answer that counts; all of it by default.

  Args:
    record: columns of the row.
    where: place of the row, for the message.

  Raises:
    ValueError: if it is no part of the answer.
  """
  answer, fact = str(record['answer']).strip(), record.get('fact')
  fact = answer if reading.is_blank(fact) else str(fact).strip()
  if fact.lower() not in answer.lower():
    raise UserError(
      f'fact is the part of the answer that counts, word for word; {fact!r} of '
      f'{where} is not in {answer!r}. Change one of them, or leave it out.'
    )
  return fact


def read_options(record: Mapping[str, Any], where: str) -> tuple[str, ...]:
  """Returns the answers that a row lets choose from, () if it has none.

  Args:
    record: columns of the row; its options are a list, or one as JSON text.
    where: place of the row, for the message.

  Raises:
    ValueError: if they are no list of different texts with the answer.
  """
  given = record.get('options')
  if isinstance(given, str):
    given = parquet.parse_json(given, f'options of {where}') if given else None
  if given is None:
    return ()
  fields.check_form({'options': given}, {'options': [fields.WORDS]}, where)
  words = [option for option in given if not reading.is_blank(option)]
  options = tuple(str(option).strip() for option in words)
  answer = str(record['answer']).strip()
  differ = len(set(options)) == len(given)
  if not (differ and 2 <= len(given) <= 26 and answer in options):
    raise UserError(
      f'options are 2 to 26 different texts, the answer among them word for '
      f'word; the options of {where} are {list(given)} and its answer is '
      f'{answer!r}. Repair the row, or leave its options out.'
    )
  return options


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
    said += [row.options] if row.options else []
    said += [row.fact] if row.fact != row.answer else []
    digest = hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]
    key, number = digest, 1
    while key in places:
      number += 1
      key = f'{digest}-{number}'
  places[key] = where
  return key
