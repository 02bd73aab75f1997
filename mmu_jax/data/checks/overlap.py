"""Texts of two sets that say the same: a rule that can be looked up."""

import collections
from collections.abc import Mapping
import re

SHINGLE = 2  # words
NEAR = 0.75  # Jaccard index
_LEAST = 5  # words of a text that is compared


def words(text: str) -> list[str]:
  """Returns the words of a text in small letters, without punctuation.

  Example:
    >>> words("Ana's cat, Luna!")
    ['ana', 's', 'cat', 'luna']
  """
  return re.findall(r'\w+', text.lower())


def shingles(text: str) -> frozenset[tuple[str, ...]]:
  """Returns every pair of neighbouring words of a text."""
  found = words(text)
  return frozenset(
    tuple(found[i : i + SHINGLE]) for i in range(len(found) - SHINGLE + 1)
  )


def names(text: str) -> frozenset[str]:
  """Returns the words of a text that begin with a capital."""
  return frozenset(re.findall(r'\b[A-Z]\w*', text))


def near_duplicates(
  forget: Mapping[str, str], retain: Mapping[str, str]
) -> list[tuple[str, str, float]]:
  """Returns the texts of two sets that are nearly the same.

  Two texts (a question with its answer) are near-duplicates if the sets S and
  T of their pairs of neighbouring words have |S & T| / |S | T| >= 3/4, which
  leaves one word in about fifteen to differ, and that no name: the same words
  with a capital. (One sentence about two people differs in a name.)
  Texts of fewer than five words say too little to compare.

  Args:
    forget: key -> text.
    retain: key -> text.

  Returns:
    (key in forget, key in retain, Jaccard index), one for each text of forget
    that has any: the one with the highest index.

  Example:
    >>> near_duplicates({'a': 'Ana Ruiz was born in Oslo.'},
    ...                 {'b': 'Where? Oslo', 'c': 'Ana Ruiz was born in Oslo'})
    [('a', 'c', 1.0)]
  """
  runs = {key: shingles(text) for key, text in retain.items()}
  holders = collections.defaultdict(list)
  for key, found in runs.items():
    if len(found) > _LEAST - SHINGLE:
      for run in found:
        holders[run].append(key)
  duplicates = []
  for key, text in forget.items():
    own = shingles(text)
    if len(own) <= _LEAST - SHINGLE:
      continue
    shared = collections.Counter(h for run in own for h in holders.get(run, ()))
    index = {
      other: n / (len(own) + len(runs[other]) - n)
      for other, n in shared.items()
    }
    other = max(index, key=index.get, default=None)
    if other is None or index[other] < NEAR:
      continue
    if index[other] == 1 or names(text) == names(retain[other]):
      duplicates.append((key, other, index[other]))
  return duplicates
