"""Checkpoint folders of tiny models without weights.

The tokenizers of LLaVA and Qwen2-VL and their sizes are those that the
published code was run with (``golden/official/common``), and the chat templates
render what its templates render, so what it made of its examples can be
compared with what we make.
"""

import json
import pathlib
import shutil

import numpy as np
import paths

from mmu_jax.data.encoding import processors

COMMON = paths.GOLDEN / 'official' / 'common'
FAMILIES = {'llava': 'llava', 'qwen2_vl': 'qwen2vl'}  # ours: the golden name
TOKENIZERS = {**FAMILIES, 'llava_next': 'llava'}  # of every kind of images
CONFIGS = {
  'llava': {
    'config.json': {
      'model_type': 'llava',
      'image_token_index': 160,
      'vision_config': {'patch_size': 10},
    },
    'preprocessor_config.json': {
      'image_processor_type': 'CLIPImageProcessor',
      'size': {'shortest_edge': 30},
      'crop_size': {'height': 30, 'width': 30},
    },
    'generation_config.json': {'eos_token_id': 2},
  },
  'llava_next': {
    'config.json': {
      'model_type': 'llava_next',
      'image_token_index': 160,
      'vision_config': {'patch_size': 10},
    },
    'preprocessor_config.json': {
      'image_processor_type': 'LlavaNextImageProcessor',
      'size': {'shortest_edge': 30},
      'crop_size': {'height': 30, 'width': 30},
      'image_grid_pinpoints': [[30, 60], [60, 30], [60, 60], [90, 30]],
      'aspect_ratio_setting': 'anyres',
      'do_pad': True,
    },
    'generation_config.json': {'eos_token_id': 2},
  },
  'qwen2_vl': {
    'config.json': {'model_type': 'qwen2_vl', 'image_token_id': 5},
    'preprocessor_config.json': {
      'image_processor_type': 'Qwen2VLImageProcessor',
      'patch_size': 4,
      'min_pixels': 128,
      'max_pixels': 576,
    },
    'generation_config.json': {'eos_token_id': [2, 0]},
  },
}

_EACH = '{% for message in messages %}'
_PART = '{% for part in message.content %}'
TEMPLATES = {
  # All images first, then the text; a space ends every message.
  'llava': _EACH
  + "{{ message.role | upper + ': ' }}"
  + _PART
  + "{{ '<image>\n' if part.type == 'image' }}{% endfor %}"
  + _PART
  + "{{ part.text + ' ' if part.type == 'text' }}{% endfor %}{% endfor %}"
  + "{{ 'ASSISTANT:' if add_generation_prompt }}",
  'qwen2_vl': "{{ '<|im_start|>system\nYou are a helpful assistant."
  + "<|im_end|>\n' }}"
  + _EACH
  + "{{ '<|im_start|>' + message.role + '\n' }}"
  + _PART
  + "{{ '<|vision_start|><|image_pad|><|vision_end|>'"
  + " if part.type == 'image' else part.text }}{% endfor %}"
  + "{{ '<|im_end|>\n' }}{% endfor %}"
  + "{{ '<|im_start|>assistant\n' if add_generation_prompt }}",
}
TEMPLATES['llava_next'] = TEMPLATES['llava']


def write(folder: pathlib.Path, family: str) -> pathlib.Path:
  """Writes the folder of a family, a key of TOKENIZERS; returns it."""
  shutil.copytree(COMMON / f'tiny_tokenizer_{TOKENIZERS[family]}', folder)
  template = {'chat_template': TEMPLATES[family]}
  files = CONFIGS[family] | {'chat_template.json': template}
  for name, content in files.items():
    write_json(folder / name, content)
  return folder


def write_json(file: pathlib.Path, content: dict) -> None:
  """Writes a file of a folder."""
  file.write_text(json.dumps(content))


def load(tmp: pathlib.Path, family: str, **options) -> processors.Processor:
  """The processor of a family, from a folder below ``tmp``."""
  return processors.read_processor(write(tmp / family, family), **options)


def golden() -> dict:
  """What the published collators made of five examples, as tokens."""
  return json.loads((COMMON / 'collators.json').read_text())


def picture(seed: int, height: int, width: int) -> np.ndarray:
  """A random RGB image."""
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
