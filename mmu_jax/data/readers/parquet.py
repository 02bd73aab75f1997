"""Rows of a benchmark from parquet files, as the hub lays them out.

A repository of the hub is a folder with one folder for each config, and in it
one file or several shards for each split::

  MLLMU-Bench/forget_5/train-00000-of-00001.parquet
  MLLMU-Bench/ft_Data/train-00000-of-00002.parquet
  MLLMU-Bench/ft_Data/train-00001-of-00002.parquet

``<config>/<split>/0000.parquet`` (from the hub's conversion) and
``<config>.parquet`` are read as well.
"""

from collections.abc import Iterable, Iterator, Sequence
import difflib
import json
import os
import pathlib
import re
from typing import Any

from mmu_jax import inputs
from mmu_jax.errors import MissingError
from mmu_jax.errors import UserError

_SHARD = re.compile(r'(?P<split>.+?)-(?P<index>\d{5})-of-(?P<count>\d{5})$')
_POINTER = b'version https://git-lfs'
_ROWS = 64  # read at a time: pictures of 1 MB are among the columns
_MOST_ROWS = 10**7  # of a file
_LARGE = 2**24  # bytes of a batch, of which rows are made one by one


def configs(root: str | os.PathLike) -> list[str]:
  """Returns the names of the configs in a folder, sorted.

  Raises:
    FileNotFoundError: if there is no such folder.
  """
  root = pathlib.Path(root)
  if not root.exists():
    raise inputs.no_folder(root, 'dataset')
  if not root.is_dir():
    raise MissingError(
      f'{root} is no folder. Give the folder that holds one folder of '
      'parquet files for each config, as the hub has them.'
    )
  files = {
    path.relative_to(root).parts[0].removesuffix('.parquet')
    for path in root.rglob('*.parquet')
    if not any(part.startswith('.') for part in path.parts[-3:])
  }
  return sorted(files)


def splits(
  root: str | os.PathLike, config: str
) -> dict[str, list[pathlib.Path]]:
  """Returns the files of every split of a config.

  Raises:
    FileNotFoundError: if the config is not there; the message names those
      that are.
    ValueError: if a shard of a split is missing.
  """
  root = pathlib.Path(root)
  folder = root / config
  if folder.with_suffix('.parquet').is_file():
    return {'train': [folder.with_suffix('.parquet')]}
  files = sorted(folder.rglob('*.parquet')) if folder.is_dir() else []
  if not files:
    known = configs(root)
    raise MissingError(
      f'{root} has no config {config!r}{_meant(config, known)}; it has '
      f'{", ".join(known) or "no parquet files"}. Download the config from '
      'the hub, or check the name.'
    )
  found: dict[str, list[pathlib.Path]] = {}
  for path in files:
    found.setdefault(_split_of(path, folder), []).append(path)
  for split, shards in found.items():
    _check_shards(root, config, split, shards)
  return found


def read_config(
  root: str | os.PathLike,
  config: str,
  columns: Sequence[str],
  *,
  optional: Sequence[str] = (),
  split: str = 'train',
) -> Iterator[dict[str, Any]]:
  """Yields the rows of a config as dicts.

  Args:
    root: the folder of a repository.
    config: folder within it: ``'forget_5'``.
    columns: columns that a row must have.
    optional: columns that it may have; None where a file has none.
    split: name of the split.

  Raises:
    FileNotFoundError: if the config is not there.
    ValueError: if the split is not there, a column is missing, or a file is
      damaged, not in UTF-8, or becomes far larger when it is unpacked.
  """
  found = splits(root, config)
  if split not in found:
    raise UserError(
      f'config {config!r} of {root} has no split {split!r}'
      f'{_meant(split, found)}; it has {", ".join(found)}.'
    )
  for path in found[split]:
    yield from read_file(path, columns, optional=optional)


def read_file(
  path: pathlib.Path, columns: Sequence[str], *, optional: Sequence[str] = ()
) -> Iterator[dict[str, Any]]:
  """Yields the rows of one file: see ``read_config``."""
  import pyarrow as pa

  table = open_file(path)
  names = table.schema_arrow.names
  missing = missing_columns(columns, names)
  if missing:
    raise UserError(
      f'{path} lacks {_listed(missing)}; it has {", ".join(names)}. Rename '
      'the columns, or take the file from the hub again.'
    )
  chosen = [name for name in (*columns, *optional) if name in names]
  twice = [name for name in chosen if names.count(name) > 1]
  if twice:
    raise UserError(
      f'{path} has two columns {twice[0]!r}, and which one holds is not '
      'known. Drop one of them.'
    )
  nothing = {name: None for name in optional if name not in names}
  number, left = 0, _most_bytes(path)
  try:
    for batch in table.iter_batches(_ROWS, columns=chosen):
      step = _ROWS if batch.nbytes < _LARGE else 1
      for first in range(0, len(batch), step):
        part = batch.slice(first, step)
        for row in _to_dicts(part, path, number + first):
          left -= _size(row)
          if left < 0:
            raise _unpacks(path, f'{_most_bytes(path):,} bytes')
          yield row | nothing
      number += len(batch)
  except (pa.ArrowException, OSError) as error:
    raise _damaged(path, error) from error


