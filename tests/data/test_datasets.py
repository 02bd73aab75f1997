"""Datasets are found by name, with the options that they take."""

import pytest

from mmu_jax.data import datasets
from mmu_jax.data.dataset import by_name
from mmu_jax.data.dataset import Dataset
from mmu_jax.data.dataset import Task


def test_a_task_that_names_a_path_is_refused_whoever_reads_it(monkeypatch):
  def make(seed):
    return Dataset({}, by_name(Task('../x', [], 'forget', 'qa', 'keep')), {})

  monkeypatch.setitem(datasets.DATASETS, 'mine', make)
  with pytest.raises(ValueError, match='the name of a task becomes a file'):
    datasets.load('mine', 0)


@pytest.mark.parametrize(
  'name, options, message',
  [
    ('nobody', {}, "unknown dataset 'nobody'; known: people, "),
    ('people', {'ratio': 5}, "'people' does not take these options.*ratio"),
    ('own', {}, "'own' does not take these options.*path"),
  ],
)
def test_an_unknown_name_or_option_is_a_clear_error(name, options, message):
  with pytest.raises(ValueError, match=message):
    datasets.load(name, 0, **options)
