"""config.json: what is read, what is absent, what is refused."""

import dataclasses
import json

import families
import hub_folder
import pytest

from mmu_jax.errors import UserError
from mmu_jax.models.hub import config as hub_config

transformers = pytest.importorskip('transformers')


OTHERS_CHOOSE = (
  'mrope_interleaved',
  'qk_norm',
  'norm_offset',
  'post_norms',
  'query_pre_attn_scalar',
  'scale_embeddings',
  'sliding_window',
  'sliding_window_pattern',
  'rope_local_base_freq',
)


def _write(folder, raw):
  folder.mkdir(exist_ok=True)
  (folder / 'config.json').write_text(json.dumps(raw))
  return folder


def _published(name):
  folder = hub_folder.reference() / name
  if not folder.exists():
    pytest.skip(f'needs the configs of the hub in {folder}')
  return folder


def _check_as_transformers_reads_it(folder):
  """Every size of ours is what AutoConfig finds in the same file."""
  ours = hub_config.read_config(folder)
  theirs = transformers.AutoConfig.from_pretrained(folder)
  text = dataclasses.asdict(ours.text_config)
  rope = theirs.text_config.rope_parameters
  qwen = theirs.model_type == 'qwen2_vl'
  # What its attention takes where the config has none.
  section = rope.get('mrope_section', [16, 24, 24]) if qwen else ()
  assert text.pop('mrope_section') == tuple(section)
  assert text.pop('rope_theta') == rope['rope_theta']
  assert text.pop('rope_factor') == rope.get('factor', 1)
  assert text.pop('qkv_bias') == qwen
  # Of random parameters, and choices of other families.
  plain = dataclasses.asdict(type(ours.text_config)())
  del text['embedding_std']
  for name in OTHERS_CHOOSE:
    assert text.pop(name) == plain[name]
  context = text.pop('max_position_embeddings')
  assert context in (0, theirs.text_config.max_position_embeddings)
  heads = theirs.text_config.num_attention_heads
  head_dim = getattr(theirs.text_config, 'head_dim', None)
  head_dim = head_dim or theirs.text_config.hidden_size // heads
  assert text.pop('head_dim') == head_dim
  assert len(text) == 8
  vision = dataclasses.asdict(ours.vision_config)
  vision.pop('embedding_std', None)
  assert len(vision) == (10 if qwen else 8)
  for part, values in (
    (theirs.text_config, text),
    (theirs.vision_config, vision),
  ):
    assert {name: getattr(part, name) for name in values} == values
  assert ours.tie_word_embeddings == theirs.tie_word_embeddings
  if not qwen:
    for name in (
      'vision_feature_layer',
      'vision_feature_select_strategy',
      'projector_hidden_act',
    ):
      assert getattr(ours, name) == getattr(theirs, name)


def test_the_published_llava_is_read():
  config = hub_config.read_config(_published('llava_1_5_7b'))
  text, vision = config.text_config, config.vision_config
  assert (text.num_hidden_layers, text.hidden_size) == (32, 4096)
  assert (text.num_attention_heads, text.num_key_value_heads) == (32, 32)
  assert (text.intermediate_size, text.vocab_size) == (11008, 32064)
  assert (text.rms_norm_eps, text.rope_theta) == (1e-5, 1e4)
  assert text.max_position_embeddings == 4096
  assert (text.qkv_bias, text.mrope_section) == (False, ())
  assert (vision.num_hidden_layers, vision.hidden_size) == (24, 1024)
  assert (vision.num_attention_heads, vision.intermediate_size) == (16, 4096)
  assert (vision.layer_norm_eps, vision.hidden_act) == (1e-5, 'quick_gelu')
  assert (config.num_image_tokens, config.num_vision_layers) == (576, 23)
  assert config.projector_hidden_act == 'gelu'
  assert config == type(config)()  # which are our defaults


