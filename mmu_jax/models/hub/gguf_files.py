"""A small language model in a GGUF file, made into a LLaVA.

A GGUF file of llama.cpp holds a language model with its tokenizer. ``to_llava``
writes a checkpoint folder whose decoder is that model and whose vision tower
was trained here before; the projector between them is random. From then on the
folder is a checkpoint as any other.

Rows of queries and keys stand otherwise in the file than on the hub: the file
rotates neighbours together, the hub the two halves of a head. Quantised weights
become float32, with the values that they were rounded to.
"""

from collections.abc import Mapping
import dataclasses
import pathlib
from typing import Any, NamedTuple

from flax import nnx
import numpy as np
from safetensors import numpy as safetensors_numpy

from mmu_jax import inputs
from mmu_jax import tree as tree_lib
from mmu_jax import workdir as workdir_lib
from mmu_jax.errors import UserError
from mmu_jax.models.families.llava import LlavaConfig
from mmu_jax.models.families.llava import Projector
from mmu_jax.models.hub import config as hub_config
from mmu_jax.models.hub import safetensors_files as files_lib
from mmu_jax.models.hub import weights
from mmu_jax.models.llama import LlamaConfig
from mmu_jax.models.model import build
from mmu_jax.models.model import Model
from mmu_jax.settings import sizes

SUFFIX = '.gguf'
IMAGE = '<image>'
_MULTIPLE = 64  # of tokens in the embedding, so that devices can share it
# Names in the file -> names on the hub, without the end `weight`.
_NAMES = {
  'token_embd': 'model.embed_tokens',
  'output_norm': 'model.norm',
  'output': 'lm_head',
}
_LAYER_NAMES = {
  'attn_norm': 'input_layernorm',
  'attn_q': 'self_attn.q_proj',
  'attn_k': 'self_attn.k_proj',
  'attn_v': 'self_attn.v_proj',
  'attn_output': 'self_attn.o_proj',
  'ffn_norm': 'post_attention_layernorm',
  'ffn_gate': 'mlp.gate_proj',
  'ffn_up': 'mlp.up_proj',
  'ffn_down': 'mlp.down_proj',
}
_NEEDED = (
  'llama.attention.head_count',
  'llama.attention.layer_norm_rms_epsilon',
  'llama.block_count',
  'llama.embedding_length',
  'llama.feed_forward_length',
  'tokenizer.ggml.merges',
  'tokenizer.ggml.token_type',
  'tokenizer.ggml.tokens',
)
_OF_TOKENS = ('model.embed_tokens.weight', 'lm_head.weight')
# ChatML, as these models were trained, with places for pictures. The template
# in the file takes none, and begins with a system prompt of twenty tokens.
_BEGIN, _END = '<|im_start|>', '<|im_end|>'
CHAT_TEMPLATE = (
  '{% for message in messages %}'
  "{{ '" + _BEGIN + "' + message.role + '\\n' }}"
  '{% if message.content is string %}{{ message.content }}{% else %}'
  "{% for part in message.content if part.type == 'image' %}"
  "{{ '" + IMAGE + "\\n' }}{% endfor %}"
  "{% for part in message.content if part.type == 'text' %}"
  '{{ part.text }}{% endfor %}{% endif %}'
  "{{ '" + _END + "\\n' }}{% endfor %}"
  "{% if add_generation_prompt %}{{ '" + _BEGIN + "assistant\\n' }}{% endif %}"
)


class Gguf(NamedTuple):
  """Contents of a GGUF file.

  Attributes:
    file: path of the file.
    fields: settings by name, such as 'llama.block_count'.
    tensors: float32 arrays by the names of the hub, in its layout.
  """

  file: pathlib.Path
  fields: Mapping[str, Any]
  tensors: dict[str, np.ndarray]


