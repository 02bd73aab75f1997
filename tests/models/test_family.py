"""What every family answers, tried on its tiny model; no weight is made."""

import families
import jax
import numpy as np
import pytest

from mmu_jax import models
from mmu_jax import tree as tree_lib
from mmu_jax.data.encoding import processors
from mmu_jax.models import family as family_lib

VOCAB, ROWS, LENGTH = 48, 2, 40
DEFAULTS = dict(
  vocab_size=10,
  hidden_size=12,
  intermediate_size=7,
  num_hidden_layers=2,
  num_attention_heads=3,
  rms_norm_eps=1e-6,
  rope_theta=1e4,
)
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
      assert features.shape[0] == ROWS
      many = features.shape[1] < tokens
      assert (
        features.shape[1] == tokens or many and families.CASES[name].repeats
      )


def test_every_family_names_a_known_image_processor():
  kinds = {f.image_processor for f in models.MODELS.values()}
  assert kinds <= {*processors.IMAGES}


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


def test_absent_and_null_fields_have_their_default():
  for raw in ({}, {'bias': None}, {'bias': True}):
    family_lib.check_field(raw, 'bias', True, default=True)
  with pytest.raises(ValueError, match='bias must be True, got False'):
    family_lib.check_field({'bias': False}, 'bias', True, default=True)


def test_a_decoder_without_key_heads_has_one_for_each_head():
  assert family_lib.decoder({}, DEFAULTS).num_key_value_heads == 3
  text = {'num_key_value_heads': 1, 'rope_parameters': {'rope_theta': 5.0}}
  made = family_lib.decoder(text, DEFAULTS)
  assert (made.num_key_value_heads, made.rope_theta) == (1, 5.0)


def test_another_tower_is_refused():
  assert family_lib.clip({}).hidden_size == 768
  with pytest.raises(ValueError, match="got 'siglip_vision_model'"):
    family_lib.clip({'model_type': 'siglip_vision_model'})


def test_a_part_that_is_no_object_is_refused():
  with pytest.raises(ValueError, match='must hold the sizes of a part, got 3'):
    family_lib.sizes_of({'vision_config': 3}, 'vision_config')
