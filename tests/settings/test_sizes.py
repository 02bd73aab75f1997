"""The fields of a checkpoint's files have ranges; real files keep them."""

import json
import math

import hub_folder
import pytest

from mmu_jax import models
from mmu_jax.models.hub import config as hub_config
from mmu_jax.settings import sizes
from mmu_jax.settings import table

NAN, INF = math.nan, math.inf
TEXT = {
  'rms_norm_eps': [NAN, -1e-5, 0, 2, '1e-5', True, None],
  'rope_theta': [NAN, INF, 0, -1.0, '1e4'],
  'hidden_size': [0, -16, 16.0, '16', True, None, 2**30],
  'num_attention_heads': [0, -1, 3, '2', True],
  'num_key_value_heads': [0, -1, 1.5],
  'num_hidden_layers': [0, -1, NAN, [2]],
  'vocab_size': [0, -1, '48'],
  'intermediate_size': [0, 1e30],
  'max_position_embeddings': [-1, '64', NAN],
  'rope_scaling': ['mrope', [], 3],
}
LLAVA = {
  'vision_config': {
    'layer_norm_eps': [NAN, -1, 0],
    'patch_size': [0, -1, 5, '12'],
    'image_size': [0, NAN],
    'num_attention_heads': [0, 3, True, 'text', 1e30],
    'hidden_act': ['tanh', 3, None],
  },
  '': {
    'image_token_index': [-1, '5', 1.5],
    'vision_feature_layer': [[-2, 5], 1.0, None, -99],
    'vision_feature_select_strategy': ['cls', None],
    'projector_hidden_act': ['swish', []],
    'tie_word_embeddings': ['no', 0],
    'model_type': [3, ['llava'], {}],
  },
}
QWEN2_VL = {
  'rope_scaling': {
    'mrope_section': [[4, 4], [1, 1, 2, 4], [], [1, 1, 1], [-1, 2, 3], 'abc'],
    'rope_theta': [0, NAN],
  },
  'vision_config': {
    'spatial_merge_size': [0, 3, 5, '2'],
    'mlp_ratio': [0, -1, NAN, '4'],
    'depth': [0, -1],
    'embed_dim': [0, 15],
    'num_heads': [0, 3],
    'in_channels': [1, 4],
    'temporal_patch_size': [0, 1.5],
    'patch_size': [0],
  },
}


def _cases():
  for field, values in TEXT.items():
    yield 'llava', 'text_config', field, values
    yield 'qwen2_vl', '', field, values
  for family, parts in (('llava', LLAVA), ('qwen2_vl', QWEN2_VL)):
    for part, fields in parts.items():
      for field, values in fields.items():
        yield family, part, field, values


@pytest.mark.parametrize('family, part, field, values', _cases())
def test_a_field_out_of_its_range_names_file_field_rule_and_value(
  family, part, field, values, tmp_path
):
  file = tmp_path / 'config.json'
  for value in values:
    raw = json.loads(json.dumps(hub_folder.config(family)))
    place = raw.setdefault(part, {}) if part else raw
    place[field] = value
    file.write_text(json.dumps(raw))
    with pytest.raises(ValueError) as raised:
      hub_config.read_config(tmp_path)
    message = str(raised.value)
    assert message.startswith(f'{file}: ') and field in message, message
    assert ' is ' in message or ' has ' in message or ' names ' in message


@pytest.mark.parametrize('family', models.MODELS.values(), ids=lambda f: f.name)
def test_a_table_of_a_family_has_the_decoder_and_a_tower(family):
  assert set(sizes.DECODER) <= {x.split('.')[-1] for x in family.fields}
  assert any(path.startswith('vision_config.') for path in family.fields)


def test_the_sizes_of_a_decoder_and_of_towers_are_fields_of_a_config():
  parts = {
    'text_config': sizes.DECODER | sizes.ROPE,
    'vision_config': sizes.CLIP | sizes.QWEN2_VL_VISION,
  }
  for part, fields in parts.items():
    for field in fields:
      assert f'model.{part}.{field}' in table.TABLE
