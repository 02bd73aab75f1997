"""Rows in the files of TensorFlow Datasets (TFDS), without TensorFlow.

``tfds_builders`` writes a dataset of ours as TFDS has them: array_record
files, one split for each split to train on and for each score. Here is the
form of an example, and the way back: a folder that was prepared is a dataset
like any other (``data=dict(name='tfds', path=...)``).
"""

from collections.abc import Iterable, Iterator, Mapping
import io
import os
import pathlib
import re
from typing import Any

import numpy as np

from mmu_jax import inputs
from mmu_jax import workdir as workdir_lib
from mmu_jax.data import dataset as dataset_lib
from mmu_jax.data.dataset import Dataset
from mmu_jax.data.dataset import Task
from mmu_jax.data.encoding import small
from mmu_jax.data.encoding.images import Image
from mmu_jax.data.encoding.images import LazyImage
from mmu_jax.data.readers import fields
from mmu_jax.data.row import Picture
from mmu_jax.data.row import Row
from mmu_jax.errors import MissingError
from mmu_jax.errors import UserError
from mmu_jax.workdir import seals

IMAGES = 'images'  # the files of a row's pictures: one, or none for a text row
KEY = 'image_key'  # the picture's key, '' for a text row
# The other fields of a row, so that one that rows gain is stored as well.
LISTS = tuple(k for k, v in Row._field_defaults.items() if isinstance(v, tuple))
TEXTS = tuple(k for k in Row._fields if k not in (*LISTS, 'picture'))
INFO = 'dataset_info.json'  # what TFDS says of a version
PEOPLE = 'mmu_people'  # these bring a processor of their own
NOTED = 'metadata.json'  # what we say of it
SHOWN = ('layout', 'protocol', 'official')  # fields of a dataset
_TASK = dict.fromkeys(('name', 'split', 'modality', 'role'), str)
_TASK |= dict.fromkeys(('holdout', 'reported', 'headline'), bool)
_NOTES = {
  'splits': {'train': {...: str}, 'tasks': {...: str}},
  'tasks': [_TASK],
  'names': {...: str},
  'notes': [str],
  'shown': dict.fromkeys(SHOWN, str),
  'contents': {...: str},
}


def features(decode: bool = True) -> Any:
  """Returns the ``tfds.features.FeaturesDict`` of a row.

  Every field of ``Row`` is text or a list of texts ('' for None); ``images``
  holds the picture.

  Args:
    decode: True for pictures as arrays ``[height, width, 3]`` uint8, False
      for the bytes of their files.
  """
  import tensorflow_datasets as tfds

  text, sequence = tfds.features.Text, tfds.features.Sequence
  fields = {name: text() for name in (*TEXTS, KEY)}
  fields |= {name: sequence(text()) for name in LISTS}
  image = tfds.features.Image(shape=(None, None, 3)) if decode else text()
  return tfds.features.FeaturesDict({**fields, IMAGES: sequence(image)})


def to_examples(rows: Iterable[Row]) -> Iterator[dict[str, Any]]:
  """Yields rows as TFDS encodes them: see ``features``.

  Raises:
    ValueError: if a picture is damaged; names the row.
  """
  key, file = None, b''
  for row in rows:
    for picture in row.pictures:
      if picture.key != key:  # those about one picture follow each other
        key, file = picture.key, image_file(picture.image)
    values = {name: getattr(row, name) or '' for name in TEXTS}
    values |= {name: list(getattr(row, name)) for name in LISTS}
    values[KEY] = row.picture_key or ''
    yield {**values, IMAGES: [file] * len(row.pictures)}


def to_row(example: Mapping[str, Any], pictures: dict[str, Picture]) -> Row:
  """Returns the row of an example that was read with ``features(False)``.

  Args:
    example: text as bytes, pictures as the bytes of their files.
    pictures: pictures of earlier rows by key; gets this row's, so that rows
      about one picture share it.
  """
  default = Row._field_defaults
  values = {
    name: _text(example[name]) or default.get(name, '') for name in TEXTS
  }
  values |= {name: tuple(_text(x) for x in example[name]) for name in LISTS}
  for file in example[IMAGES]:
    image = LazyImage(bytes(file), f'row {values["key"]}')
    picture = Picture(_text(example[KEY]), image)
    values['picture'] = pictures.setdefault(picture.key, picture)
  return Row(**values)


