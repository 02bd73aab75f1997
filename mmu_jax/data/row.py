"""One question about one person or one picture: the form of every dataset."""

from typing import NamedTuple

from mmu_jax.data.encoding.images import Image

GENERATION = 'generation'  # answered in words, compared with the reference
CLOZE = 'cloze'  # right when the answer contains the fact
CLASSIFICATION = 'classification'  # the likeliest of the options
TASKS = (GENERATION, CLOZE, CLASSIFICATION)


class Picture(NamedTuple):
  """An image and its key."""

  key: str
  image: Image  # RGB [height, width, 3] uint8


class Row(NamedTuple):
  """A question, its reference answer, and the picture that it is about.

  Every reader (the synthetic people, the benchmarks) yields rows, and the rest
  of the library knows nothing else of a dataset.

  Attributes:
    key: unique within a dataset, stable over runs: ``'p007/train03/pet'``.
    question: what the user asks, without the image placeholder.
    answer: the full reference answer, a sentence.
    fact: the words within ``answer`` that carry the knowledge; what a cloze
      answer must contain.
    image: RGB picture ``[height, width, 3]`` uint8, as an array or decoded on
      use (``images.LazyImage``); None for a text row.
    image_key: names the picture; rows with the same one share the object and
      can be packed into one sequence. None for a text row.
    person: who is asked about; None for general knowledge.
    task: one of ``TASKS``: how an answer is scored. Training ignores it.
    options: for classification, complete candidate answers; ``answer`` is one
      of them.
    paraphrase: the answer in other words, for truth ratios; '' if there is
      none.
    perturbed: wrong answers of the same form, for truth ratios.
  """

  key: str
  question: str
  answer: str
  fact: str
  image: Image | None = None
  image_key: str | None = None
  person: str | None = None
  task: str = GENERATION
  options: tuple[str, ...] = ()
  paraphrase: str = ''
  perturbed: tuple[str, ...] = ()


def pictures(row: Row) -> tuple[Picture, ...]:
  """Returns the pictures that a row's question is asked about: one or none."""
  if row.image is None:
    return ()
  return (Picture(row.image_key or row.key, row.image),)
