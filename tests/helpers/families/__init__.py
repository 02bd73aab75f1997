"""The families of models as tests know them: one entry each.

A new family gets a file here and a line in ``CASES``; the tests of forward,
loading, saving and parity run over the table.
"""

from typing import Any

import jax

from families import gemma3
from families import llava
from families import llava_next
from families import qwen2_5_vl
from families import qwen2_vl
from families import qwen3_vl
from families.case import Case
from mmu_jax import models
from mmu_jax.models.hub import config as hub_config

_ALL = (
  llava.CASE,
  llava_next.CASE,
  qwen2_vl.CASE,
  qwen2_5_vl.CASE,
  qwen3_vl.CASE,
  gemma3.CASE,
)
CASES = {case.name: case for case in _ALL}


def of(config: Any) -> Case:
  """The entry of a config of transformers."""
  return CASES[hub_config.family_of(config.to_dict()).name]


def num_features(model: models.Model, room: int) -> int:
  """Features of a row that its image tokens may stand for."""
  make = models.MODELS[model.family].abstract_batch
  batch = make(model.config, 1, 8, room)
  found = jax.eval_shape(model.image_features, model.abstract_params, batch)
  return found.shape[1]