def image_file(image: Image) -> bytes:
  """Returns the bytes of an image's file, as it is where that is plain RGB.

  Anything else (an array, grey, transparent, turned by EXIF) becomes a PNG of
  the pixels that we use, because the decoders of TFDS have other rules.

  Args:
    image: an array or a ``LazyImage``.

  Raises:
    ValueError: if the image is damaged.

  Example:
    >>> image_file(np.zeros((2, 3, 3), np.uint8))[1:4]
    b'PNG'
  """
  import PIL.Image

  if isinstance(image, LazyImage) and image.is_plain():
    return image.read()
  buffer = io.BytesIO()
  PIL.Image.fromarray(np.asarray(image)).save(buffer, 'PNG')
  return buffer.getvalue()


def split_names(data: Dataset) -> dict[str, dict[str, str]]:
  """Returns the names of splits and tasks in TFDS.

  Returns:
    ``{'train': {split: name}, 'tasks': {task: name}}``; a name has only
    letters, digits and underscores.

  Raises:
    ValueError: if two would have one name.

  Example:
    >>> rows = {'vqa/forget': [], 'general': []}
    >>> split_names(Dataset(rows, {}, {}))['train']
    {'vqa/forget': 'vqa_forget', 'general': 'general'}
  """
  valid = lambda name: re.sub(r'\W', '_', name, flags=re.ASCII)
  names = {
    'train': {split: valid(split) for split in data.train},
    'tasks': {task: valid(task) for task in data.tasks},
  }
  every = [*names['train'].values(), *names['tasks'].values()]
  twice = sorted({name for name in every if every.count(name) > 1})
  if twice:
    raise UserError(
      'splits and tasks must have different names in TFDS, where every sign '
      f'but letters and digits is an underscore; {twice[0]!r} occurs twice '
      f'among {", ".join([*data.train, *data.tasks])}. Rename one of them.'
    )
  return names


def make_tfds(
  seed: int, *, path: str | os.PathLike, processor: str = ''
) -> Dataset:
  """Reads a folder that one of ``tfds_builders`` has prepared.

  Nothing of the parquet files is needed any more. Pictures stay files in
  memory, one for each key, and are decoded on use.

  Args:
    seed: nothing is drawn.
    path: the folder of one version: ``<data_dir>/mmu_clear/forget10/2.0.0``.
    processor: '' for the checkpoint's (the synthetic people have their
      own); ``'small'``: see ``small``.

  Raises:
    FileNotFoundError: if the folder holds no prepared dataset.
    ValueError: if it was prepared by another builder, or in another format,
      or a file of it is damaged or holds the rows of another split.
  """
  del seed
  builder = _open(pathlib.Path(path))
  notes = builder.info.metadata
  pictures: dict[str, Picture] = {}
  train, scored = (
    {
      name: _rows(builder, split, pictures)
      for name, split in notes['splits'][kind].items()
    }
    for kind in ('train', 'tasks')
  )
  if builder.name == PEOPLE and not processor:
    from mmu_jax.data.people import vocabulary

    chosen = vocabulary.make_processor()
  else:
    chosen = small.choose(processor, [*train.values(), *scored.values()])
  tasks = (Task(rows=scored[t['name']], **t) for t in notes['tasks'])
  return Dataset(
    train,
    dataset_lib.by_name(*tasks),
    notes['names'],
    chosen,
    tuple(notes['notes']),
    **notes['shown'],
  )


def noted(data: Dataset) -> dict[str, Any]:
  """Returns the metadata of a prepared folder, as JSON.

  Args:
    data: the dataset that is written.
  """
  tasks, names = [t._asdict() for t in data.tasks.values()], split_names(data)
  return {
    'splits': names,
    'tasks': [{k: v for k, v in t.items() if k != 'rows'} for t in tasks],
    'names': dict(data.names),
    'notes': list(data.notes),
    'shown': {name: getattr(data, name) for name in SHOWN},
    'contents': {
      **{names['train'][k]: _content(rows) for k, rows in data.train.items()},
      **{names['tasks'][k]: _content(t.rows) for k, t in data.tasks.items()},
    },
  }


