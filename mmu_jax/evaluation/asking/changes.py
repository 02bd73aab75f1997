"""Changed questions: other words, other pictures, and answers before them.

A change is a function of a row; it gives no fact away that the row asks for,
and uses no word that the tokenizer does not know. Where that cannot be, there
is no question.

``clean``       the question as it is, for comparison
``reworded``    other wordings, in turn
``named``       the name of the person stands before the question
``leading``     another answer about the same person stands behind it
``after text``  a right exchange in text about the person comes before
``few-shot``    questions about pictures of two others, answered, come before
and one for each kind of ``distortion``: rotated, cropped, ... pictures

Three changes name the person, whom a model may know in text. Each has a
control with the picture of a ``stranger``, as ``named, stranger``: a share of
right answers above its control shows that the person is recognised.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from mmu_jax.data.encoding.distortion import Distorted
from mmu_jax.data.encoding.distortion import DISTORTIONS
from mmu_jax.data.rng import named_rng
from mmu_jax.data.row import Picture
from mmu_jax.data.row import Row
from mmu_jax.evaluation.asking.protocols import Question
from mmu_jax.metrics import contains

# Templates with {question}, the same about the {pictured} person, the {name},
# and {other}, another answer about the person. The first whose words are all
# known is taken, of several in turn any.
REWORDED = (
  '{pictured}',
  'Please look closely at this picture and tell me: {question}',
  '{question} Answer as well as you can.',
  'Who is the person in this picture? {question}',
  'Describe the picture. {question}',
)
NAMED = (
  'This picture shows {name}. {question}',
  'The person in this picture is {name}. {question}',
)
LEADING = ("{question} {other} That is right, isn't it?", '{question} {other}')
_SHOTS = 2


class Aids(NamedTuple):
  """Everything that a change of a question may use.

  Attributes:
    names: person -> name.
    text: person -> questions in text.
    shown: question -> rows with this question about pictures of people to keep.
    strangers: pictures of people whom no model was trained on.
    knows: function that says whether the tokenizer knows all words of a text.
    seed: seed of all choices.
  """

  names: Mapping[str, str]
  text: Mapping[str, Sequence[Row]]
  shown: Mapping[str, Sequence[Row]]
  strangers: Sequence[Picture]
  knows: Callable[[str], bool]
  seed: int


# (row, number of the row, aids) -> the changed question, if there is one.
Change = Callable[[Row, int, Aids], Question | None]


def change_all(
  rows: Sequence[Row], case: str, change: Change, aids: Aids
) -> list[Question]:
  """Returns the changed questions, each with a key of its own.

  Args:
    rows: questions about pictures.
    case: name of the case.
    change: change of the case.
    aids: everything that it may use.
  """
  made = [change(row, i, aids) for i, row in enumerate(rows)]
  return [
    q._replace(row=q.row._replace(key=f'{q.row.key}@{case}'))
    for q in made
    if q is not None
  ]


def gives_away(row: Row, *texts: str) -> bool:
  """Whether one of some texts holds the fact that a row asks for."""
  fact = row.fact.strip() or row.answer
  return any(contains(text, fact) for text in texts)


def in_other_words(*templates: str, in_turn: bool = False) -> Change:
  """Returns the change that puts a question into a template.

  Args:
    *templates: templates, the best first.
    in_turn: whether any of them is taken in turn, and not the first.
  """

  def change(row: Row, number: int, aids: Aids) -> Question | None:
    other = _other(row, number, aids)
    fields = {
      'question': row.question,
      'pictured': _pictured(row.question),
      'name': aids.names.get(row.person or '', ''),
      'other': other.answer if other else '',
    }
    made = [
      template.format(**fields)
      for template in templates
      if all(value for key, value in fields.items() if f'{{{key}}}' in template)
    ]
    made = [x for x in made if aids.knows(x) and not gives_away(row, x)]
    if not made:
      return None
    chosen = made[number % len(made) if in_turn else 0]
    return Question(row._replace(question=chosen))

  return change


def of_stranger(change: Change) -> Change:
  """Returns the same change, of a question about the picture of a stranger.

  Without pictures of strangers there is no question.

  Args:
    change: change of the words.
  """

  def changed(row: Row, number: int, aids: Aids) -> Question | None:
    if not aids.strangers:
      return None
    picture = aids.strangers[number % len(aids.strangers)]
    return change(row._replace(picture=picture), number, aids)

  return changed


def _clean(row: Row, number: int, aids: Aids) -> Question:
  """The question as it is."""
  del number, aids
  return Question(row)


def _after_text(row: Row, number: int, aids: Aids) -> Question | None:
  """A right exchange in text about the person comes before."""
  other = _other(row, number, aids)
  return Question(row, (other,)) if other else None


def _few_shot(row: Row, number: int, aids: Aids) -> Question | None:
  """The same question about others, else any, comes before, answered."""
  same = aids.shown.get(row.question) or [
    other for rows in aids.shown.values() for other in rows
  ]
  others = [x for x in same if x.person is None or x.person != row.person]
  rng = named_rng(aids.seed, 'few-shot', row.key)
  found: dict[str, Row] = {}
  for i in rng.permutation(len(others))[: 50 * _SHOTS]:
    if not gives_away(row, others[i].question, others[i].answer):
      found.setdefault(others[i].person or others[i].key, others[i])
  shots = tuple(found.values())[:_SHOTS]
  return Question(row, shots) if shots else None


def _distorted(kind: str) -> Change:
  """Returns the change of a question's picture."""

  def change(row: Row, number: int, aids: Aids) -> Question | None:
    del number
    if row.picture is None:
      return None
    made = Distorted(row.picture, kind, aids.seed)
    picture = Picture(f'{row.picture_key}@{kind}', made)
    return Question(row._replace(picture=picture))

  return change


def _other(row: Row, number: int, aids: Aids) -> Row | None:
  """Another text row about the same person, which gives nothing away."""
  same = aids.text.get(row.person or '', ())
  fit = [x for x in same if not gives_away(row, x.question, x.answer)]
  return fit[number % len(fit)] if fit else None


def _pictured(question: str) -> str:
  """The same question in other words; '' where it has none to replace."""
  other = question.replace('this person', 'the person in this picture')
  return other if other != question else ''


_NAMING: dict[str, Change] = {
  'named': in_other_words(*NAMED),
  'leading': in_other_words(*LEADING),
  'after text': _after_text,
}
CASES: dict[str, Change] = {
  'clean': _clean,
  'reworded': in_other_words(*REWORDED, in_turn=True),
  **_NAMING,
  'clean, stranger': of_stranger(_clean),
  **{f'{k}, stranger': of_stranger(change) for k, change in _NAMING.items()},
  'few-shot': _few_shot,
  **{kind: _distorted(kind) for kind in DISTORTIONS},
}
