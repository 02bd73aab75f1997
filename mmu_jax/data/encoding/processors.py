"""The processor of a checkpoint: its tokenizer, chat template and images.

``transformers`` has processors of its own; ours exist because the ones
of Qwen2-VL need PyTorch, and because packing needs the number of tokens of an
image before the image is encoded.
"""

import dataclasses
import functools
import os
import pathlib
import re
from typing import Any

import numpy as np

from mmu_jax import inputs
from mmu_jax import workdir as workdir_lib
from mmu_jax.data.encoding import patches
from mmu_jax.data.encoding import tiles
from mmu_jax.data.encoding import tokenizer_files as files
from mmu_jax.errors import MissingError
from mmu_jax.errors import UserError
from mmu_jax.settings import rules
from mmu_jax.settings import sizes

Images = patches.LlavaImages | patches.Qwen2VLImages | tiles.LlavaNextImages
# An image that every processor takes.
_SAMPLE = np.arange(28 * 28 * 3, dtype=np.uint8).reshape(28, 28, 3)


@dataclasses.dataclass(frozen=True, eq=False)
class Processor:
  """Turns questions and pictures into the input of one model.

  Attributes:
    tokenizer: a fast ``transformers`` tokenizer with a chat template.
    images: encoder of pictures, which also counts their tokens and gives
      positions.
    image_token: the placeholder that the template writes for a picture.
    stop_ids: tokens that end an answer, at least one.
    repetition_penalty: number > 0, see ``decoding``; 1 for none.
  """

  tokenizer: Any
  images: Images
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
    path: the folder: config.json, preprocessor_config.json (or an
      ``image_processor`` in processor_config.json, which comes first),
      tokenizer files, a chat template, and perhaps generation_config.json.
    image_processor: a key of ``IMAGES``, for a folder that states none; '' for
      the one that transformers has for its model_type.
    raw_tokenizer: False for the class of transformers that
      tokenizer_config.json names, for models that were trained with it. A
      folder without tokenizer.json (Qwen2-VL: vocab.json and merges.txt) has
      this class in either case.
    min_pixels: smallest area of a picture, for Qwen2-VL; None for the
      checkpoint's.
    max_pixels: largest area, for Qwen2-VL; it bounds the tokens of a picture
      (784 pixels each). For LLaVA-NeXT, the largest area that is cut into
      tiles: below 225,792 it sees the whole picture alone, in 577 tokens,
      which is not how it was trained.

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
  folder = pathlib.Path(path).expanduser()
  if not folder.exists():
    raise inputs.no_folder(path, 'model')
  config = files.read(folder, 'config.json', sizes.PROCESSOR)
  name, options = _image_config(folder)
  kind = _stated_images(options) or image_processor or _usual_images(config)
  make = IMAGES.get(kind)
  if make is None:
    raise UserError(
      f'the image processor {kind!r} is not known; known: {", ".join(IMAGES)}. '
      f'Check image_processor_type in {name} of {folder}.'
    )
  limits = {'min_pixels': min_pixels, 'max_pixels': max_pixels}
  limits = {edge: n for edge, n in limits.items() if n is not None}
  with files.read_by_transformers(folder, name):
    images = make(folder / name, config, options, limits)
    images.encode(_SAMPLE)  # some options fail at a picture alone
  tokenizer = files.read_tokenizer(folder, raw_tokenizer)
  image_token = _image_token(folder, config, tokenizer)
  around = [
    tokenizer.convert_ids_to_tokens(config[name])
    for name in ('boi_token_index', 'eoi_token_index')
    if name in config
  ]
  tokenizer.chat_template = files.chat_template(
    folder, tokenizer, image_token, around
  )
  generation = _generation_config(folder)
  stop_ids = files.stop_ids(folder, generation, tokenizer)
  penalty = float(generation.get('repetition_penalty') or 1)
  return Processor(tokenizer, images, image_token, stop_ids, penalty)


load = read_processor  # processors.load(folder)


def _one_size(kind, file, config, options, limits):
  """A processor such as CLIP's, and the patches of the vision tower."""
  import transformers

  if limits:
    raise UserError(
      'LLaVA brings every picture to one size; '
      f'{" and ".join(limits)} would change nothing. Leave them out.'
    )
  patch_size = _patch_size(file, config)
  strategy = config.get('vision_feature_select_strategy', 'default')
  processor = getattr(transformers, f'{kind}Pil')(**options)
  shown = {'crop_size': dict(processor.crop_size), 'size': dict(processor.size)}
  rules.check(shown, sizes.ONE_SIZE, f'{file.name}: ', others=True)
  return patches.LlavaImages(
    processor, patch_size, class_token=strategy == 'full'
  )


