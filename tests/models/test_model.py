"""A model as pure functions: one object a config, clear errors."""

import pytest

from mmu_jax import models


def test_equal_configs_give_one_model():
  text = dict(hidden_size=16, num_attention_heads=2, num_key_value_heads=2)
  options = dict(text_config=text)
  first = models.from_options('llava', 40, **options)
  assert models.from_options('llava', 40, **options) is first
  assert models.from_options('llava', 41, **options) is not first
  assert first.config.text_config.vocab_size == 40
  assert first.config.text_config.hidden_size == 16
  assert first.config.vision_config == models.LlavaConfig().vision_config


@pytest.mark.parametrize(
  'name, options, message',
  [
    ('lava', {}, "unknown model 'lava'; known: llava"),
    ('llava', {'depth': 3}, "model has no option 'depth'; known: vision_"),
    (
      'llava',
      {'vision_config': {'width': 3}},
      "model.vision_config has no option 'width'; known: hidden_size",
    ),
    (
      'llava',
      {'text_config': {'width': 3, 'depth': 2}},
      "model.text_config has no option 'depth', 'width'",
    ),
  ],
)
def test_an_unknown_model_or_option_is_a_clear_error(name, options, message):
  with pytest.raises(ValueError, match=message):
    models.from_options(name, 40, **options)


def test_a_config_of_no_family_is_refused():
  with pytest.raises(TypeError, match='one of LlavaConfig, .*, got 3'):
    models.build(3)
