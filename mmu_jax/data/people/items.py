"""One fact of one person or picture, made into rows."""

from collections.abc import Callable
import functools
from typing import NamedTuple

import numpy as np

from mmu_jax.data.people import vocabulary as words
from mmu_jax.data.rng import named_rng
from mmu_jax.data.row import CLASSIFICATION
from mmu_jax.data.row import CLOZE
from mmu_jax.data.row import GENERATION
from mmu_jax.data.row import Picture
from mmu_jax.data.row import Row


class Item(NamedTuple):
  """One fact to be asked for, about one picture (None: in text)."""

  key: str
  ask: words.Ask  # its answer has only {fact} left open
  fact: str
  picture: Picture | None = None
  person: str | None = None
  cloze: str = ''
  others: tuple[str, ...] = ()  # answers to be chosen among, of other people


class Drawing:
  """A picture that is drawn when it is first used, and then kept.

  It stands where an RGB array does, so that whoever asks for rows and sizes
  alone waits for no picture.
  """

  def __init__(self, draw: Callable[[], np.ndarray], size: int = 48):
    """Draws nothing yet.

    Args:
      draw: ``draw() -> [size, size, 3]`` uint8, always the same.
      size: height and width, pixels.
    """
    self._draw = functools.cache(draw)
    self.shape = (size, size, 3)

  def __array__(self, dtype=None, copy=None) -> np.ndarray:
    return np.array(self._draw(), dtype, copy=copy)


def make_row(item: Item, task: str, where: str = '', rng=None) -> Row:
  """An item as a row of a task; ``where`` keeps the keys of tasks apart."""
  ask, picture = item.ask, item.picture
  return Row(
    key=f'{item.key}/{task}' + (f'@{where}' if where else ''),
    question=item.cloze if task == CLOZE else ask.question,
    answer=ask.answer.format(fact=item.fact),
    fact=item.fact,
    picture=picture,
    person=item.person,
    task=task,
    options=_options(item, rng) if task == CLASSIFICATION else (),
  )


def _options(item: Item, rng) -> tuple[str, ...]:
  """The answer and three wrong ones.

  About a picture they are true of other people: with other facts of the same
  person, whoever knows the facts by the name could choose without the
  picture.
  """
  if not item.others:
    return item.ask.options(item.fact, rng)
  answer = item.ask.answer.format(fact=item.fact)
  return words.Ask('', '{fact}', item.others).options(answer, rng)


def scored_rows(seed: int, items: list[Item], where: str) -> list[Row]:
  """General items as questions, and as choices where four facts exist."""
  rows = []
  for item in items:
    rows.append(make_row(item, GENERATION, where))
    if len(set(item.ask.facts)) >= 4:
      rng = named_rng(seed, where, item.key)
      rows.append(make_row(item, CLASSIFICATION, where, rng))
  return rows
