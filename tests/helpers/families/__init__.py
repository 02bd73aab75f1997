"""The families of models as tests know them: one entry each.

A new family gets a file here and a line in ``CASES``; the tests of forward,
loading, saving and parity run over the table.
"""

from typing import Any

from families import llava
from families import qwen2_vl
from families.case import Case
from mmu_jax.models.hub import config as hub_config

CASES = {case.name: case for case in (llava.CASE, qwen2_vl.CASE)}


def of(config: Any) -> Case:
  """The entry of a config of transformers."""
  return CASES[hub_config.family_of(config.to_dict()).name]
