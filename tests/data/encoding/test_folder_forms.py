"""Folders as people have them mean here what they mean to transformers.

Each form changes a folder that transformers reads too. Pixels, grids, ids and
templates are compared with those of its own Auto classes.
"""

import json

import folders
import numpy as np
import pytest
import transformers
from transformers import processing_utils

from mmu_jax.data.encoding import processors
from mmu_jax.errors import UserError

PRE, PRO = 'preprocessor_config.json', 'processor_config.json'
TOKENS = 'tokenizer_config.json'
CLIP, QWEN = 'CLIPImageProcessor', 'Qwen2VLImageProcessor'
SMALL = {'shortest_edge': 64, 'longest_edge': 256}  # pixels
OLD = {'min_pixels': 64, 'max_pixels': 256}
CUT = {'patch_size': 4, 'merge_size': 2, 'temporal_patch_size': 2}
OTHER = "{# other #}{% for m in messages %}<image><|image_pad|>{{ m['content']"
OTHER += "[-1]['text'] }}{% endfor %}"
LISTED = [{'name': 'default', 'template': OTHER}, {'name': 'x', 'template': ''}]
NO_TEMPLATES = {PRO: None, 'chat_template.json': None}

# (family, file -> fields to set, None to remove the file, or its new text)
FORMS = {
  'llava as published': ('llava', {}),
  'qwen2_vl as published': ('qwen2_vl', {}),
  'nested alone': (
    'qwen2_vl',
    {PRE: None, PRO: {'image_processor': dict(CUT, image_processor_type=QWEN)}},
  ),
  'nested before the old file': (
    'qwen2_vl',
    {
      PRO: {
        'image_processor': dict(CUT, image_processor_type=QWEN, size=SMALL)
      },
      PRE: {'min_pixels': 64, 'max_pixels': 4096},
    },
  ),
  'nested of another class': (
    'llava',
    {PRO: {'image_processor': {'image_processor_type': f'{CLIP}Fast'}}},
  ),
  'nested null': ('llava', {PRO: {'image_processor': None}}),
  'processor_config without images': ('llava', {PRO: {'patch_size': 14}}),
  'size and pixels': ('qwen2_vl', {PRE: {'size': SMALL, 'max_pixels': 1024}}),
  'size alone': ('qwen2_vl', {PRE: dict.fromkeys(OLD) | {'size': SMALL}}),
  'pixels in size and beside it': (
    'qwen2_vl',
    {PRE: {'size': {'min_pixels': 1, 'max_pixels': 2}} | OLD},
  ),
  'one size': ('llava', {PRE: {'size': 30, 'crop_size': 20}}),
  'height and width': ('llava', {PRE: {'size': {'height': 30, 'width': 40}}}),
  'no crop, no mean': (
    'llava',
    {PRE: {'size': {'height': 30, 'width': 30}, 'do_normalize': False}},
  ),
  'older name': (
    'llava',
    {
      PRE: {
        'image_processor_type': None,
        'feature_extractor_type': 'CLIPFeatureExtractor',
      }
    },
  ),
  'fast class': ('qwen2_vl', {PRE: {'image_processor_type': f'{QWEN}Fast'}}),
  'no class, llava': ('llava', {PRE: {'image_processor_type': None}}),
  'no class, qwen2_vl': ('qwen2_vl', {PRE: {'image_processor_type': None}}),
  'padded to a square': (
    'llava',
    {PRE: {'image_processor_type': 'LlavaImageProcessor', 'do_pad': True}},
  ),
  'template in processor_config': ('llava', {PRO: {'chat_template': OTHER}}),
  'template json and jinja': ('llava', {'chat_template.jinja': OTHER}),
  'template jinja alone': (
    'llava',
    {'chat_template.json': None, 'chat_template.jinja': OTHER},
  ),
  'template of the tokenizer': (
    'llava',
    NO_TEMPLATES | {TOKENS: {'chat_template': OTHER}},
  ),
  'templates of the tokenizer': (
    'llava',
    NO_TEMPLATES | {TOKENS: {'chat_template': LISTED}},
  ),
  'tokenizer of transformers 5': (
    'llava',
    {TOKENS: {'tokenizer_class': 'TokenizersBackend'}},
  ),
  'tokenizer without a class': (
    'qwen2_vl',
    {TOKENS: {'tokenizer_class': None}},
  ),
}


def _write(folder, family, changes):
  """The folder of a family, changed."""
  folders.write(folder, family)
  for name, change in changes.items():
    file = folder / name
    if change is None:
      file.unlink(missing_ok=True)
    elif isinstance(change, str):
      file.write_text(change)
    else:
      found = json.loads(file.read_text()) if file.exists() else {}
      content = {k: x for k, x in (found | change).items() if x is not None}
      file.write_text(json.dumps(content))
  return folder


@pytest.mark.parametrize('name', FORMS)
def test_a_folder_means_what_transformers_takes_from_it(name, tmp_path):
  folder = _write(tmp_path / 'm', *FORMS[name])
  found = processors.read_processor(folder)
  auto = transformers.AutoImageProcessor.from_pretrained(folder, backend='pil')
  image = np.random.default_rng(0).integers(0, 256, (37, 61, 3), np.uint8)
  want = auto(images=[image], return_tensors='np')
  got = found.images.encode(image)
  pixels = np.reshape(want['pixel_values'], got.pixel_values.shape)
  np.testing.assert_array_equal(got.pixel_values, pixels)
  if 'image_grid_thw' in want:
    assert list(got.grid) == want['image_grid_thw'][0].tolist()

  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
  text = 'Wer ist Zoë? <image>\n<|image_pad|> 12.'
  want = tokenizer(text)['input_ids']
  assert found.tokenizer(text)['input_ids'] == want
  read = processing_utils.ProcessorMixin.get_processor_dict
  template = read(str(folder))[0].get('chat_template')
  template = template or tokenizer.get_chat_template()
  assert found.tokenizer.chat_template == template


@pytest.mark.parametrize('name', ['template in processor_config', 'one size'])
def test_a_form_changes_what_is_read(name, tmp_path):
  """So that the comparison above is not one of defaults."""
  before = processors.read_processor(folders.write(tmp_path / 'a', 'llava'))
  after = processors.read_processor(_write(tmp_path / 'b', *FORMS[name]))
  template = before.tokenizer.chat_template != after.tokenizer.chat_template
  assert template == (name != 'one size')
  images = before.images.tokens_per_image != after.images.tokens_per_image
  assert images == (name == 'one size')


def test_pixels_that_stand_in_size_alone_are_limits(tmp_path):
  """transformers 4 wrote them so; transformers 5 refuses the folder."""
  changes = {PRE: dict.fromkeys(OLD) | {'size': OLD}}
  folder = _write(tmp_path / 'a', 'qwen2_vl', changes)
  assert processors.read_processor(folder).images.grid(80, 80) == (1, 4, 4)


@pytest.mark.parametrize('place', [PRE, PRO])
@pytest.mark.parametrize(
  'size', [{'max_pixels': 256}, {'height': 8, 'width': 8}, 256, {}]
)
def test_half_a_size_names_its_file(size, place, tmp_path):
  options = dict(CUT, image_processor_type=QWEN, size=size)
  changes = {PRE: None, place: {'image_processor': options}}
  if place == PRE:
    changes = {PRE: options | dict.fromkeys(OLD)}
  folder = _write(tmp_path / 'a', 'qwen2_vl', changes)
  with pytest.raises(UserError, match=f'shortest_edge.*{place}; got'):
    processors.read_processor(folder)
