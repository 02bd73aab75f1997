"""What every dataset gives: splits to train on, tasks to score."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mmu_jax.data.encoding.processors import Processor
from mmu_jax.data.row import Row


class Dataset(NamedTuple):
  """What every dataset gives.

  Attributes:
    train: rows by split: ``'vqa/forget'``, ``'qa/retain'``, ``'general'``.
    tasks: rows by the name of the score: ``'forget_vqa'``.
    names: person -> the name that people know them by, for reports.
    processor: tokenizer and image processor ; None for a benchmark, which is
      encoded with those of a checkpoint.
    notes: what was left out of the files and why, one line each.
  """

  train: Mapping[str, Sequence[Row]]
  tasks: Mapping[str, Sequence[Row]]
  names: Mapping[str, str]
  processor: Processor | None = None
  notes: Sequence[str] = ()
