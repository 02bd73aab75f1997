"""Fields of models: of ``config.model``, and of a checkpoint's files.

Names are as in ``config.json``. A file may have others, which are read by
nobody here; a field that it leaves out gets the default of transformers.
"""

from typing import Any

from mmu_jax.settings.rules import below
from mmu_jax.settings.rules import FLAG
from mmu_jax.settings.rules import number
from mmu_jax.settings.rules import one_of
from mmu_jax.settings.rules import Rule
from mmu_jax.settings.rules import several
from mmu_jax.settings.rules import Table
from mmu_jax.settings.rules import TEXT
from mmu_jax.settings.rules import whole

_POSITIVE = number(0, above=True)
_LARGEST = 2**20  # of any size: a wider layer is a mistake in the file
_SIZE = whole(1, _LARGEST)
_ACT = one_of('quick_gelu', 'gelu', 'gelu_pytorch_tanh', 'silu')
_SWITCH = FLAG._replace(null=True)
_ID = whole(0, 2**24)
_OR_NONE = _SIZE._replace(null=True)

# Of the rotary embedding, in rope_scaling or rope_parameters.
ROPE: Table = {
  'rope_type': (TEXT, 'kind of rotary embedding'),
  'type': (TEXT, 'rope_type in older files'),
  'rope_theta': (number(1), 'base of the wavelengths'),
  'mrope_section': (
    several(whole(0, _LARGEST), 3, 3),
    'frequencies that follow time, row and column',
  ),
  'mrope_interleaved': (FLAG, 'time, row and column in turn'),
  'factor': (number(1), 'divisor of the frequencies, of type linear'),
}
DECODER: Table = {
  'vocab_size': (whole(1, 2**24), 'tokens of the vocabulary'),
  'hidden_size': (_SIZE, 'width of the decoder'),
  'intermediate_size': (_SIZE, 'width inside its MLPs'),
  'num_hidden_layers': (_SIZE, 'layers'),
  'num_attention_heads': (_SIZE, 'attention heads'),
  'num_key_value_heads': (_OR_NONE, 'heads of keys and values'),
  'head_dim': (
    whole(0, _LARGEST, null=True),
    'width of a head; 0: hidden_size / num_attention_heads',
  ),
  'rms_norm_eps': (number(0, 1, above=True), 'added to a mean square'),
  'rope_theta': (number(1), 'base of the wavelengths'),
  'max_position_embeddings': (
    whole(0, 2**31, null=True),
    'positions it was trained on; 0: not known',
  ),
}
# Of a small model of one's own; in a checkpoint, its family settles them.
DECODER_KINDS: Table = {
  'qkv_bias': (FLAG, 'biases of queries, keys and values'),
  'qk_norm': (FLAG, 'norms of queries and keys'),
  'norm_offset': (number(0, 1), 'added to the weights of norms'),
  'post_norms': (FLAG, 'norms behind attention and MLP, too'),
  'scale_embeddings': (FLAG, 'embeddings times the root of hidden_size'),
  'hidden_act': (_ACT, 'activation'),
  'rope_factor': (number(1), 'divisor of the frequencies'),
  'query_pre_attn_scalar': (
    number(0),
    'scores are divided by its root; 0: the width of a head',
  ),
  'sliding_window': (whole(0, 2**31), 'tokens that a layer sees; 0: all'),
  'sliding_window_pattern': (_SIZE, 'every so many layers, one sees all'),
  'rope_local_base_freq': (number(1), 'rope_theta of the other layers'),
}
CLIP: Table = {
  'hidden_size': (_SIZE, 'width of the tower'),
  'intermediate_size': (_SIZE, 'width inside its MLPs'),
  'num_hidden_layers': (_SIZE, 'layers'),
  'num_attention_heads': (_SIZE, 'attention heads'),
  'image_size': (_SIZE, 'height and width of an image, pixels'),
  'patch_size': (_SIZE, 'height and width of a patch, pixels'),
  'layer_norm_eps': (number(0, 1, above=True), 'added to a variance'),
  'hidden_act': (_ACT, 'activation'),
}
QWEN2_VL_VISION: Table = {
  'depth': (_SIZE, 'layers of the tower'),
  'embed_dim': (_SIZE, 'width of the tower'),
  'hidden_size': (_SIZE, 'width after the merger: the width of the decoder'),
  'hidden_act': (_ACT, 'activation'),
  'mlp_ratio': (_POSITIVE, 'width inside its MLPs, in embed_dim'),
  'num_heads': (_SIZE, 'attention heads'),
  'in_channels': (one_of(3), 'colours of a pixel'),
  'patch_size': (_SIZE, 'height and width of a patch, pixels'),
  # The places for patches of a row are a multiple of 16, see patches.bucket.
  'spatial_merge_size': (one_of(1, 2, 4), 'height and width of merged patches'),
  'temporal_patch_size': (_SIZE, 'frames of a patch; an image is repeated'),
}
QWEN2_5_VL_VISION: Table = {
  **{
    name: rule
    for name, rule in QWEN2_VL_VISION.items()
    if name not in ('embed_dim', 'mlp_ratio')
  },
  'hidden_size': (_SIZE, 'width of the tower'),
  'out_hidden_size': (_SIZE, 'width after the merger'),
  'intermediate_size': (_SIZE, 'width inside its MLPs'),
  'in_chans': (one_of(3), 'in_channels in older files'),
  'window_size': (_SIZE, 'height and width of a window, pixels'),
  'fullatt_block_indexes': (
    several(whole(0, _LARGEST), 0),
    'blocks that see whole images',
  ),
}
QWEN3_VL_VISION: Table = {
  **{
    name: rule
    for name, rule in QWEN2_5_VL_VISION.items()
    if name not in ('window_size', 'fullatt_block_indexes')
  },
  'num_position_embeddings': (_SIZE, 'learnt positions, of a square'),
  'deepstack_visual_indexes': (
    several(whole(0, _LARGEST), 0),
    'blocks whose states the decoder gets, too',
  ),
}
LLAVA: Table = {
  'vision_feature_layer': (
    whole(-_LARGEST, _LARGEST),
    'hidden state of the tower that is read; -1: the last',
  ),
  'vision_feature_select_strategy': (
    one_of('default', 'full'),
    'image tokens without or with the class token',
  ),
  'projector_hidden_act': (_ACT, 'activation of the projector'),
}


