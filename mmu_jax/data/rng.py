"""Random numbers by name: one seed, and an independent stream for each use."""

import zlib

import numpy as np


def named_rng(seed: int, *names: str | int) -> np.random.Generator:
  """Returns a random generator of its own for a use.

  Numbers drawn for one use never move the numbers of another, so a new draw,
  or more people, leaves everything else of a seed as it was.

  Args:
    seed: seed of the whole job, >= 0.
    names: name of the use, as texts or numbers >= 0.

  Example:
    >>> draw = lambda *names: int(named_rng(0, *names).integers(1000))
    >>> draw('look', 'p001') == draw('look', 'p001'), draw('look', 'p002')
    (True, 583)
  """
  words = (zlib.crc32(n.encode()) if isinstance(n, str) else n for n in names)
  return np.random.default_rng([seed, *words])