@pytest.mark.parametrize(
  'name, layers, width, heads, keys, inner, vocabulary, tied',
  [
    ('qwen2_vl_7b', 28, 3584, 28, 4, 18944, 152064, False),
    ('qwen2_vl_2b_derived', 28, 1536, 12, 2, 8960, 151936, True),
  ],
)
def test_the_published_qwen2_vl_are_read(
  name, layers, width, heads, keys, inner, vocabulary, tied
):
  config = hub_config.read_config(_published(name))
  text, vision = config.text_config, config.vision_config
  assert (text.num_hidden_layers, text.hidden_size) == (layers, width)
  assert (text.num_attention_heads, text.num_key_value_heads) == (heads, keys)
  assert (text.intermediate_size, text.vocab_size) == (inner, vocabulary)
  assert (text.rms_norm_eps, text.rope_theta) == (1e-6, 1e6)
  assert text.max_position_embeddings == 32768
  assert (text.qkv_bias, text.mrope_section) == (True, (16, 24, 24))
  assert config.tie_word_embeddings == tied
  assert (vision.depth, vision.embed_dim, vision.num_heads) == (32, 1280, 16)
  assert (vision.hidden_size, vision.mlp_ratio) == (width, 4)
  assert (vision.patch_size, vision.temporal_patch_size) == (14, 2)
  assert (vision.spatial_merge_size, vision.patch_dim) == (2, 1176)
  if name == 'qwen2_vl_7b':
    assert config == type(config)()


@pytest.mark.parametrize(
  'name', ['llava_1_5_7b', 'qwen2_vl_7b', 'qwen2_vl_2b_derived']
)
def test_published_configs_are_read_as_transformers_does(name):
  _check_as_transformers_reads_it(_published(name))


@pytest.mark.parametrize(
  'text',
  [
    {},
    {'hidden_size': 64},
    {'num_attention_heads': 16, 'num_key_value_heads': 4},
    {'num_attention_heads': 16},
    {'num_attention_heads': 16, 'num_key_value_heads': None},
    {'vocab_size': 77, 'intermediate_size': 99, 'num_hidden_layers': 3},
    {'rms_norm_eps': 3e-6, 'rope_theta': 5e5},
    {'rope_parameters': {'rope_type': 'default', 'rope_theta': 2e4}},
    {'rope_scaling': None},
    {'rope_scaling': {'type': 'linear', 'factor': 4.0}},
    {'rope_parameters': {'rope_type': 'linear', 'factor': 4.0}},
    {'hidden_act': 'silu', 'attention_bias': False, 'mlp_bias': False},
    {'head_dim': 128},
    {'head_dim': 64},
    {'tie_word_embeddings': True},
  ],
)
def test_absent_fields_of_llava_have_transformers_defaults(text, tmp_path):
  raw = {'model_type': 'llava', 'text_config': text, 'vision_config': {}}
  _check_as_transformers_reads_it(_write(tmp_path, raw))


@pytest.mark.parametrize(
  'said, length',
  [
    ({}, 0),
    ({'max_position_embeddings': 128}, 128),
    ({'max_position_embeddings': None}, 0),
  ],
)
def test_the_length_of_the_context_is_what_the_config_says(
  said, length, tmp_path
):
  """Or not known: transformers' default is a guess about the checkpoint."""
  raw = {'model_type': 'llava', 'text_config': said, 'vision_config': {}}
  text = hub_config.read_config(_write(tmp_path, raw)).text_config
  assert text.max_position_embeddings == length


@pytest.mark.parametrize(
  'vision',
  [
    {'hidden_size': 96, 'num_attention_heads': 3},
    {'image_size': 112, 'patch_size': 28, 'num_hidden_layers': 5},
    {'layer_norm_eps': 1e-6, 'hidden_act': 'gelu'},
    {'intermediate_size': 17, 'model_type': 'clip_vision_model'},
  ],
)
def test_absent_fields_of_clip_have_transformers_defaults(vision, tmp_path):
  text = {'model_type': 'llama', 'vocab_size': 77}
  raw = {'model_type': 'llava', 'text_config': text, 'vision_config': vision}
  raw |= {'vision_feature_layer': -1, 'vision_feature_select_strategy': 'full'}
  _check_as_transformers_reads_it(_write(tmp_path, raw))