def _gemma3(file, config, options, limits):
  """Gemma 3's processor, and the squares of patches that become tokens."""
  import transformers

  if limits or options.get('do_pan_and_scan'):
    raise UserError(
      f'{file}: Gemma 3 brings every picture to one size. Limits of pixels '
      'would change nothing, and crops (do_pan_and_scan) are not supported: '
      'leave them out.'
    )
  processor = transformers.Gemma3ImageProcessorPil(**options)
  size, tokens = dict(processor.size), config.get('mm_tokens_per_image', 256)
  square = {'crop_size': {k: size[k] for k in ('height', 'width')}}
  rules.check(square, sizes.ONE_SIZE, f'{file.name}: ', others=True)
  side = round(tokens**0.5)
  if size['height'] != size['width'] or size['height'] % side:
    raise UserError(
      f'{file}: size is a square, cut into {tokens} squares by '
      f'mm_tokens_per_image of config.json; got {size}.'
    )
  return patches.Gemma3Images(processor, size['height'] // side)


def _tiles(file, config, options, limits):
  """LLaVA-NeXT's processor, and the patches of the vision tower."""
  import transformers

  if 'min_pixels' in limits:
    raise UserError(
      'LLaVA-NeXT brings small pictures to one size; min_pixels would change '
      'nothing. Leave it out.'
    )
  patch_size = _patch_size(file, config)
  processor = transformers.LlavaNextImageProcessorPil(**options)
  size, crop = dict(processor.size), dict(processor.crop_size)
  shown = {'crop_size': crop, 'size': size}
  rules.check(shown, sizes.ONE_SIZE, f'{file.name}: ', others=True)
  edges = {*crop.values(), *(n for n in size.values() if n is not None)}
  wrong = [
    p for p in processor.image_grid_pinpoints if any(n % min(edges) for n in p)
  ]
  if len(edges) > 1 or min(edges) % patch_size or wrong:
    raise UserError(
      f'{file}: tiles are squares of whole patches ({patch_size} pixels), size '
      'and crop_size are those of a tile, and image_grid_pinpoints have whole '
      f'tiles; got size {size}, crop_size {crop} and pinpoints '
      f'{processor.image_grid_pinpoints}.'
    )
  most = limits.get('max_pixels', 0)
  return tiles.LlavaNextImages(processor, patch_size, most)


def _patch_size(file, config):
  """The patches of the vision tower, pixels."""
  patch_size = (config.get('vision_config') or {}).get('patch_size')
  if patch_size is None:
    raise UserError(
      f'config.json in {file.parent} must give vision_config.patch_size: it '
      'says how many tokens a picture takes.'
    )
  return patch_size


def _qwen2_vl_images(file, config, options, limits):
  """Qwen2-VL's processor, with other limits if they are given."""
  import transformers

  del config
  size = options.get('size')
  if isinstance(size, dict):  # transformers 4 wrote the limits into size, too
    of = {'shortest_edge': 'min_pixels', 'longest_edge': 'max_pixels'}
    edges = {edge: size.get(edge) or size.get(of[edge]) for edge in of}
    options = options | {'size': edges}
  processor = transformers.Qwen2VLImageProcessorPil(**options | limits)
  least, most = processor.size.shortest_edge, processor.size.longest_edge
  if not least or not most or least > most:
    raise UserError(
      'pictures have at least min_pixels and at most max_pixels (in size: '
      f'shortest_edge and longest_edge), both in {file}; got {least} and '
      f'{most}.'
    )
  return patches.Qwen2VLImages(processor)


# Image processors of transformers, whatever the model behind them.
IMAGES = {
  **{
    kind: functools.partial(_one_size, kind)
    for kind in ('CLIPImageProcessor', 'LlavaImageProcessor')
  },
  'Gemma3ImageProcessor': _gemma3,
  'LlavaNextImageProcessor': _tiles,
  'Qwen2VLImageProcessor': _qwen2_vl_images,
}


def _stated_images(options):
  """Pops the image processor that a folder states, without its variant."""
  fields = ('image_processor_type', 'feature_extractor_type')
  stated = [options.pop(field, None) for field in fields]
  kind = re.sub('(Fast|Pil)$', '', next(filter(None, stated), ''))
  return kind.replace('FeatureExtractor', 'ImageProcessor')  # the older name


def _usual_images(config):
  """The image processor that transformers has for a model type, or ''."""
  from transformers.models.auto import image_processing_auto as auto

  usual = auto.IMAGE_PROCESSOR_MAPPING_NAMES.get(config.get('model_type'))
  return usual['torchvision'] if usual else ''


def _image_config(folder):
  """Options of the image processor, in the order of transformers 5.

  The ``image_processor`` of processor_config.json comes first: who saves a
  processor into a folder of the hub leaves preprocessor_config.json behind.
  """
  name, options = 'processor_config.json', None
  if (folder / name).exists():
    options = files.read(folder, name, {}).get('image_processor')
  if options is None and (folder / 'preprocessor_config.json').exists():
    name = 'preprocessor_config.json'
    options = workdir_lib.read_object(folder / name)
  if not isinstance(options, dict):
    raise MissingError(
      f'{folder} says nothing of image processing: processor_config.json '
      'has no image_processor, an object, and preprocessor_config.json is '
      'missing.'
    )
  whole = {'size': 'shortest_edge', 'crop_size': 'height'}  # in older files
  form = {
    key: {whole[key]: x} if key in whole and isinstance(x, int) else x
    for key, x in options.items()
  }
  rules.check(form, sizes.IMAGES, f'{folder / name}: ', others=True)
  kept = {key: x for key, x in options.items() if key != 'processor_class'}
  return name, kept


def _image_token(folder, config, tokenizer):
  """The token whose id config.json names."""
  name = next(
    (n for n in ('image_token_index', 'image_token_id') if n in config), None
  )
  if name is None:
    raise UserError(
      'config.json must name the image token (image_token_index or '
      f'image_token_id); the file in {folder} does not.'
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
  """generation_config.json, or nothing; names fields that are not applied."""
  name = 'generation_config.json'
  there = (folder / name).exists()
  found = files.read(folder, name, sizes.GENERATION) if there else {}
  for field, neutral in _DECODING.items():
    value = found.get(field)
    if value not in (None, neutral, [], {}):
      files.say_once(
        f'warning: {folder / name} has {field}={value!r}, with which '
        'transformers decodes other answers. It is not applied: compare '
        'scores only with models that are asked here.'
      )
  return found