def _content(rows: Iterable[Row]) -> str:
  """The hash of all that rows say; pictures count with their keys."""
  said = [[*row._replace(picture=None), row.picture_key] for row in rows]
  return seals.hash_json(said)


def _check_prepared(path):
  """Raises unless a folder holds a prepared version."""
  if not (path / INFO).exists():
    below = sorted(str(p.parent) for p in path.rglob(INFO))
    raise MissingError(
      f'{path} has no {INFO}: it is not the folder of a prepared '
      f'version. Below it: {", ".join(below[:4]) or "none"}. Give one, or '
      'prepare the dataset with tfds_builders.'
    )


def _open(path):
  """A builder that reads a folder; raises unless it can."""
  import tensorflow_datasets as tfds

  _check_prepared(path)
  for name in (INFO, NOTED, 'features.json'):
    if (path / name).exists():
      workdir_lib.read_json(path / name)  # names the file if it is none
  builder = tfds.builder_from_directory(path)
  found = builder.info.file_format.value
  if found != 'array_record':
    raise UserError(
      f'rows are read from array_record files, and those in {path} are '
      f'{found}. Prepare with file_format="array_record".'
    )
  notes = builder.info.metadata or {}
  if 'splits' not in notes:
    raise UserError(
      f'the dataset {builder.name!r} in {path} does not say which splits are '
      'for training and which are scored: it was not prepared by '
      'tfds_builders. Read its own files instead.'
    )
  if 'tasks' not in notes:
    raise UserError(
      'a prepared folder says of each task whom it is about and whether its '
      f'score is to go down; {path} (version {builder.version}) was prepared '
      'before that. Prepare the dataset again: its builders have version 2.'
    )
  _check_notes(notes, f'{path / NOTED}')
  return builder


def _check_notes(notes, where):
  """Raises unless metadata have the form in which they are written."""
  fields.check_form(notes, _NOTES, where)
  same = lambda found, form: found is not None and found.keys() == form.keys()
  if not (
    all(notes.get(name) is not None for name in _NOTES)
    and same(notes['splits'], _NOTES['splits'])
    and same(notes['shown'], _NOTES['shown'])
    and all(same(task, _TASK) for task in notes['tasks'])
    and {t['name'] for t in notes['tasks']} == set(notes['splits']['tasks'])
  ):
    raise UserError(
      f'{where} must have {", ".join(_NOTES)} as tfds_builders write them, '
      'with the same tasks in splits and in tasks. Prepare the dataset again.'
    )
  for task in notes['tasks']:
    inputs.check_name(task['name'], f'task in {where}')


def _rows(builder, split, pictures) -> list[Row]:
  """The rows of a split; TFDS has no split without rows."""
  import tensorflow_datasets as tfds

  if split not in builder.info.splits:
    return []
  raw = tfds.decode.DeserializeMethod.RAW_BYTES
  form, rows = features(decode=False), []
  where = f'{builder.data_path} ({builder.info.splits[split].filenames[0]})'
  again = 'Fetch that file again, or prepare the dataset again.'
  try:
    for record in builder.as_data_source(split, deserialize_method=raw):
      rows.append(to_row(form.deserialize_example_np(record), pictures))
  except (RuntimeError, OSError) as error:  # array_record has no class for it
    reason = str(error).partition(';')[0]
    raise UserError(
      f'the rows of the split {split!r} in {where} cannot be read: {reason}. '
      f'{again}'
    ) from error
  if _content(rows) != builder.info.metadata['contents'].get(split):
    raise UserError(
      f'{where} holds other rows than the split {split!r} was prepared with. '
      f'{again}'
    )
  return rows


def _text(value: bytes | None) -> str:
  """Text comes back as bytes."""
  return bytes(value or b'').decode()
