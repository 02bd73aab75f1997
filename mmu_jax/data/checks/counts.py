"""Counts of a dataset as the stages read it: rows, pictures, entities."""

from collections.abc import Iterator
import pathlib
from typing import Any, NamedTuple

from mmu_jax.data.checks import check_rows
from mmu_jax.data.dataset import Dataset
from mmu_jax.data.readers import clear
from mmu_jax.data.readers import mllmu_bench
from mmu_jax.data.readers import own


class Count(NamedTuple):
  """Size of one part of a dataset.

  Attributes:
    split: 'forget', 'retain', 'real', or 'forget, holdout'.
    modality: 'vqa' (about pictures) or 'qa' (in text).
    use: 'train' or 'score'.
    rows: number of questions.
    pictures: number of different pictures.
    entities: number of different people, or whatever the rows are about.
  """

  split: str
  modality: str
  use: str
  rows: int
  pictures: int
  entities: int


def read_all(kind: str, path: pathlib.Path) -> Iterator[Dataset]:
  """Yields a dataset as a stage reads it, for each ratio that is there.

  Args:
    kind: kind of the data; training rows alone are no dataset.
    path: file of own data, or folder of a benchmark.
  """
  if kind == check_rows.OWN:
    yield own.make_own(0, path=path, outside=True)
  readers: dict[str, Any] = {
    check_rows.MLLMU: mllmu_bench.make_mllmu_bench,
    check_rows.CLEAR: clear.make_clear,
  }
  for ratio in check_rows.ratios(kind, path) if kind in readers else ():
    yield readers[kind](0, path=path, ratio=ratio)


def count_parts(data: Dataset) -> tuple[Count, ...]:
  """Returns the sizes of every part of a dataset that has rows."""
  parts = []
  for name, rows in data.train.items():
    modality, _, split = name.rpartition('/')
    parts.append((split, modality or 'qa', 'train', rows))
  for task in data.tasks.values():
    split = f'{task.split}, holdout' if task.holdout else task.split
    parts.append((split, task.modality, 'score', task.rows))
  return tuple(
    Count(
      *part,
      len(rows),
      len({row.picture_key for row in rows} - {None}),
      len({row.person for row in rows} - {None}),
    )
    for *part, rows in parts
    if rows
  )
