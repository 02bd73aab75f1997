"""The datasets by name: splits to train on, tasks to score, a processor."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from mmu_jax.data import people
from mmu_jax.data import vocabulary
from mmu_jax.data.processors import Processor
from mmu_jax.data.row import Row


class Dataset(NamedTuple):
  """What every dataset gives.

  Attributes:
    train: rows by split: ``'vqa/forget'``, ``'qa/retain'``, ``'general'``.
    tasks: rows by the name of the score: ``'forget_vqa'``.
    names: person -> the name that people know them by, for reports.
    processor: tokenizer and image processor.
  """

  train: Mapping[str, Sequence[Row]]
  tasks: Mapping[str, Sequence[Row]]
  names: Mapping[str, str]
  processor: Processor


def make_people(seed: int, **options: int) -> Dataset:
  """The synthetic people of ``people.make_world``, which takes the options."""
  world = people.make_world(seed, **options)
  names = {person.key: person.name for person in world.people}
  return Dataset(
      world.train, world.tasks, names, vocabulary.make_processor()
  )


DATASETS: dict[str, Callable[..., Dataset]] = {'people': make_people}


def load(name: str, seed: int, **options) -> Dataset:
  """Returns a dataset by name.

  Args:
    name: a key of ``DATASETS``.
    seed: of everything random in it.
    **options: of this dataset.

  Raises:
    ValueError: if the name is unknown, or an option is.
  """
  if name not in DATASETS:
    raise ValueError(f'unknown dataset {name!r}; known: {", ".join(DATASETS)}.')
  try:
    return DATASETS[name](seed, **options)
  except TypeError as error:
    raise ValueError(
        f'dataset {name!r} does not take these options: {error}. See its '
        'function for those that it has.'
    ) from error
