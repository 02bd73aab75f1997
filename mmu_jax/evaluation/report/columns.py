"""What a table shows, how to read it, and the table of the synthetic people.

A dataset has its layout: which scores stand beside each other, which way they
are wanted to go, and which of them say whether something was forgotten.
"""

from typing import NamedTuple

DOWN, UP = '↓', '↑'


class Column(NamedTuple):
  """What one column shows, and how to read it."""

  key: str
  title: str
  short: str  # for terminals: words of at most six letters
  wanted: str
  meaning: str
  task: str | None = None  # None: derived from the other scores
  metric: str = 'exact_match'


class Block(NamedTuple):
  """Columns under one title; '' for the only block of a layout."""

  title: str
  meaning: str
  columns: tuple[Column, ...]


class Told(NamedTuple):
  """A column that the summary speaks about.

  Attributes:
    key: of the column.
    title: on the axis of a plot.
    words: what was asked, within a sentence.
    right: the score is a share of right answers.
    chance: the share that guessing gives.
  """

  key: str
  title: str
  words: str
  right: bool = True
  chance: float = 0.0


class Layout(NamedTuple):
  """How the scores of a dataset are shown.

  Attributes:
    blocks: tables, one below the other.
    note: what a number is, where no title says it.
    derived: what the last columns are.
    compared: metrics whose differences to the retrained model make up the
      distance.
    forget: whether the people of the pictures are recognised.
    text: what is known in text about the same people.
    kept: the columns, with titles, that plots set against ``forget``.
    judged: kind of row, metric and least value that make an answer right.
    judged_words: the same for a reader; '' where right is right.
  """

  blocks: tuple[Block, ...]
  note: str
  derived: str
  compared: tuple[str, ...]
  forget: Told
  text: Told
  kept: tuple[tuple[str, str], ...]
  judged: tuple[str, str, float]
  judged_words: str = ''


UTILITY = Column(
  'utility',
  'U',
  'U',
  UP,
  'Utility, all that is to be kept in one number: the mean of forget '
  'QA, retain VQA, retain QA and real-world VQA.',
)
DISTANCE = Column(
  'distance',
  'distance to retrained',
  'dist.',
  DOWN,
  'The mean absolute difference to the exact match of the retrained '
  'model over all tasks; 0 is the same behaviour.',
)

PEOPLE = Layout(
  (
    Block(
      '',
      '',
      (
        Column(
          'forget_vqa',
          'forget VQA, training images',
          'forget VQA train',
          DOWN,
          'Questions about the pictures of the forgotten people that '
          'the model was trained on.',
          'forget_vqa',
        ),
        Column(
          'holdout',
          'forget VQA, held-out images',
          'forget VQA new',
          DOWN,
          'The same people in pictures that no model has seen: whether the '
          'person is forgotten, and not only the training pictures.',
          'forget_vqa_holdout',
        ),
        Column(
          'choice',
          'held-out, choice of 4',
          'new, of four',
          DOWN,
          'The right one among four offered answers about held-out '
          'pictures; chance is .25. Above chance the picture still helps, '
          'so something is left; far below chance the model shuns the right '
          'answer, which is a trace as well.',
          'forget_vqa_holdout',
          'choice',
        ),
        Column(
          'forget_qa',
          'forget QA',
          'forget QA',
          UP,
          'Questions in text that name the forgotten people: this knowledge '
          'is to stay.',
          'forget_qa',
        ),
        Column(
          'retain_vqa',
          'retain VQA',
          'retain VQA',
          UP,
          'Questions about pictures of everybody else.',
          'retain_vqa',
        ),
        Column(
          'retain_qa',
          'retain QA',
          'retain QA',
          UP,
          'Questions in text about everybody else.',
          'retain_qa',
        ),
        Column(
          'real_vqa',
          'real-world VQA',
          'real VQA',
          UP,
          'Questions about other pictures: the general ability to see.',
          'real_vqa',
        ),
        Column(
          'real_qa',
          'real-world QA',
          'real QA',
          UP,
          'Questions about plain facts in text that every model was trained '
          'on: whether they are kept.',
          'real_qa',
        ),
        UTILITY,
        DISTANCE,
      ),
    ),
  ),
  note='exact match unless said',
  derived='U: mean of forget QA, retain VQA, retain QA, real VQA; distance '
  '(dist.): mean absolute difference of exact match to the retrained model, '
  'all tasks',
  compared=('exact_match',),
  forget=Told(
    'holdout',
    'forget VQA, held-out images',
    'questions about new pictures of them',
  ),
  text=Told('forget_qa', 'forget QA, text', 'questions in text about them'),
  kept=(('forget_qa', 'forget QA, text'), ('utility', 'utility U')),
  judged=('generation', 'exact_match', 1),
)
