"""The rows that each part of a stream draws from."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mmu_jax.data.batches import batching
from mmu_jax.data.row import Row
from mmu_jax.errors import UserError

Train = Mapping[str, Sequence[Row]]  # rows by split
Groups = Mapping[str, Sequence[str]]  # groups of people by role
RELABELLED = 'relabelled'  # the rows to forget, with answers of a teacher


def is_relabelled(part: Mapping[str, Any]) -> bool:
  """Whether a part of a stream draws rows that a teacher answered."""
  return RELABELLED in part['splits']


def streams_of(run: Mapping[str, Any]) -> dict[str, str]:
  """Returns split of a turn -> name of its stream, for the turns of a run."""
  return {'forget': run.get('forget') or 'forget', 'retain': run['retain']}


def with_stand_ins(
  train: Train, groups: Groups, forget: Iterable[Mapping[str, Any]]
) -> Train:
  """Returns rows by split in which the rows to forget stand for relabelled.

  For numbers and lengths, before there are any: they show the same pictures.

  Args:
    train: rows to train on, by split.
    groups: groups of people by role.
    forget: parts of the forget stream.
  """
  drawn = draw(train, groups, forget)
  rows = [row for part in drawn for row in part.rows if row.picture]
  return {**train, RELABELLED: rows}


def draw(
  train: Train,
  groups: Groups,
  parts: Iterable[Mapping[str, Any]],
  without: Sequence[str] = (),
) -> list[batching.Part]:
  """Returns the rows that each part of a stream draws from.

  Args:
    train: rows to train on, by split.
    groups: groups of people by role ('forget', 'retain', 'everybody').
    parts: dicts of ``splits``, ``size``, ``questions``, ``weight``; a split is
      one of the dataset (``'vqa/forget'``), or all of a role: ``'vqa:forget'``
      stands for the splits of every group with the role ``forget``.
    without: splits that are left out.

  Raises:
    ValueError: if a split or role is unknown.
  """
  left_out = _split_names(train, groups, without)
  drawn = []
  for part in parts:
    names = _split_names(train, groups, part['splits'])
    rows = [
      row for split in names if split not in left_out for row in train[split]
    ]
    drawn.append(
      batching.Part(rows, part['size'], part['questions'], part['weight'])
    )
  return drawn


def _split_names(
  train: Train, groups: Groups, splits: Iterable[str]
) -> list[str]:
  """The splits that names stand for, of the dataset or of a role."""
  names = []
  for split in splits:
    kind, _, role = split.partition(':')
    if role and role not in groups:
      raise UserError(
        f'split {split!r} has an unknown role; known: {", ".join(groups)}.'
      )
    own = groups[role] if role else ()
    names += [f'{kind}/{group}' for group in own] if role else [split]
  unknown = [name for name in names if name not in train]
  if unknown:
    raise UserError(
      f'unknown split {unknown[0]!r}; the dataset has {", ".join(train)}.'
    )
  return names
