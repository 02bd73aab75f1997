"""Everything that a job and `mmu data check` take from data, for attacks."""

import hashlib

import numpy as np

from mmu_jax.data import contents
from mmu_jax.data import datasets
from mmu_jax.data.checks import check
from mmu_jax.data.encoding import processing
from mmu_jax.errors import FAIL
from mmu_jax.errors import UserError


class Said:
  """Something that a reader says in its notes: nothing is silent."""

  def __eq__(self, other):
    return True

  __hash__ = None


def meaning(name, path, **options):
  """All that a job takes from a dataset: rows, tokens, pixels, in order."""
  data = datasets.load(name, 0, path=path, processor='small', **options)
  digest, seen = hashlib.sha256(), set()
  named = [*data.train.values(), *(task.rows for task in data.tasks.values())]
  for row in [row for rows in named for row in rows]:
    example = processing.encode(row, data.processor)
    digest.update(example.tokens.tobytes() + example.labelled.tobytes())
    for picture in row.pictures:
      if picture.key not in seen:
        seen.add(picture.key)
        pixels = data.processor.images.encode(np.asarray(picture.image))
        digest.update(np.ascontiguousarray(pixels.pixel_values).tobytes())
  tasks = [task._replace(rows=()) for task in data.tasks.values()]
  names = sorted(data.names.items())
  if data.notes:
    return Said()
  return digest.hexdigest(), contents.digest(data), tasks, names


def checked(name, folder, path, **options):
  """The same, after `mmu data check` has passed the data.

  An error of the reader that the check did not see is a meaning of its own, so
  that an attack counts it as silent.

  Args:
    name: name of the dataset.
    folder: folder or file that is checked.
    path: folder or file that is read.
    **options: options of the dataset.
  """
  report = check.check(folder)
  check.tables(report)
  failed = [f for f in report.findings if f.state == FAIL]
  if failed:
    raise UserError('\n'.join(f'{f.what}: {f.message}' for f in failed))
  try:
    return meaning(name, path, **options)
  except UserError as error:
    return f'the reader says {error}'
