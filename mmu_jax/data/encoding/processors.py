"""The processor of a checkpoint: its tokenizer, chat template and images.

``transformers`` has processors of its own; ours exist because the ones
of Qwen2-VL need PyTorch, and because packing needs the number of tokens of an
image before the image is encoded.
"""

import dataclasses
import functools
import math
import os
import pathlib
import re
from typing import Any

from mmu_jax import inputs
from mmu_jax import workdir as workdir_lib
from mmu_jax.data.encoding import patches
from mmu_jax.distributed import progress
from mmu_jax.errors import MissingError
from mmu_jax.errors import UserError

TOKENIZER_FILES = ('tokenizer.json', 'vocab.json', 'tokenizer.model')
# Classes of transformers that tokenizer_config.json may name; code in the
# folder (auto_map) is never run.
TOKENIZERS = (
  'LlamaTokenizer',
  'LlamaTokenizerFast',
  'Qwen2Tokenizer',
  'Qwen2TokenizerFast',
  'PreTrainedTokenizerFast',
)
_READ = ('.json', '.model', '.txt', '.jinja')  # files that a tokenizer reads


@dataclasses.dataclass(frozen=True, eq=False)
class Processor:
  """Turns questions and pictures into the input of one model.

  Attributes:
    tokenizer: a fast ``transformers`` tokenizer with a chat template.
    images: encoder of pictures, which also counts their tokens and gives
      positions.
    image_token: the placeholder that the template writes for a picture.
    stop_ids: tokens that end an answer, at least one.
    repetition_penalty: number > 0, see ``decoding.greedy``; 1 for none.
  """

  tokenizer: Any
  images: patches.Images
  image_token: str
  stop_ids: tuple[int, ...]
  repetition_penalty: float = 1.0

  @property
  def image_token_id(self) -> int:
    """The id of the placeholder."""
    return self.tokenizer.convert_tokens_to_ids(self.image_token)


def read_processor(
  path: str | os.PathLike,
  *,
  image_processor: str = '',
  raw_tokenizer: bool = True,
  min_pixels: int | None = None,
  max_pixels: int | None = None,
) -> Processor:
  """Loads the processor of a checkpoint folder. Says which tokenizer is used.

  The tokenizer is ``tokenizer.json`` as it is, by default. The models were
  trained, and the published numbers measured, with transformers 4, which reads
  that file so. The ``LlamaTokenizer`` of transformers 5 puts another
  normalizer in its place where ``legacy`` is false or absent, as in
  LLaVA-1.5: then the token behind every ``<image>`` is lost (a lone space
  before the new line, id 29871). Whether ``AutoTokenizer`` does so depends on
  the version.

  Args:
    path: the folder: config.json, preprocessor_config.json (or
      processor_config.json), tokenizer files, a chat template, and perhaps
      generation_config.json.
    image_processor: a key of ``IMAGES``, for a folder that states none.
    raw_tokenizer: False for the class of transformers that
      tokenizer_config.json names, for models that were trained with it. A
      folder without tokenizer.json (Qwen2-VL: vocab.json and merges.txt) has
      this class in either case.
    min_pixels: smallest area of a picture, for Qwen2-VL; None for the
      checkpoint's.
    max_pixels: largest area, for Qwen2-VL; it bounds the tokens of a picture
      (784 pixels each).

  Returns:
    A ``Processor``; its ``stop_ids`` come from generation_config.json, or
    else from the tokenizer, and its ``repetition_penalty`` from there, too.
    Other fields of that file that change what transformers decodes greedily
    are not applied, and named.

  Raises:
    FileNotFoundError: if a file is missing.
    ValueError: if the model is of no known type, has no chat template, its
      image token is not one of the tokenizer, or a limit of pixels is given
      for images of one size.
  """
  folder = pathlib.Path(path)
  config = _read(folder, 'config.json')
  options = _image_config(folder)
  kind = _stated_images(options) or image_processor
  make = IMAGES.get(kind)
  if make is None:
    raise UserError(
      f'the image processor {kind!r} is not known; known: {", ".join(IMAGES)}. '
      f'Check image_processor_type in preprocessor_config.json of {folder}.'
    )
  limits = {'min_pixels': min_pixels, 'max_pixels': max_pixels}
  limits = {name: n for name, n in limits.items() if n is not None}
  images = make(folder, config, options, limits)
  tokenizer = _tokenizer(folder, raw_tokenizer)
  tokenizer.chat_template = _chat_template(folder, tokenizer)
  image_token = _image_token(folder, config, tokenizer)
  generation = _generation_config(folder)
  stop_ids = _stop_ids(folder, generation, tokenizer)
  penalty = _repetition_penalty(folder, generation)
  return Processor(tokenizer, images, image_token, stop_ids, penalty)


