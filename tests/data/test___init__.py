"""Modules of ``mmu_jax.data`` by their short names."""

import importlib

import pytest

from mmu_jax import data
from mmu_jax.data.encoding import processors
from mmu_jax.models import hub_config


@pytest.mark.parametrize('name, path', data._MODULES.items())
def test_a_short_name_is_the_module_itself(name, path):
  assert path.endswith(f'.{name}')
  assert getattr(data, name) is importlib.import_module(path)


def test_an_unknown_name_is_an_attribute_error():
  with pytest.raises(AttributeError, match="'checker'"):
    data.checker  # noqa: B018


def test_short_names_of_functions_are_the_functions():
  assert processors.load is processors.read_processor
  assert hub_config.read is hub_config.read_config