@pytest.mark.parametrize('nested', [False, True])
@pytest.mark.parametrize(
  'text',
  [
    {},
    {
      'num_attention_heads': 128,
      'num_key_value_heads': None,
      'rope_scaling': {'type': 'mrope', 'mrope_section': [8, 12, 12]},
    },
    {'vocab_size': 77, 'intermediate_size': 99, 'num_hidden_layers': 3},
    {'rms_norm_eps': 3e-6, 'rope_theta': 5e5},
    {
      'rope_theta': 5e5,
      'rope_scaling': {
        'rope_type': 'default',
        'type': 'default',
        'mrope_section': [8, 28, 28],
      },
    },
    {
      'rope_parameters': {
        'rope_type': 'default',
        'rope_theta': 2e4,
        'mrope_section': [4, 30, 30],
      }
    },
    {
      'tie_word_embeddings': True,
      'use_sliding_window': False,
      'sliding_window': 4096,
    },
  ],
)
def test_absent_fields_of_qwen2_vl_have_transformers_defaults(
  text, nested, tmp_path
):
  raw = {'model_type': 'qwen2_vl', 'vision_config': {'hidden_size': 8192}}
  # Beside text_config, its fields do not count.
  raw |= {'text_config': text, 'rms_norm_eps': 0.1} if nested else text
  if nested and not text:
    raw['text_config'] = {'vocab_size': 152064}
  _check_as_transformers_reads_it(_write(tmp_path, raw))


@pytest.mark.parametrize('family', hub_folder.FAMILIES)
def test_what_transformers_5_writes_says_the_same(family, tmp_path):
  """``rope_parameters``, and ``text_config`` for Qwen2-VL too."""
  # transformers writes its defaults too; this field is not known without it.
  length = {'max_position_embeddings': 64}
  fields = dict(length, rope_theta=3e5)
  changes = families.CASES[family].decoder_fields(**fields)
  old = hub_folder.config(family, **changes)
  old = _write(tmp_path / 'old', old)
  config = transformers.AutoConfig.from_pretrained(old)
  config.save_pretrained(tmp_path / 'new')
  raw = json.loads((tmp_path / 'new' / 'config.json').read_text())
  assert 'rope_parameters' in raw['text_config']
  assert 'hidden_size' in raw['text_config'] and 'hidden_size' not in raw
  assert hub_config.read_config(tmp_path / 'new') == hub_config.read_config(old)
  assert hub_config.read_config(old).text_config.rope_theta == 3e5


@pytest.mark.parametrize(
  'family, changes, words',
  [
    (
      'llava',
      {'model_type': 'video_llava'},
      "model_type 'video_llava' is not supported; supported are llava, ",
    ),
    ('llava', {'model_type': None}, 'it has no model_type, so'),
    ('qwen2_vl', {'model_type': 'qwen3_vl_moe'}, "'qwen3_vl_moe' is not"),
    (
      'llava',
      {'text_config': {'model_type': 'mistral'}},
      "model_type must be 'llama', got 'mistral'",
    ),
    (
      'llava',
      {'vision_config': {'model_type': 'siglip_vision_model'}},
      "must be 'clip_vision_model', got 'siglip_vision_model'",
    ),
    (
      'llava',
      {'text_config': {'rope_scaling': {'rope_type': 'llama3', 'factor': 2.0}}},
      "rotary embedding of type 'llama3' is not supported; supported are",
    ),
    (
      'llava',
      {'text_config': {'rope_scaling': {'type': 'dynamic', 'factor': 2.0}}},
      "type 'dynamic' is not",
    ),
    (
      'qwen2_vl',
      {'rope_scaling': {'type': 'yarn', 'factor': 4.0}},
      "type 'yarn' is not supported",
    ),
    (
      'qwen2_vl',
      {
        'rope_scaling': None,
        'rope_parameters': {'rope_type': 'yarn', 'rope_theta': 1e6},
      },
      "type 'yarn' is not",
    ),
    (
      'qwen2_vl',
      {'vision_config': {'rope_parameters': {'rope_theta': 100.0}}},
      'rope_theta must be 10000.0, got 100.0',
    ),
    (
      'qwen2_vl',
      {'use_sliding_window': True},
      'use_sliding_window must be False, got True',
    ),
    (
      'llava',
      {'text_config': {'attention_bias': True}},
      'attention_bias must be False, got True',
    ),
    (
      'llava',
      {'text_config': {'mlp_bias': True}},
      'mlp_bias must be False, got True',
    ),
    ('llava', {'text_config': {'head_dim': 3}}, 'pairs to rotate; got 3'),
    (
      'llava',
      {'text_config': {'hidden_act': 'gelu'}},
      "hidden_act must be 'silu', got 'gelu'",
    ),
    (
      'llava',
      {'vision_feature_layer': [-2, 5]},
      'vision_feature_layer is a whole number',
    ),
    (
      'llava',
      {'multimodal_projector_bias': False},
      'multimodal_projector_bias must be True, got False',
    ),
    ('llava', {'projector_hidden_act': 'swish'}, "'swish'"),
    ('llava', {'vision_feature_select_strategy': 'cls'}, "'cls'"),
    ('llava', {'vision_config': {'hidden_act': 'tanh'}}, "'tanh'"),
    ('llava', {'text_config': {'num_key_value_heads': 3}}, 'got 16, 2 and 3'),
    ('llava', {'text_config': {'hidden_size': 'wide'}}, "got 'wide'"),
    (
      'qwen2_vl',
      {'vision_config': {'hidden_size': 24}},
      "vision_config.hidden_size, is the decoder's; got 24 and 16",
    ),
    (
      'qwen2_vl',
      {'rope_scaling': {'mrope_section': [1, 2, 2]}},
      'mrope_section has a frequency for each pair of a head, 4 in all',
    ),
  ],
)
def test_what_the_models_do_not_have_is_refused(
  family, changes, words, tmp_path
):
  folder = _write(tmp_path, hub_folder.config(family, **changes))
  with pytest.raises(ValueError) as raised:
    hub_config.read_config(folder)
  assert str(raised.value).startswith(f'{folder / "config.json"}: ')
  assert words in str(raised.value)


