"""Checksums of the files of a folder: is every byte as it was written?

Orbax notices a missing or a shortened file, but may restore a byte that a disk
or a copy has changed, and nobody would ever see it. CRC-32 finds every change
of up to 32 neighbouring bits, and all but one in 4 billion of the others.
"""

from collections.abc import Callable, Iterator
import concurrent.futures
import json
import pathlib
from typing import NamedTuple
import zlib

from mmu_jax import workdir as workdir_lib

NAME = '_DIGESTS'
BLOCK = 2**26  # bytes of one checksum: threads and processes share the work
CHUNK = 2**20  # bytes that are in memory at a time
THREADS = 4  # zlib lets other threads run meanwhile


class Block(NamedTuple):
  """A part of a file, and the checksum that it should have."""

  file: str  # relative to the folder
  start: int  # byte
  crc: int


def write_digests(
  folder: pathlib.Path,
  wanted: Callable[[pathlib.PurePath], bool] = lambda file: True,
  name: str = NAME,
) -> None:
  """Writes the checksums of the files that are in a folder now.

  Checksums that processes left in files ``<NAME>.<anything>`` are taken over,
  and these files are deleted.

  Args:
    folder: folder of the files, those in its folders too.
    wanted: ``wanted(path relative to the folder)``, whether to sum up a file.
    name: name of the file with the checksums.
  """
  found = {}
  parts = [] if name != NAME else sorted(folder.glob(f'{NAME}.*'))
  for part in parts:
    found |= workdir_lib.read_json(part)
    part.unlink()
  new = [
    file
    for file in sorted(folder.rglob('*'))
    if file.is_file()
    and wanted(file.relative_to(folder))
    and file.relative_to(folder).as_posix() not in found
  ]
  for path in sorted({*new, *(file.parent for file in new)}):
    workdir_lib.sync(path)
  with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
    for file in new:
      size = file.stat().st_size
      starts = range(0, size, BLOCK)
      crcs = pool.map(lambda start, file=file: _crc(file, start), starts)
      found[file.relative_to(folder).as_posix()] = [size, *crcs]
  workdir_lib.write_text(folder / name, json.dumps(found))


def blocks(folder: pathlib.Path) -> tuple[list[str], list[Block]]:
  """Returns the faults seen at first sight, and the blocks still to be read.

  Args:
    folder: folder with the checksums of ``write``.

  Returns:
    Sentences without a full stop, on files that are missing or have another
    size; and the blocks of the others.
  """
  try:
    listed = workdir_lib.read_json(folder / NAME)
    entries = [(file, size, crcs) for file, (size, *crcs) in listed.items()]
  except FileNotFoundError:
    return [f'{NAME} is missing'], []
  except (ValueError, TypeError, AttributeError):  # of flipped bytes
    return [f'{NAME} cannot be read'], []
  wrong, found = [], []
  for file, size, crcs in entries:
    path = folder / file
    if not path.is_file():
      wrong.append(f'{file} is missing')
    elif path.stat().st_size != size:
      wrong.append(f'{file} has {path.stat().st_size} bytes instead of {size}')
    else:
      found += [Block(file, i * BLOCK, crc) for i, crc in enumerate(crcs)]
  return wrong, found


def changed(folder: pathlib.Path, of: list[Block]) -> Iterator[bool]:
  """Reads blocks, and yields for each whether it has changed."""
  with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
    yield from pool.map(
      lambda block: _crc(folder / block.file, block.start) != block.crc, of
    )


def is_changed(folder: pathlib.Path, file: str) -> bool:
  """Whether one small file is missing, or other than it was written."""
  mine = [block for block in blocks(folder)[1] if block.file == file]
  return not mine or any(changed(folder, mine))


def _crc(file: pathlib.Path, start: int) -> int:
  """The checksum of a block of a file."""
  crc, left = 0, BLOCK
  with file.open('rb') as stream:
    stream.seek(start)
    while data := stream.read(min(CHUNK, left)):
      crc = zlib.crc32(data, crc)
      left -= len(data)
  return crc