def _are_sizes(value: Any) -> bool:
  """Whether a value is a list of heights and widths, not empty."""
  pairs = isinstance(value, (list, tuple)) and list(value)
  return bool(pairs) and all(several(_SIZE, 2, 2).accepts(p) for p in pairs)


_PINPOINTS = (
  Rule(object, test=_are_sizes, words='a list of [height, width], pixels'),
  'sizes of a picture in tiles',
)
LLAVA_NEXT: Table = LLAVA | {'image_grid_pinpoints': _PINPOINTS}
GEMMA3: Table = {
  'mm_tokens_per_image': (_SIZE, 'tokens of an image'),
  'boi_token_index': (_ID, 'token before an image'),
  'eoi_token_index': (_ID, 'token behind an image'),
}
# Beside the fields of other decoders.
GEMMA3_TEXT: Table = {
  'query_pre_attn_scalar': (
    number(0, above=True),
    'scores are divided by its root',
  ),
  'sliding_window': (_SIZE, 'tokens that a layer sees'),
  'rope_local_base_freq': (number(1), 'rope_theta of sliding layers'),
  **dict.fromkeys(
    ('sliding_window_pattern', '_sliding_window_pattern'),
    (_OR_NONE, 'every so many layers, one sees all'),
  ),
  'layer_types': (
    several(one_of('full_attention', 'sliding_attention'))._replace(null=True),
    'kind of each layer',
  ),
  **below('rope_parameters.full_attention', ROPE),
  **below('rope_parameters.sliding_attention', ROPE),
}
# Of a small model of one's own, whatever its tower.
TOWERS = QWEN3_VL_VISION | QWEN2_5_VL_VISION | QWEN2_VL_VISION | CLIP

