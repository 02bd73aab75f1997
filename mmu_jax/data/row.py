"""One question about one person or one picture: the form of every dataset."""

from typing import Any, NamedTuple

from mmu_jax.data.encoding.images import Image

GENERATION = 'generation'  # answered in words, compared with the reference
CLOZE = 'cloze'  # right when the answer contains the fact
CLASSIFICATION = 'classification'  # the likeliest of the options
TASKS = (GENERATION, CLOZE, CLASSIFICATION)


class Picture(NamedTuple):
  """An image and its key.

  Attributes:
    key: name of the picture, under which its encoding is kept.
    image: RGB ``[height, width, 3]`` uint8, as an array or decoded on use
      (``images.LazyImage``).
  """

  key: str
  image: Image


class _Fields(NamedTuple):
  """The fields of a row."""

  key: str
  question: str
  answer: str
  fact: str
  picture: Picture | None = None
  person: str | None = None
  task: str = GENERATION
  options: tuple[str, ...] = ()
  paraphrase: str = ''
  perturbed: tuple[str, ...] = ()


class Row(_Fields):
  """A question, its reference answer, and the picture that it is about.

  Every reader (the synthetic people, the benchmarks) yields rows, and the rest
  of the library knows nothing else of a dataset.

  Attributes:
    key: unique within a dataset, stable over runs: ``'p007/train03/pet'``.
    question: question of the user, without the image placeholder.
    answer: the full reference answer, a sentence.
    fact: the words within ``answer`` that carry the knowledge; a cloze answer
      must contain them.
    picture: picture that the question is about; None for a text row. Rows about
      one picture share the object and can be packed into one sequence.
    person: person that is asked about; None for general knowledge.
    task: one of ``TASKS``: how an answer is scored. Training ignores it.
    options: complete candidate answers, for classification; ``answer`` is one
      of them.
    paraphrase: the answer in other words, for truth ratios; '' if there is
      none.
    perturbed: wrong answers of the same form, for truth ratios.
  """

  __slots__ = ()

  def __new__(
    cls,
    *values: Any,
    image: Image | None = None,
    image_key: str | None = None,
    **named: Any,
  ) -> 'Row':
    """Makes a row; pixels and their key may stand in place of a picture."""
    made = super().__new__(cls, *values, **named)
    if image is None:
      return made
    return made._replace(picture=Picture(image_key or made.key, image))

  @property
  def pictures(self) -> tuple[Picture, ...]:
    """One picture, or none."""
    return () if self.picture is None else (self.picture,)

  @property
  def picture_key(self) -> str | None:
    """Key of the picture; None for a text row."""
    return None if self.picture is None else self.picture.key
