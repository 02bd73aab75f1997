"""Fields of config.json: defaults, and choices that are refused."""

import pytest

from mmu_jax.models.hub import config_fields

DEFAULTS = dict(
  vocab_size=10,
  hidden_size=12,
  intermediate_size=7,
  num_hidden_layers=2,
  num_attention_heads=3,
  rms_norm_eps=1e-6,
  rope_theta=1e4,
)


def test_absent_and_null_fields_have_their_default():
  for raw in ({}, {'bias': None}, {'bias': True}):
    config_fields.require(raw, 'bias', True, default=True)
  with pytest.raises(ValueError, match='bias must be True, got False'):
    config_fields.require({'bias': False}, 'bias', True, default=True)


def test_a_decoder_without_key_heads_has_one_for_each_head():
  assert config_fields.decoder({}, DEFAULTS).num_key_value_heads == 3
  text = {'num_key_value_heads': 1, 'rope_parameters': {'rope_theta': 5.0}}
  made = config_fields.decoder(text, DEFAULTS)
  assert (made.num_key_value_heads, made.rope_theta) == (1, 5.0)


def test_another_tower_is_refused():
  assert config_fields.clip({}).hidden_size == 768
  with pytest.raises(ValueError, match="got 'siglip_vision_model'"):
    config_fields.clip({'model_type': 'siglip_vision_model'})


def test_a_part_that_is_no_object_is_refused():
  with pytest.raises(ValueError, match='must hold the sizes of a part, got 3'):
    config_fields.part({'vision_config': 3}, 'vision_config')