ROPES = below('rope_scaling', ROPE) | below('rope_parameters', ROPE)
# Of config.json, beside the parts above.
CHECKPOINT: Table = {
  'model_type': (TEXT, 'architecture'),
  'tie_word_embeddings': (_SWITCH, 'one matrix of tokens'),
  'image_token_index': (_ID, 'token that stands for a picture'),
  'image_token_id': (_ID, 'token that stands for a picture'),
}
PENALTY = number(0.01, 100)
# Of generation_config.json; eos_token_id may be a list, see tokenizer_files.
GENERATION: Table = {
  'repetition_penalty': (
    PENALTY._replace(null=True),
    'divides the odds of tokens that were written; 1: none',
  )
}
# Of preprocessor_config.json.
IMAGES: Table = {
  'image_processor_type': (TEXT, 'class of transformers'),
  'feature_extractor_type': (TEXT, 'image_processor_type in older files'),
  'image_mean': (several(number(), 3, 3), 'mean of each colour'),
  'image_std': (several(_POSITIVE, 3, 3), 'deviation of each colour'),
  'rescale_factor': (_POSITIVE, 'factor of a colour'),
  'image_grid_pinpoints': _PINPOINTS,
  'resample': (whole(0, 5), 'filter of the resize'),
  **dict.fromkeys(
    (
      'do_resize',
      'do_rescale',
      'do_normalize',
      'do_center_crop',
      'do_convert_rgb',
    ),
    (_SWITCH, 'a step of the processing'),
  ),
  **dict.fromkeys(
    ('patch_size', 'temporal_patch_size', 'merge_size'),
    (_SIZE, 'how an image is cut'),
  ),
  **dict.fromkeys(
    ('min_pixels', 'max_pixels'), (whole(1, null=True), 'area of an image')
  ),
  **dict.fromkeys(
    ('size.*', 'crop_size.*'), (whole(1, null=True), 'size of an image, pixels')
  ),
}
# Of LLaVA's, which brings every image to one size.
ONE_SIZE: Table = {
  'size.*': (whole(1, 2**13, null=True), 'size of an image, pixels'),
  'crop_size.height': (whole(1, 2**13), 'height of an image, pixels'),
  'crop_size.width': (whole(1, 2**13), 'width of an image, pixels'),
}
# Of config.json, for a processor.
PROCESSOR: Table = {
  **CHECKPOINT,
  **GEMMA3,
  'vision_config.patch_size': CLIP['patch_size'],
  'vision_feature_select_strategy': LLAVA['vision_feature_select_strategy'],
}


def _is_token(value: Any) -> bool:
  """Whether a value is a special token: text, or text with its flags."""
  flags = ('lstrip', 'rstrip', 'normalized', 'single_word', 'special')
  return isinstance(value, str) or (
    isinstance(value, dict)
    and isinstance(value.get('content'), str)
    and all(isinstance(value.get(flag, False), bool) for flag in flags)
  )


_TOKEN = Rule(
  object, test=_is_token, words='text, or an object with content and flags'
)
_MAY = _TOKEN._replace(null=True)
# Of special_tokens_map.json.
SPECIAL_TOKENS: Table = {
  **dict.fromkeys(
    (f'{name}_token' for name in 'bos eos unk sep pad cls mask'.split()),
    (_MAY, 'a special token'),
  ),
  'additional_special_tokens': (several(_TOKEN, 0), 'further special tokens'),
}
# Of tokenizer_config.json.
TOKENIZER: Table = {
  **SPECIAL_TOKENS,
  'added_tokens_decoder.*': (_TOKEN, 'the token of an id'),
  'tokenizer_class': (TEXT._replace(null=True), 'class of transformers'),
  'model_max_length': (number(1, null=True), 'longest text, tokens'),
  **dict.fromkeys(
    (
      'add_bos_token',
      'add_eos_token',
      'add_prefix_space',
      'clean_up_tokenization_spaces',
      'legacy',
      'split_special_tokens',
    ),
    (_SWITCH, 'a way to cut text up'),
  ),
  **dict.fromkeys(
    ('padding_side', 'truncation_side'), (one_of('left', 'right'), 'a side')
  ),
}
# Of vocab.json and added_tokens.json.
VOCABULARY: Table = {'*': (_ID, 'number of a token')}
# Of chat_template.json.
TEMPLATE: Table = {
  'chat_template': (TEXT._replace(null=True), 'Jinja of a conversation')
}
