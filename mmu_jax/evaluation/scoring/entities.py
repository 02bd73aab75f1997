"""Scores of single people or things, and answers that name another one."""

from collections.abc import Mapping, Sequence
import functools
import re

import numpy as np

from mmu_jax.data.dataset import FORGET
from mmu_jax.data.dataset import Task
from mmu_jax.data.dataset import VQA
from mmu_jax.data.row import GENERATION
from mmu_jax.evaluation.asking.answers import Answer

# The scores that say whether somebody is still known.
TOLD = (
  *('exact_match', 'contains', 'cloze', 'rougeL', 'probability'),
  *('choice', 'accuracy'),
)


def by_entity(
  values: Sequence[float],
  groups: Sequence[str | None],
  names: Mapping[str, str],
) -> dict[str, list[float]]:
  """Splits the scores of a task by whom they are about.

  Args:
    values: one score for each answer.
    groups: the person or thing of each answer; others than in ``names`` are
      left out.
    names: name by person or thing; a name that two have gets their keys.

  Returns:
    Name -> mean of its scores, and their number.

  Example:
    >>> by_entity([1, 0, 1], ['a', 'b', 'b'], {'a': 'Ana', 'b': 'Ben'})
    {'Ana': [1.0, 1], 'Ben': [0.5, 2]}
  """
  found: dict[str, list[float]] = {}
  for value, group in zip(values, groups):
    if group in names:
      found.setdefault(group, []).append(value)
  twice = lambda key: list(names.values()).count(names[key]) > 1
  return {
    f'{names[key]} ({key})' if twice(key) else names[key]: [
      float(f'{np.mean(scores):.6g}'),
      len(scores),
    ]
    for key, scores in found.items()
  }


def named_another(
  answers: Sequence[Answer], task: Task, names: Mapping[str, str]
) -> list[tuple[int, str]]:
  """Says of answers about forgotten faces whether they name somebody else.

  A name counts as whole words, whatever the case, and the longest one at a
  place; names in the question or in the reference answer do not count. So it is
  1 where 'Ben Ray keeps a cat.' stands for Ana Ruiz and there is a Ben Ray.

  Args:
    answers: answer records of a task.
    task: questions that were asked; others than about pictures of the forget
      set have no such score.
    names: name by person or thing, of the whole dataset.

  Returns:
    1 or 0, and the person or thing, of each generated answer. None at all
    where no reference answer holds the name of its own: then names are not
    what these answers are made of, and a share of 0 would say nothing.
  """
  if (task.split, task.modality) != (FORGET, VQA) or not names:
    return []
  find = functools.partial(_find, _pattern(tuple(names.values())))
  about = [
    answer
    for answer in answers
    if answer['kind'] == GENERATION
    and 'text' in answer
    and answer['person'] in names
  ]
  own = lambda a: _plain(names[a['person']]) in find(a['answer'])
  if not any(map(own, about)):
    return []
  given = lambda a: find(a['question']) | find(a['answer'])
  return [
    (
      int(bool(find(a['text']) - given(a) - {_plain(names[a['person']])})),
      a['person'],
    )
    for a in about
  ]


@functools.lru_cache(maxsize=8)
def _pattern(names: tuple[str, ...]) -> re.Pattern:
  """Finds names; the longest at a place."""
  longest = sorted({_plain(name) for name in names}, key=len, reverse=True)
  return re.compile(rf'(?<!\w)(?:{"|".join(map(re.escape, longest))})(?!\w)')


def _find(pattern: re.Pattern, text: str) -> set[str]:
  """The names in a text."""
  return set(pattern.findall(_plain(text)))


def _plain(text: str) -> str:
  """Lower case, one space between words."""
  return ' '.join(text.lower().split())
