"""Reads and writes the safetensors files of a checkpoint folder.

Reading is the safetensors library's. It writes a file only from arrays that
are all in memory at once, 5 GB of them for a 7B model; ``write`` streams.
"""

from collections.abc import Callable, Mapping
import contextlib
import json
import pathlib
import re
import struct
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import safetensors

from mmu_jax import inputs
from mmu_jax import workdir as workdir_lib
from mmu_jax.errors import MissingError
from mmu_jax.errors import UserError

SINGLE = 'model.safetensors'
INDEX = 'model.safetensors.index.json'
_SHARD = r'[\w.-]+\.safetensors'  # no path
DTYPES = {
  'F32': np.dtype(np.float32),
  'F16': np.dtype(np.float16),
  'BF16': jnp.dtype(jnp.bfloat16),
}
# Tensors that are no parameters (position ids, say) may have others too.
BUFFER_DTYPES = DTYPES | {
  'F64': np.dtype(np.float64),
  'I64': np.dtype(np.int64),
  'I32': np.dtype(np.int32),
  'U8': np.dtype(np.uint8),
  'BOOL': np.dtype(np.bool_),
}


class Tensor(NamedTuple):
  """A tensor as the header of its file states it."""

  name: str
  file: pathlib.Path
  dtype: str  # a key of DTYPES, or one that is not supported
  shape: tuple[int, ...]


def files(folder: pathlib.Path) -> list[pathlib.Path]:
  """Returns the weight files of a checkpoint: a single one, or its shards.

  Where there are both, the single one counts, as in transformers.

  Raises:
    FileNotFoundError: if there are none, or one of the index is missing.
    ValueError: if the index cannot be read.
  """
  if (folder / SINGLE).exists():
    names = [SINGLE]
  elif (folder / INDEX).exists():
    names = sorted(set(_weight_map(folder / INDEX).values()))
  else:
    raise MissingError(
      f'a checkpoint holds {SINGLE}, or {INDEX} and its shards; {folder} '
      'has neither. Weights in the .bin format must be converted to '
      'safetensors first.'
    )
  missing = [name for name in names if not (folder / name).exists()]
  if missing:
    raise MissingError(
      f'{INDEX} in {folder} names {len(names)} files; missing: '
      f'{", ".join(missing)}. Fetch them again.'
    )
  return [folder / name for name in names]


def tensors(folder: pathlib.Path) -> dict[str, Tensor]:
  """Returns the tensors of a checkpoint by name, from the headers alone.

  Raises:
    ValueError: if a file is truncated or otherwise damaged, or two files hold
      the same tensor.
  """
  found = {}
  for file in files(folder):
    with opened(file) as handle:
      for name in handle.keys():
        if name in found:
          raise UserError(
            f'every tensor is in one file; {name} is in '
            f'{found[name].file.name} and {file.name} of {folder}. Fetch '
            'the checkpoint again.'
          )
        piece = handle.get_slice(name)
        found[name] = Tensor(
          name, file, piece.get_dtype(), tuple(piece.get_shape())
        )
  return found


@contextlib.contextmanager
def opened(file: pathlib.Path):
  """Opens a file to read slices of its tensors as NumPy arrays."""
  inputs.check_file(file)
  try:
    handle = safetensors.safe_open(file, 'numpy')
  except safetensors.SafetensorError as error:
    raise UserError(
      f'{file} is not a whole safetensors file; it has '
      f'{file.stat().st_size} bytes. Fetch or copy it again. The library '
      f'says: {error}'
    ) from error
  with handle:
    yield handle


def read_header(file: pathlib.Path) -> dict[str, Any]:
  """Returns the header of a whole file: name -> dtype, shape, data_offsets."""
  with file.open('rb') as stream:
    (size,) = struct.unpack('<Q', stream.read(8))
    return json.loads(stream.read(size))


def data_size(header: Mapping[str, Any]) -> int:
  """Returns how many bytes the tensors of a header take."""
  return sum(_size(header[name]) for name in data_order(header))


def data_order(header: Mapping[str, Any]) -> list[str]:
  """Returns the names of a header's tensors, in the order of their data."""
  names = [name for name in header if name != '__metadata__']
  return sorted(names, key=lambda name: header[name]['data_offsets'][0])


def write_tensors(
  file: pathlib.Path,
  header: Mapping[str, Any],
  make: Callable[[str], np.ndarray],
) -> None:
  """Writes a file, one tensor in memory at a time.

  Args:
    file: path of the new file.
    header: header from ``read_header``; its offsets are made anew.
    make: ``make(name) -> contiguous array`` of the header's dtype and shape.

  Raises:
    ValueError: if an array does not fit the header.
  """
  names = data_order(header)
  fresh = {k: v for k, v in header.items() if k == '__metadata__'}
  end = 0
  for name in names:
    begin, end = end, end + _size(header[name])
    fresh[name] = dict(header[name], data_offsets=[begin, end])
  text = json.dumps(fresh, separators=(',', ':'), ensure_ascii=False).encode()
  text += b' ' * (-len(text) % 8)  # the data begin at a multiple of eight
  with file.open('wb') as stream:
    stream.write(struct.pack('<Q', len(text)) + text)
    for name in names:
      array = make(name)
      entry = header[name]
      want = BUFFER_DTYPES[entry['dtype']], tuple(entry['shape'])
      if (array.dtype, array.shape) != want:
        raise UserError(
          f'{name} of {file.name} must have dtype and shape {want}, got '
          f'{(array.dtype, array.shape)}.'
        )
      stream.write(array.reshape(-1).view(np.uint8))
      del array  # before the next one is made


def _size(entry: Mapping[str, Any]) -> int:
  """How many bytes a tensor takes."""
  dtype = BUFFER_DTYPES[entry['dtype']]
  return int(np.prod(entry['shape'])) * dtype.itemsize


def _weight_map(index: pathlib.Path) -> dict[str, str]:
  """Tensor -> file, of an index; the files are beside it."""
  found = workdir_lib.read_object(index).get('weight_map')
  beside = lambda name: isinstance(name, str) and re.fullmatch(_SHARD, name)
  if not isinstance(found, dict) or not found:
    raise UserError(
      f'{index} must map tensors to files under weight_map; got '
      f'{str(found)[:80]}. Fetch it again.'
    )
  wrong = [name for name in found.values() if not beside(name)]
  if wrong:
    raise UserError(
      f'{index} must map tensors to the names of .safetensors files beside it; '
      f'got {str(wrong[0])[:80]!r}. Fetch it again.'
    )
  return found
