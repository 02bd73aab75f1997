"""Columns, blocks and layouts: which scores a table shows, and how to read it.

A dataset has a layout: which scores stand beside each other, which way they are
wanted to go, and which of them say whether something was forgotten. Columns
find tasks by meaning, see ``About``, and not by their names.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from mmu_jax.data.dataset import Task

DOWN, UP, NEAR = '↓', '↑', '≈'


class About(NamedTuple):
  """Which task of a dataset a column shows.

  Attributes:
    split: ``'forget'``, ``'retain'``, ``'real'``; ``'all'`` for a score over
      several tasks.
    modality: ``'vqa'``, ``'qa'`` or ``'all'``.
    holdout: the task about pictures or words that no model was trained on.
    name: name of the task, where a dataset has two that are alike; '' for any.
  """

  split: str
  modality: str
  holdout: bool = False
  name: str = ''

  def find(self, tasks: Mapping[str, Task]) -> Task | None:
    """Returns the first of some tasks that this is; None if there is none."""
    meant = lambda task: (
      (task.split, task.modality, task.holdout) == self[:3]
      and self.name in ('', task.name)
    )
    return next(filter(meant, tasks.values()), None)


FORGET_VQA = About('forget', 'vqa')
FORGET_VQA_HOLDOUT = About('forget', 'vqa', True)
FORGET_QA = About('forget', 'qa')
RETAIN_VQA = About('retain', 'vqa')
RETAIN_QA = About('retain', 'qa')
ALL = About('all', 'all')


# Metrics that are no share of right answers: an answer has a part of them.
_GRADED = frozenset({'rougeL', 'rougeL_recall', 'factuality'})


class Column(NamedTuple):
  """One column of a table, and how to read it.

  Attributes:
    key: name of the column within its layout.
    title: title on pages and in Markdown.
    short: title in terminals, words of at most six letters.
    wanted: direction that is wanted, ``UP`` or ``DOWN``; ``NEAR`` where it is
      the retrained model's score.
    meaning: sentence that explains the column.
    about: task of the scores; None if derived from the other scores.
    metric: metric of the scores.
  """

  key: str
  title: str
  short: str
  wanted: str
  meaning: str
  about: About | None = None
  metric: str = ''

  @property
  def right(self) -> bool:
    """Whether the score is a share of right answers."""
    return self.metric not in _GRADED

  def of(self, tasks: Mapping[str, Task]) -> Task | None:
    """Returns the task of the scores, among some tasks."""
    return self.about.find(tasks) if self.about else None


def columns_of(rows: Iterable[tuple]) -> tuple[Column, ...]:
  """Columns of rows that name task and metric first, and the meaning last."""
  return tuple(
    Column(key, title, short, wanted, meaning, about, metric)
    for about, metric, key, title, short, wanted, meaning in rows
  )


class ColumnBlock(NamedTuple):
  """Columns under one title; '' for the only block of a layout."""

  title: str
  meaning: str
  columns: tuple[Column, ...]


class Told(NamedTuple):
  """A column that the summary speaks about.

  Attributes:
    key: key of the column.
    title: title on the axis of a plot.
    words: words behind the score: '8 % *right word for word*'.
    about: subject of the questions, within a sentence.
    right: the score is a share of right answers.
    chance: the share that guessing gives.
  """

  key: str
  title: str
  words: str
  about: str = 'new pictures of them'
  right: bool = True
  chance: float = 0.0


class Layout(NamedTuple):
  """How the scores of a dataset are shown.

  Attributes:
    blocks: tables, one below the other.
    note: meaning of a number, where no title says it.
    derived: meaning of the last columns.
    compared: metrics whose differences to the retrained model make up the
      distance.
    forget: columns of whether those in the pictures are recognised; the worst
      of them decides. Plots show the first.
    text: columns of knowledge that is to stay, in groups that are about the
      same; the first group that was measured is the one to speak about.
    kept: the columns, with titles, that plots set against ``forget``.
    judged: kind of row, metric and least value that make an answer right.
    judged_words: the same for a reader; '' where right is right.
    exact: answers are right as a whole or wrong, and scores fill 0 to 1.
    beings: word for one of those who are forgotten, and for several.
  """

  blocks: tuple[ColumnBlock, ...]
  note: str
  derived: str
  compared: tuple[str, ...]
  forget: tuple[Told, ...]
  text: tuple[tuple[Told, ...], ...]
  kept: tuple[tuple[str, str], ...]
  judged: tuple[str, str, float]
  judged_words: str = ''
  exact: bool = False
  beings: tuple[str, str] = ('person', 'people')


WORD_FOR_WORD = 'right word for word'
FACT = 'with the right fact, whoever is named'
OF_FOUR = 'right among four offered answers'
IN_TEXT = 'what it knows in text about them'
SEEN = 'pictures that it was trained on'
NAMES_ANOTHER = (
  'Answers about pictures of the forgotten that name somebody else who is '
  'known: it was said of the wrong one, a harm of its own. But whoever does '
  'not know a face names another, so the yardstick is the retrained model.'
)
EXPOSURE = (
  'How far the true answer stands out among answers that are true of others, '
  'by their log-probabilities: log2 of their number less log2 of its rank. '
  'Among four it is 2 bits where the true one is always the likeliest, and '
  '.85 by guessing; among eight 3 and 1.09.'
)
NLL = (
  'How unlikely the true answer is, in nats: minus the logarithm of its '
  'probability, all of its words. It sees a memory that is never written: a '
  'model may say something else and still have the answer next in line. It is '
  'to be as high as retrained; far above, the answer is shunned, not unknown.'
)

DISTANCE = Column(
  'distance',
  'distance to retrained',
  'dist.',
  DOWN,
  'The mean absolute difference to the exact match of the retrained '
  'model over all tasks; 0 is the same behaviour.',
)
