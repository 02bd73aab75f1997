"""What every family answers, tried on its tiny model; no weight is made."""

import families
import jax
import numpy as np
import pytest

from mmu_jax import models
from mmu_jax import tree as tree_lib
from mmu_jax.data.encoding import processors

VOCAB, ROWS, LENGTH = 48, 2, 40
FAMILIES = pytest.mark.parametrize('name', models.MODELS)


def _model(name):
  return models.from_options(name, VOCAB, **families.CASES[name].options)


def test_every_family_has_an_entry_in_the_tests():
  assert list(families.CASES) == list(models.MODELS)


@FAMILIES
def test_abstract_batches_go_through_the_model(name):
  model, family = _model(name), models.MODELS[name]
  for room in (0, families.CASES[name].room):
    batch = family.abstract_batch(model.config, ROWS, LENGTH, room)
    logits = jax.eval_shape(model.forward, model.abstract_params, batch)
    assert logits.shape == (ROWS, LENGTH, VOCAB)
    if room:
      features = jax.eval_shape(
        model.image_features, model.abstract_params, batch
      )
      tokens = family.image_tokens(model.config, room)
      assert features.shape[:2] == (ROWS, tokens)


def test_every_family_names_a_known_image_processor():
  kinds = [f.image_processor for f in models.MODELS.values()]
  assert kinds == list(processors.IMAGES)


@FAMILIES
def test_every_parameter_has_one_component(name):
  model = _model(name)
  found = {
    tree_lib.component_of(leaf, model.components)
    for leaf in tree_lib.flatten(model.abstract_params)
  }
  assert found == {'vision', 'projector', 'language'}


@FAMILIES
def test_widths_are_sizes_of_the_parameters(name):
  model = _model(name)
  widths = models.MODELS[name].widths(model.config)
  sizes = {
    n for x in jax.tree.leaves(model.abstract_params) for n in np.shape(x)
  }
  assert set(widths['split']) <= sizes
  assert set(widths['layers']) <= sizes
