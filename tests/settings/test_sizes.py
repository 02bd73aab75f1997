"""Sizes of models are fields of a config, too."""

from mmu_jax.settings import sizes
from mmu_jax.settings import table


def test_the_sizes_of_a_decoder_and_of_towers_are_fields_of_a_config():
  parts = {
    'text_config': sizes.DECODER | sizes.ROPE,
    'vision_config': sizes.CLIP | sizes.QWEN2_VL_VISION,
  }
  for part, fields in parts.items():
    for field in fields:
      assert f'model.{part}.{field}' in table.TABLE
