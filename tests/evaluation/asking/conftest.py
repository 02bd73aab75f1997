"""A small model and what it is asked."""

import jax
import numpy as np
import pytest
from small_worlds import ASKED

from mmu_jax import models
from mmu_jax import tree as tree_lib
from mmu_jax.data.batches import batching
from mmu_jax.data.people import vocabulary
from mmu_jax.data.people import world as world_lib


@pytest.fixture(scope='module')
def encoder():
  return batching.Encoder(vocabulary.make_processor())


@pytest.fixture(scope='module')
def model(encoder):
  sizes = dict(
    hidden_size=32,
    intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
  )
  return models.from_options(
    'llava',
    len(encoder.processor.tokenizer),
    vision_config=sizes | dict(image_size=48, patch_size=12),
    text_config=sizes | dict(num_key_value_heads=2),
  )


@pytest.fixture(scope='module')
def params(model):
  """Random weights, so large that the likeliest token is far ahead."""
  rng = np.random.default_rng(1)
  return tree_lib.map_with_name(
    lambda name, x: rng.normal(
      float(name.endswith('scale')), 0.5, x.shape
    ).astype(np.float32),
    jax.eval_shape(model.init, jax.random.key(0)),
  )


@pytest.fixture(scope='module')
def tasks():
  made = world_lib.make_world(1, **ASKED).tasks
  return {name: task.rows for name, task in made.items()}
