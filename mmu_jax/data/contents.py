"""Names the content of a dataset, so that a changed row or pixel is seen."""

from collections.abc import Mapping, Sequence
import hashlib
import json
from typing import Any

import numpy as np

from mmu_jax.data.dataset import Dataset
from mmu_jax.data.encoding.images import LazyImage
from mmu_jax.data.people.items import Drawing
from mmu_jax.data.row import Picture
from mmu_jax.data.row import Row
from mmu_jax.workdir import seals


def digest(data: Dataset) -> dict[str, str]:
  """Returns the number of rows and a hash of every split and task.

  A task counts with its rows and with how its score is meant; ``shown`` is a
  hash of how the dataset asks and shows its scores.

  Rows count in order, with all their fields; pictures with the bytes of their
  file, or with their pixels where they come from no file. Pictures that the
  program itself draws from a seed count with their keys, and the first of each
  split with its pixels: drawing all of them takes seconds at every start.

  Args:
    data: the dataset; every file of a picture is read once.

  Returns:
    ``{'train vqa/forget': '12 rows, 3fa9...', 'task forget_vqa': ...,
    'shown': ...}``.
  """
  pictures: dict[int, str] = {}
  say = lambda rows, meant: f'{len(rows)} rows, {_hash(rows, meant, pictures)}'
  found = {f'train {name}': say(rows, {}) for name, rows in data.train.items()}
  for name, task in data.tasks.items():
    meant = task._replace(rows=())._asdict()
    found[f'task {name}'] = say(task.rows, meant)
  ways = ('names', 'layout', 'protocol', 'official')
  return found | {
    'shown': seals.hash_json({way: getattr(data, way) for way in ways})
  }


def _hash(
  rows: Sequence[Row], meant: Mapping[str, Any], pictures: dict[int, str]
) -> str:
  """The hash of rows and their meaning; shared pictures are read once."""
  found, drawn = hashlib.sha256(), False
  found.update(json.dumps(meant).encode() + b'\n' if meant else b'')
  for row in rows:
    seen = []
    for picture in row.pictures:
      if isinstance(picture.image, Drawing) and drawn:
        seen.append(picture.key)
        continue
      drawn = drawn or isinstance(picture.image, Drawing)
      if id(picture) not in pictures:
        pictures[id(picture)] = _picture(picture)
      seen.append(pictures[id(picture)])
    fields = [*row._replace(picture=None), seen]
    found.update(json.dumps(fields).encode() + b'\n')
  return found.hexdigest()[:32]


def _picture(picture: Picture) -> str:
  """The hash of a picture, with its key."""
  image = picture.image
  if isinstance(image, LazyImage):
    content = image.read()
  else:
    content = repr(image.shape).encode() + np.ascontiguousarray(image).tobytes()
  return picture.key + ' ' + hashlib.sha256(content).hexdigest()