@pytest.mark.parametrize('family', hub_folder.FAMILIES)
@pytest.mark.parametrize('value', [None, 'large', [3]])
def test_a_model_has_the_sizes_of_its_tower(family, value, tmp_path):
  raw = dict(hub_folder.config(family), vision_config=value)
  words = (
    'config.json: vision_config (must hold the sizes|has fields) of .*got '
  )
  with pytest.raises(ValueError, match=words):
    hub_config.read_config(_write(tmp_path, raw))


@pytest.mark.parametrize('family', hub_folder.FAMILIES)
def test_how_to_compute_is_an_option_and_not_in_the_file(family, tmp_path):
  folder = _write(tmp_path, hub_folder.config(family, dtype='float16'))
  assert hub_config.read_config(folder).dtype == 'float32'
  options = dict(dtype='bfloat16', attention='cudnn', remat='full')
  config = hub_config.read_config(folder, options)
  assert {name: getattr(config, name) for name in options} == options
  with pytest.raises(ValueError, match='flash'):
    hub_config.read_config(folder, {'attention': 'flash'})


ADAPTER = {'adapter_config.json': {'peft_type': 'LORA'}}
OTHERS = {
  'adapter': (None, ADAPTER, 'adapter .*Merge .*mmu convert'),
  'adapter beside a config': ({}, ADAPTER, 'adapter .*Merge .*mmu convert'),
  'weights of an adapter': (None, {'adapter_model.safetensors': {}}, 'adapter'),
  'awq': ({'quantization_config': {'quant_method': 'awq'}}, {}, 'is quantised'),
  'bitsandbytes': (
    {'quantization_config': {'load_in_4bit': True}},
    {},
    'is quantised',
  ),
  'gptq': ({}, {'quantize_config.json': {}}, 'is quantised'),
  'gguf': (None, {'llava-q4_0.gguf': {}}, 'is quantised'),
  'original': ({'mm_vision_tower': 'openai/clip'}, {}, 'llava-hf/llava-1.5-7b'),
  'original of another decoder': (
    {'model_type': 'llava_mistral', 'mm_projector_type': 'mlp2x_gelu'},
    {},
    'original format of LLaVA',
  ),
}


@pytest.mark.parametrize('name', OTHERS)
def test_a_folder_of_another_kind_is_named_with_the_way_out(name, tmp_path):
  raw, files, said = OTHERS[name]
  if raw is not None:
    _write(tmp_path, hub_folder.config('llava', text_config=None) | raw)
  for file, content in files.items():
    (tmp_path / file).write_text(json.dumps(content))
  with pytest.raises(UserError, match=said):
    hub_config.read_config(tmp_path)


def test_a_merged_adapter_and_a_null_are_no_other_kind(tmp_path):
  _write(tmp_path, hub_folder.config('llava') | {'quantization_config': None})
  for name in ('adapter_config.json', 'model.safetensors'):
    (tmp_path / name).write_text('{}')
  assert hub_config.read_config(tmp_path)


def test_a_name_of_the_hub_and_a_home_are_understood(tmp_path, monkeypatch):
  with pytest.raises(FileNotFoundError, match='hf download org/m --local-dir'):
    hub_config.read_config('org/m')
  _write(tmp_path / 'm', hub_folder.config('llava'))
  monkeypatch.setenv('HOME', str(tmp_path))
  assert hub_config.read_config('~/m')
