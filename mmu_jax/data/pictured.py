"""Questions about pictures: of the training, or about pictures that are new."""

from collections.abc import Mapping, Sequence

from mmu_jax.data.dataset import Dataset
from mmu_jax.data.dataset import REAL
from mmu_jax.data.dataset import VQA
from mmu_jax.data.row import GENERATION
from mmu_jax.data.row import Picture
from mmu_jax.data.row import Row


def learned(
  data: Dataset, groups: Mapping[str, Sequence[str]], role: str
) -> list[Row]:
  """Returns questions about the pictures that vanilla was trained on.

  Args:
    data: the dataset.
    groups: groups of people by role.
    role: role of the people: 'forget', 'retain'.
  """
  splits = (data.train.get(f'{VQA}/{group}', ()) for group in groups[role])
  return _in_words([row for rows in splits for row in rows])


def unseen(data: Dataset, split: str) -> list[Row]:
  """Returns reported questions about pictures that no model was trained on.

  Args:
    data: the dataset.
    split: people that they are about: 'forget', 'retain'.
  """
  return _in_words(_new(data, split))


def stranger_pictures(data: Dataset) -> list[Picture]:
  """Returns pictures of people whom no model was trained on, in order.

  They are of the split 'real', and of those the faces if keys tell them, as
  ``'face/0007'`` of the synthetic people and ``'real_faces/7'`` of CLEAR do.
  """
  rows = _new(data, REAL)
  faces = [row for row in rows if 'face' in row.key] or rows
  found = {row.picture_key: row.picture for row in faces if row.picture}
  return list(found.values())


def with_pictures(
  rows: Sequence[Row], pictures: Sequence[Picture]
) -> list[Row]:
  """Returns the same questions about other pictures, in turn.

  Args:
    rows: questions about pictures.
    pictures: other pictures; none give no rows.
  """
  if not pictures:
    return []
  shown: dict[str | None, Picture] = {}
  for row in rows:
    shown.setdefault(row.picture_key, pictures[len(shown) % len(pictures)])
  other = lambda row: shown[row.picture_key]
  key = lambda row: f'{row.key}@{other(row).key}'
  return [row._replace(key=key(row), picture=other(row)) for row in rows]


def _reported(data: Dataset, split: str) -> list[Row]:
  """All reported rows of a split that have a picture."""
  tasks = data.tasks.values()
  rows = [r for t in tasks if t.split == split and t.reported for r in t.rows]
  return [row for row in rows if row.picture]


def _new(data: Dataset, split: str) -> list[Row]:
  """The reported rows whose picture is in no split of the training."""
  seen = {row.picture_key for rows in data.train.values() for row in rows}
  return [r for r in _reported(data, split) if r.picture_key not in seen]


def _in_words(rows: Sequence[Row]) -> list[Row]:
  """The rows with a picture that are answered in words, each key once."""
  found = {r.key: r for r in rows if r.picture and r.task == GENERATION}
  return list(found.values())