def open_file(path: pathlib.Path):
  """Opens a parquet file and reads its schema.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if it is no whole parquet file, or says that it becomes far
      larger when it is unpacked.
  """
  import pyarrow as pa
  import pyarrow.parquet as pq

  inputs.check_file(path)
  try:
    table = pq.ParquetFile(path)
    table.schema_arrow  # noqa: B018  # decodes the names of the columns
  except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
    raise _damaged(path, error) from error
  said = table.metadata
  groups = (said.row_group(i) for i in range(said.num_row_groups))
  size = sum(group.total_byte_size for group in groups)
  if size > _most_bytes(path) or said.num_rows > _MOST_ROWS:
    raise _unpacks(path, f'{size:,} bytes in {said.num_rows:,} rows')
  return table


def missing_columns(
  wanted: Sequence[str], names: Sequence[str]
) -> dict[str, str]:
  """Returns the columns that are missing, and what may be meant by each.

  Example:
    >>> missing_columns(['image', 'ID'], ['Image', 'name'])
    {'image': 'Image', 'ID': ''}
  """
  return {
    name: nearest(name, [n for n in names if n not in wanted])
    for name in wanted
    if name not in names
  }


def nearest(name: str, known: Iterable[str]) -> str:
  """Returns the known name that differs least, or '' if none is near.

  Case, spaces and underscores count for nothing.

  Example:
    >>> nearest('classification task', ['Mask_Task', 'Classification_Task'])
    'Classification_Task'
  """
  plain = lambda text: re.sub(r'[\s_-]', '', text).lower()
  by_plain = {plain(other): other for other in known}
  near = difflib.get_close_matches(plain(name), by_plain, 1, 0.75)
  return by_plain[near[0]] if near else ''


def parse_json(text: Any, where: str) -> Any:
  """Returns the value of a JSON column; any value but text is returned as is.

  Args:
    text: the value of the column.
    where: name of row and column, for messages.

  Raises:
    ValueError: if it is no JSON.
  """
  if not isinstance(text, str):
    return text
  try:
    return json.loads(text, object_pairs_hook=_object)
  except (ValueError, RecursionError) as error:
    raise UserError(
      f'{where} must be JSON; it begins with {text[:40]!r} and does not '
      f'parse: {error}. Repair the row or drop it.'
    ) from error


def _object(pairs):
  """The fields of a JSON object; of two of one name none would count."""
  found = dict(pairs)
  if len(found) < len(pairs):
    names = [name for name, _ in pairs]
    twice = next(name for name in names if names.count(name) > 1)
    raise ValueError(f'the field {twice!r} occurs twice')
  return found


def _split_of(path, folder) -> str:
  """The split that a file belongs to, from its name or its folder."""
  if path.parent != folder:
    return path.parent.name
  match = _SHARD.match(path.stem)
  return match['split'] if match else path.stem


def _check_shards(root, config, split, shards):
  """Raises if the names say that there are more shards."""
  matches = [_SHARD.match(path.stem) for path in shards]
  counts = {int(match['count']) for match in matches if match}
  if counts and {len(shards)} != counts:
    raise UserError(
      f'split {split!r} of {root}/{config} has {max(counts)} files, of which '
      f'{len(shards)} are here. Download the rest; one stale file of another '
      'version has the same effect.'
    )


def _to_dicts(batch, path, first):
  """The rows of a record batch; a value that Python cannot hold is named."""
  try:
    return batch.to_pylist()
  except (ValueError, OverflowError):
    pass  # find out where
  for name, column in zip(batch.schema.names, batch.columns):
    for i, value in enumerate(column):
      try:
        value.as_py()
      except (ValueError, OverflowError) as error:  # no UTF-8, no such date
        raise UserError(
          f'row {first + i} of {path} has a value that is no {column.type} '
          f'in column {name!r}: {error}. Text must be UTF-8; write the file '
          'again.'
        ) from error
  raise UserError(f'a row of {path} cannot be read. Write the file again.')


def _most_bytes(path) -> int:
  """The most bytes that a file may unpack to."""
  return 2**30 + 32 * path.stat().st_size


def _size(value) -> int:
  """About the bytes of a row, as its text and pictures take them."""
  if isinstance(value, dict):
    return sum(map(_size, value.values()))
  if isinstance(value, list):
    return sum(map(_size, value))
  return len(value) if isinstance(value, (str, bytes)) else 8


def _unpacks(path, size):
  """The error for a file that becomes too large."""
  return UserError(
    f'{path} has {path.stat().st_size:,} bytes and unpacks to more than its '
    f'data can be: {size}; the most are {_most_bytes(path):,} in '
    f'{_MOST_ROWS:,} rows. Is it from a source that you trust? Split it, or '
    'write it without compression.'
  )


def _damaged(path, error):
  """The error for a file that is no parquet file."""
  with path.open('rb') as file:
    head = file.read(len(_POINTER))
  size = f'{path.stat().st_size} bytes'
  if head == _POINTER:
    return UserError(
      f'{path} is a pointer of Git LFS ({size}), not the file. Fetch it with '
      '`git lfs pull`, or download it from the hub.'
    )
  why = str(error).splitlines()[0]
  return UserError(
    f'{path} ({size}) is no whole parquet file, perhaps a download that was '
    f'cut off: {why} Download it again.'
  )


def _listed(missing: dict[str, str]) -> str:
  """``column 'ID' (is 'id' meant?)`` of every missing column."""
  said = [
    f'{name!r}' + (f' (is {near!r} meant?)' if near else '')
    for name, near in missing.items()
  ]
  return f'{"column" if len(said) == 1 else "columns"} {", ".join(said)}'


def _meant(name, known) -> str:
  near = nearest(name, known)
  return f' (is {near!r} meant?)' if near else ''
