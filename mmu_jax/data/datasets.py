"""The datasets by name: splits to train on, tasks to score, a processor."""

from collections.abc import Callable
import functools
import inspect

from mmu_jax import inputs
from mmu_jax.data.dataset import Dataset
from mmu_jax.data.people import vocabulary
from mmu_jax.data.people import world as world_lib
from mmu_jax.data.readers import clear
from mmu_jax.data.readers import mllmu_bench
from mmu_jax.data.readers import own
from mmu_jax.data.readers import prepared
from mmu_jax.errors import UserError


@functools.wraps(world_lib.make_world, assigned=())  # for its signature
def make_people(seed: int, **options: int) -> Dataset:
  """The synthetic people of ``world.make_world``, which takes the options."""
  world = world_lib.make_world(seed, **options)
  names = {person.key: person.name for person in world.people}
  return Dataset(
    world.train,
    world.tasks,
    names,
    vocabulary.make_processor(),
    layout='people',
    protocol='plain',
  )


DATASETS: dict[str, Callable[..., Dataset]] = {
  'people': make_people,
  'mllmu_bench': mllmu_bench.make_mllmu_bench,
  'clear': clear.make_clear,
  'own': own.make_own,
  'tfds': prepared.make_tfds,
}


def load(name: str, seed: int, **options) -> Dataset:
  """Returns a dataset by name.

  Args:
    name: a key of ``DATASETS``.
    seed: seed of everything random in it.
    **options: options of this dataset.

  Raises:
    ValueError: if the name is unknown, or an option is, or a task has a name
      that is no file name.
  """
  if name not in DATASETS:
    raise UserError(f'unknown dataset {name!r}; known: {", ".join(DATASETS)}.')
  make = DATASETS[name]
  try:
    inspect.signature(make).bind(seed, **options)
  except TypeError as error:
    raise UserError(
      f'dataset {name!r} does not take these options: {error}. Its function '
      'has a list.'
    ) from error
  data = make(seed, **options)
  for task in data.tasks:
    inputs.check_name(task, 'task')
  return data