def _llava_images(folder, config, options, limits):
  """CLIP's processor, and the patches of the vision tower."""
  import transformers

  if limits:
    raise UserError(
      'LLaVA brings every picture to one size; '
      f'{" and ".join(limits)} would change nothing. Leave them out.'
    )
  patch_size = config.get('vision_config', {}).get('patch_size')
  if patch_size is None:
    raise UserError(
      f'config.json in {folder} must give vision_config.patch_size: it says '
      'how many tokens a picture takes.'
    )
  strategy = config.get('vision_feature_select_strategy', 'default')
  return patches.LlavaImages(
    transformers.CLIPImageProcessorPil(**options),
    patch_size,
    class_token=strategy == 'full',
  )


def _qwen2_vl_images(folder, config, options, limits):
  """Qwen2-VL's processor, with other limits if they are given."""
  import transformers

  del folder, config
  processor = transformers.Qwen2VLImageProcessorPil(**options | limits)
  return patches.Qwen2VLImages(processor)


# Image processors of transformers, whatever the model behind them.
IMAGES = {
  'CLIPImageProcessor': _llava_images,
  'Qwen2VLImageProcessor': _qwen2_vl_images,
}


def _stated_images(options):
  """Pops the image processor that a folder states, without its variant."""
  fields = ('image_processor_type', 'feature_extractor_type')
  stated = [options.pop(field, None) for field in fields]
  kind = re.sub('(Fast|Pil)$', '', next(filter(None, stated), ''))
  return kind.replace('FeatureExtractor', 'ImageProcessor')  # the older name


def _image_config(folder):
  """Options of the image processor, and perhaps its class."""
  if (folder / 'preprocessor_config.json').exists():
    options = _read(folder, 'preprocessor_config.json')
  else:
    options = _read(folder, 'processor_config.json').get('image_processor')
  if options is None:
    raise MissingError(
      f'{folder} says nothing of image processing: preprocessor_config.json '
      'is missing, and processor_config.json has no image_processor.'
    )
  return {key: x for key, x in options.items() if key != 'processor_class'}


def _tokenizer(folder, raw):
  """The tokenizer: its file as it is, or the class that its config names."""
  import transformers

  if not any((folder / name).exists() for name in TOKENIZER_FILES):
    raise MissingError(
      f'{folder} holds no tokenizer: one of {", ".join(TOKENIZER_FILES)} is '
      'needed. Copy the tokenizer files of the checkpoint there.'
    )
  for file in folder.iterdir():
    if file.suffix in _READ:
      inputs.check_file(file, inputs.LARGEST)
  name = _read(folder, 'tokenizer_config.json').get('tokenizer_class')
  if raw and (folder / 'tokenizer.json').exists():
    _say(f'tokenizer: tokenizer.json of {folder} as it is')
    return transformers.PreTrainedTokenizerFast.from_pretrained(folder)
  if name not in TOKENIZERS or not hasattr(transformers, name):
    raise UserError(
      f'the tokenizer_config.json of {folder} names the class {name!r:.60}; '
      f'those of transformers {transformers.__version__} that are used are '
      f'{", ".join(TOKENIZERS)}. Use raw_tokenizer=True with a tokenizer.json.'
    )
  _say(f'tokenizer: {name} of transformers {transformers.__version__}')
  return getattr(transformers, name).from_pretrained(folder)