def to_llava(
  file: str | pathlib.Path, target: str | pathlib.Path, tower: Model
) -> str:
  """Writes a LLaVA whose decoder is a language model in a GGUF file.

  Args:
    file: GGUF file of a Llama with the tokenizer of SmolLM2.
    target: new folder.
    tower: LLaVA with parameters; its vision tower is taken.

  Returns:
    A sentence about the written parameters.

  Raises:
    FileNotFoundError: if the file is missing.
    ValueError: if the file or the tower is of another kind, or the package
      ``gguf`` is not installed.

  Example:
    >>> to_llava('SmolLM2.gguf', 'smol-llava', tower)  # doctest: +SKIP
  """
  if not isinstance(tower.config, LlavaConfig):
    raise UserError(
      'the tower is of a LLaVA, such as the base model of the config people; '
      f'got a {tower.family}.'
    )
  target = pathlib.Path(target)
  found = read_gguf(file)
  tokenizer, arrays = tokenizer_of(found), found.tensors
  places = -(-len(tokenizer) // _MULTIPLE) * _MULTIPLE
  for name in {*_OF_TOKENS} & {*arrays}:
    arrays[name] = _with_room(arrays[name], places)
  config = dataclasses.replace(
    tower.config,
    text_config=dataclasses.replace(decoder_config(found), vocab_size=places),
    tie_word_embeddings=_OF_TOKENS[1] not in arrays,
  )
  tensors = _tensors(build(config), arrays, tower, found.file)
  workdir_lib.make_folder(target)
  safetensors_numpy.save_file(
    tensors, target / files_lib.SINGLE, {'format': 'pt'}
  )
  tokenizer.save_pretrained(target)
  size = config.vision_config.image_size
  shown = {'size': {'shortest_edge': size}, 'crop_size': {}}
  shown['crop_size'] = {'height': size, 'width': size}
  shown['image_processor_type'] = 'CLIPImageProcessor'
  _write_json(target / 'preprocessor_config.json', shown)
  # The last one: a folder without it is no checkpoint.
  image_token = tokenizer.convert_tokens_to_ids(IMAGE)
  _write_json(target / hub_config.FILE, _config_json(config, image_token))
  count = sum(x.size for x in tensors.values())
  return f'{count:,} parameters from {found.file} and a tower to {target}'


def read_gguf(file: str | pathlib.Path) -> Gguf:
  """Reads a GGUF file, whole.

  Args:
    file: path of the file.

  Raises:
    FileNotFoundError: if it is missing.
    ValueError: if it cannot be read or holds another kind of model, or the
      package ``gguf`` is not installed.
  """
  try:
    import gguf
  except ImportError as error:
    raise UserError(
      'GGUF files are read by the package gguf, which is not here. Install it: '
      "pip install '.[smol]' in the checkout, or pip install gguf."
    ) from error
  file = pathlib.Path(file)
  inputs.check_file(file)
  try:
    reader = gguf.GGUFReader(file)
    fields = {name: x.contents() for name, x in reader.fields.items()}
    stored = {
      x.name: np.asarray(gguf.dequantize(x.data, x.tensor_type), np.float32)
      for x in reader.tensors
    }
  except (ValueError, IndexError, KeyError, NotImplementedError) as error:
    raise UserError(
      f'{file} is not a whole GGUF file, or its weights are in a form that is '
      f'not read; the library says: {error}. Fetch it again, or another form.'
    ) from error
  _check_kind(file, fields)
  heads = {'attn_q': fields['llama.attention.head_count']}
  heads['attn_k'] = fields.get('llama.attention.head_count_kv', heads['attn_q'])
  tensors = {}
  for name, x in stored.items():
    kind = name.removesuffix('.weight').rpartition('.')[-1]
    halved = kind in heads and name.endswith('.weight')
    tensors[_hub_name(name)] = in_halves(x, heads[kind]) if halved else x
  return Gguf(file, fields, tensors)


def in_halves(rows: np.ndarray, heads: int) -> np.ndarray:
  """Returns the rows of queries or keys in the order of the hub.

  Args:
    rows: matrix ``[heads * width, in]``, in whose heads neighbours are rotated
      together.
    heads: number of heads.

  Example:
    >>> in_halves(np.arange(8)[:, None], 2).ravel()
    array([0, 2, 1, 3, 4, 6, 5, 7])
  """
  pairs = rows.reshape(heads, -1, 2, rows.shape[1])
  return pairs.swapaxes(1, 2).reshape(rows.shape)


def decoder_config(found: Gguf) -> LlamaConfig:
  """Returns the sizes of the decoder of a file.

  Args:
    found: contents of the file.
  """
  said = lambda name, other: found.fields.get(f'llama.{name}', other)
  needed = lambda name: found.fields[f'llama.{name}']
  heads = needed('attention.head_count')
  return LlamaConfig(
    vocab_size=len(found.fields['tokenizer.ggml.tokens']),
    hidden_size=needed('embedding_length'),
    intermediate_size=needed('feed_forward_length'),
    num_hidden_layers=needed('block_count'),
    num_attention_heads=heads,
    num_key_value_heads=said('attention.head_count_kv', heads),
    # Stored in 32 bits: 1e-5 comes back as 9.99999975e-6.
    rms_norm_eps=float(f'{needed("attention.layer_norm_rms_epsilon"):.6g}'),
    rope_theta=float(said('rope.freq_base', 10000.0)),
    max_position_embeddings=said('context_length', 0),
  )


def tokenizer_of(found: Gguf) -> Any:
  """Returns the tokenizer of a file, with ``<image>`` behind its tokens.

  Its chat template takes pictures.

  Args:
    found: contents of the file.

  Example:
    >>> tokenizer_of(read_gguf('SmolLM2.gguf'))('Hi.')  # doctest: +SKIP
  """
  import tokenizers
  from tokenizers import decoders
  from tokenizers import models
  from tokenizers import pre_tokenizers
  import transformers

  said = lambda name: found.fields[f'tokenizer.ggml.{name}']
  tokens = said('tokens')
  merges = [tuple(pair.split(' ')) for pair in said('merges')]
  made = tokenizers.Tokenizer(
    models.BPE({token: i for i, token in enumerate(tokens)}, merges)
  )
  made.pre_tokenizer = pre_tokenizers.Sequence(
    [
      pre_tokenizers.Digits(individual_digits=True),
      pre_tokenizers.ByteLevel(add_prefix_space=False),
    ]
  )
  made.decoder = decoders.ByteLevel()
  special = [t for t, kind in zip(tokens, said('token_type')) if kind == 3]
  made.add_special_tokens([*special, IMAGE])
  return transformers.PreTrainedTokenizerFast(
    tokenizer_object=made,
    bos_token=_BEGIN,
    eos_token=_END,
    pad_token=_END,
    unk_token=tokens[0],
    additional_special_tokens=[IMAGE],
    chat_template=CHAT_TEMPLATE,
    clean_up_tokenization_spaces=False,
  )


def _check_kind(file: pathlib.Path, fields: Mapping[str, Any]) -> None:
  """Raises unless the file holds a Llama with the tokenizer of SmolLM2."""
  wanted = {
    'general.architecture': 'llama',
    'tokenizer.ggml.model': 'gpt2',
    'tokenizer.ggml.pre': 'smollm',
    'llama.rope.scaling.type': 'none',
  }
  for name, value in wanted.items():
    got = fields.get(name, 'none')
    if got != value:
      raise UserError(
        f'only GGUF files of SmolLM2 can be read, whose {name} is {value!r}; '
        f'in {file} it is {str(got)[:60]!r}. For another model, take the '
        'folder of a vision-language model that was trained with it.'
      )
  absent = [name for name in _NEEDED if name not in fields]
  if absent:
    raise UserError(
      f'{file} lacks {", ".join(absent)}, without which nobody knows its '
      'model. Fetch it again.'
    )


def _hub_name(name: str) -> str:
  """The name of a tensor on the hub; an unknown one stays as it is."""
  stem = name.removesuffix('.weight')
  if stem in _NAMES:
    return f'{_NAMES[stem]}.weight'
  block, number, kind = (stem.split('.') + ['', ''])[:3]
  if block == 'blk' and kind in _LAYER_NAMES:
    return f'model.layers.{number}.{_LAYER_NAMES[kind]}.weight'
  return name


def _with_room(rows: np.ndarray, places: int) -> np.ndarray:
  """Rows of tokens, and the mean of them in every further place."""
  more = np.repeat(rows.mean(0, keepdims=True), places - len(rows), 0)
  return np.concatenate([rows, more])


def _tensors(
  model: Model, arrays: dict[str, np.ndarray], tower: Model, file: pathlib.Path
) -> dict[str, np.ndarray]:
  """The tensors of a LLaVA by hub name: decoder, tower, random projector."""
  projector = nnx.to_pure_dict(nnx.state(Projector(model.config, nnx.Rngs(0))))
  # So that image tokens are as large as words.
  projector['linear_2']['kernel'] *= arrays[_OF_TOKENS[0]].std()
  seen = {'vision_tower': tower.params['vision_tower']}
  seen = tree_lib.flatten(seen | {'multi_modal_projector': projector})
  made = {f'language_model.{name}': x for name, x in arrays.items()}
  table = weights.table(model).places
  for name, place in table.items():
    if place.leaf in seen:
      leaf = seen[place.leaf]
      leaf = np.asarray(leaf if place.layer is None else leaf[place.layer])
      made[name] = (leaf.T if place.transposed else leaf).reshape(place.shape)
  wrong = sorted({*table} ^ {*made}) or [
    name for name, place in table.items() if made[name].shape != place.shape
  ]
  if wrong:
    raise UserError(
      f'{file} must hold the tensors of its Llama and no others; missing, '
      f'unexpected or of another shape: {", ".join(wrong[:5])}. Take a file '
      'with a whole model.'
    )
  return {name: np.ascontiguousarray(x) for name, x in made.items()}


def _config_json(config: LlavaConfig, image_token: int) -> dict[str, Any]:
  """The fields of ``config.json``."""
  text, vision = config.text_config, config.vision_config
  pick = lambda part, names: {name: getattr(part, name) for name in names}
  tie = {'tie_word_embeddings': config.tie_word_embeddings}
  return {
    'architectures': ['LlavaForConditionalGeneration'],
    'model_type': 'llava',
    'dtype': 'float32',
    'image_token_index': image_token,
    'image_seq_length': config.num_image_tokens,
    **tie,
    **pick(
      config,
      (
        'vision_feature_layer',
        'vision_feature_select_strategy',
        'projector_hidden_act',
      ),
    ),
    'text_config': {
      'model_type': 'llama',
      **tie,
      **pick(text, (*sizes.DECODER, 'hidden_act')),
    },
    'vision_config': {
      'model_type': 'clip_vision_model',
      **pick(vision, sizes.CLIP),
    },
  }


def _write_json(file: pathlib.Path, content: dict[str, Any]) -> None:
  """Writes JSON as transformers does."""
  workdir_lib.write_text(file, workdir_lib.to_json(content, indent=2) + '\n')
