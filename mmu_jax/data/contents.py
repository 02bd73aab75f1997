"""Names the content of a dataset, so that a changed row or pixel is seen."""

from collections.abc import Sequence
import hashlib
import json

import numpy as np

from mmu_jax.data.dataset import Dataset
from mmu_jax.data.encoding.images import LazyImage
from mmu_jax.data.people.items import Drawing
from mmu_jax.data.row import Picture
from mmu_jax.data.row import Row


def digest(data: Dataset) -> dict[str, str]:
  """Returns the number of rows and a hash of every split and task.

  Rows count in order, with all their fields; pictures with the bytes of their
  file, or with their pixels where they come from no file. Pictures that the
  program itself draws from a seed count with their keys, and the first of each
  split with its pixels: drawing all of them takes seconds at every start.

  Args:
    data: the dataset; every file of a picture is read once.

  Returns:
    ``{'train vqa/forget': '12 rows, 3fa9...', 'task forget_vqa': ...}``.
  """
  pictures: dict[int, str] = {}
  named = {f'train {name}': rows for name, rows in data.train.items()}
  named |= {f'task {name}': task.rows for name, task in data.tasks.items()}
  return {
    name: f'{len(rows)} rows, {_hash(rows, pictures)}'
    for name, rows in named.items()
  }


def _hash(rows: Sequence[Row], pictures: dict[int, str]) -> str:
  """The hash of rows; pictures that rows share are read once."""
  found, drawn = hashlib.sha256(), False
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