def _chat_template(folder, tokenizer):
  """The template of the folder's own file, or else the tokenizer's."""
  if (folder / 'chat_template.jinja').exists():
    return (folder / 'chat_template.jinja').read_text(encoding='utf-8')
  if (folder / 'chat_template.json').exists():
    return _read(folder, 'chat_template.json')['chat_template']
  if not tokenizer.chat_template:
    raise UserError(
      f'{folder} has no chat template, so that no question can be asked; '
      'copy chat_template.json or chat_template.jinja of the checkpoint '
      'there.'
    )
  return tokenizer.chat_template


def _image_token(folder, config, tokenizer):
  """The token whose id config.json names."""
  name = next(
    (n for n in ('image_token_index', 'image_token_id') if n in config), None
  )
  if name is None:
    raise UserError(
      'config.json must name the image token (image_token_index or '
      f'image_token_id); that of {folder} does not.'
    )
  token = tokenizer.convert_ids_to_tokens(config[name])
  if token is None or tokenizer.encode(token, add_special_tokens=False) != [
    config[name]
  ]:
    raise UserError(
      f'the image token {config[name]} of config.json is {token!r} in the '
      f'tokenizer of {folder}, not one token of its own. Use the tokenizer '
      'of this checkpoint.'
    )
  return token


# Fields of generation_config.json that change what transformers decodes
# greedily, each with the value at which it does nothing.
_DECODING = {
  'num_beams': 1,
  'penalty_alpha': None,
  'dola_layers': None,
  'constraints': None,
  'force_words_ids': None,
  'guidance_scale': 1,
  'sequence_bias': None,
  'encoder_repetition_penalty': 1,
  'no_repeat_ngram_size': 0,
  'encoder_no_repeat_ngram_size': 0,
  'bad_words_ids': None,
  'min_length': 0,
  'min_new_tokens': 0,
  'forced_bos_token_id': None,
  'forced_eos_token_id': None,
  'exponential_decay_length_penalty': None,
  'suppress_tokens': None,
  'begin_suppress_tokens': None,
  'watermarking_config': None,
  'stop_strings': None,
  'max_time': None,
}


def _generation_config(folder):
  """generation_config.json, or nothing; names what is not applied of it."""
  name = 'generation_config.json'
  found = _read(folder, name) if (folder / name).exists() else {}
  for field, neutral in _DECODING.items():
    value = found.get(field)
    if value not in (None, neutral, [], {}):
      _say(
        f'warning: {folder / name} has {field}={value!r}, with which '
        'transformers decodes other answers. It is not applied: compare '
        'scores only with models that are asked here.'
      )
  return found


def _repetition_penalty(folder, generation):
  """The penalty of generation_config.json; 1 for none."""
  found = generation.get('repetition_penalty')
  penalty = 1.0 if found is None else found
  if not isinstance(penalty, (int, float)) or not 0 < penalty < math.inf:
    raise UserError(
      'a repetition_penalty is a number > 0, and 1 for none; '
      f'generation_config.json in {folder} has {found!r}. Set it there.'
    )
  return float(penalty)


def _stop_ids(folder, generation, tokenizer):
  """The end tokens of generation_config.json, or else the tokenizer's."""
  stop = generation.get('eos_token_id')
  if stop is None:
    stop = tokenizer.eos_token_id
  stops = tuple(stop) if isinstance(stop, list) else (stop,)
  if None in stops or not stops:
    raise UserError(
      f'answers need an end token, and neither generation_config.json nor '
      f'the tokenizer in {folder} has one (eos_token_id). Add it there.'
    )
  return stops


def _read(folder, name):
  """A JSON file of a checkpoint."""
  path = folder / name
  if not path.exists():
    raise MissingError(
      f'a checkpoint needs {name}, and {folder} does not hold it. Copy it '
      'there from where the weights are from.'
    )
  return workdir_lib.read_json(path)


@functools.cache
def _say(text):
  """Prints a line once."""
  progress.say(text)
