"""Folders of checkpoints that are spoiled: the error names the file."""

import hashlib
import json
import pathlib
import shutil
import struct

import folders
import fuzzing
import hub_folder
import jax
import numpy as np
import pytest

from mmu_jax.models.hub import loading

FAMILIES = ('llava', 'llava_next', 'qwen2_vl')
NUMBER = 90  # spoiled folders of each family
CLIP = dict(
  image_processor_type='CLIPImageProcessor',
  size={'shortest_edge': 24},
  crop_size={'height': 24, 'width': 24},
  image_mean=[0.5, 0.4, 0.3],
  image_std=[0.3, 0.3, 0.2],
  resample=3,
  rescale_factor=0.01,
  do_normalize=True,
)
TILES = dict(
  image_processor_type='LlavaNextImageProcessor',
  image_grid_pinpoints=[[24, 48], [48, 24], [48, 48], [72, 24], [24, 72]],
)
IMAGES = {
  'llava': CLIP,
  'llava_next': CLIP | TILES,
  'qwen2_vl': None,  # filled from the sizes of the tower
}


def _make(folder, family):
  """A whole checkpoint: weights, tokenizer, template, image processor."""
  hub_folder.write(folder, family, hub_folder.tensors(family, 0))
  more = folders.write(folder.with_name(f'{folder.name}_more'), family)
  config = json.loads((folder / 'config.json').read_text())
  for name in ('image_token_index', 'image_token_id'):
    config.pop(name, None)
    if name in folders.CONFIGS[family]['config.json']:
      config[name] = folders.CONFIGS[family]['config.json'][name]
  images = IMAGES[family] or {
    'image_processor_type': 'Qwen2VLImageProcessor',
    'patch_size': config['vision_config']['patch_size'],
    'merge_size': config['vision_config'].get('spatial_merge_size', 2),
    'temporal_patch_size': config['vision_config'].get(
      'temporal_patch_size', 2
    ),
    'min_pixels': 64,
    'max_pixels': 4096,
  }
  (more / 'config.json').write_text(json.dumps(config))
  (more / 'preprocessor_config.json').write_text(json.dumps(images))
  for file in more.iterdir():
    shutil.move(file, folder / file.name)
  more.rmdir()


def _meaning(folder):
  """All that a job takes from a folder, as text."""
  model = loading.load(folder)
  digest = hashlib.sha256()
  for leaf in jax.tree.leaves(model.params):
    digest.update(np.asarray(leaf).tobytes())
  # A folder without a tokenizer is loaded for its weights alone.
  processor = model.processor or loading.load_processor(model, folder)
  picture = processor.images.encode(folders.picture(0, 40, 30))
  digest.update(np.ascontiguousarray(picture.pixel_values).tobytes())
  part = [{'type': 'image'}, {'type': 'text', 'text': 'Who is Ada?'}]
  ids = processor.tokenizer.apply_chat_template(
    [{'role': 'user', 'content': part}], add_generation_prompt=True
  )
  token = processor.image_token_id
  return digest.hexdigest(), model.config, str(ids), processor.stop_ids, token


def _jsons(folder: pathlib.Path):
  found = {}
  for path in sorted(folder.glob('*.json')):
    found[path.name] = json.loads(path.read_text())
  return found


def _header(folder, change):
  """Spoils the header of the weights."""
  path = folder / 'model.safetensors'
  data = path.read_bytes()
  (size,) = struct.unpack('<Q', data[:8])
  header = json.loads(data[8 : 8 + size])
  name = next(n for n in header if n != '__metadata__')
  change(header, name)
  made = json.dumps(header).encode()
  path.write_bytes(struct.pack('<Q', len(made)) + made + data[8 + size :])


def _bytes(folder, change):
  path = folder / 'model.safetensors'
  path.write_bytes(change(path.read_bytes()))


HEADERS = {
  'shape of text': lambda h, n: h[n].update(shape=['3']),
  'shape of -1': lambda h, n: h[n].update(shape=[-1]),
  'no shape': lambda h, n: h[n].pop('shape'),
  'dtype F3': lambda h, n: h[n].update(dtype='F3'),
  'dtype 3': lambda h, n: h[n].update(dtype=3),
  'dtype I32': lambda h, n: h[n].update(dtype='I32'),
  'overlap': lambda h, n: h[n].update(data_offsets=[0, 4]),
  'offsets of text': lambda h, n: h[n].update(data_offsets=['0', '4']),
  'end before': lambda h, n: h[n].update(data_offsets=[8, 0]),
  'beyond the end': lambda h, n: h[n].update(data_offsets=[0, 2**40]),
  'a tensor that is null': lambda h, n: h.update({n: None}),
}
BYTES = {
  'empty': lambda data: b'',
  'seven bytes': lambda data: data[:7],
  'half': lambda data: data[: len(data) // 2],
  'a byte short': lambda data: data[:-1],
  'a byte more': lambda data: data + b'x',
  'length 2**63': lambda data: struct.pack('<Q', 2**63) + data[8:],
  'length 0': lambda data: bytes(8) + data[8:],
  'header is no JSON': lambda data: data[:8] + b'!' * 8 + data[16:],
}
INDEX = {
  'null': {'weight_map': None},
  'a list': {'weight_map': ['x']},
  'files that are numbers': {'weight_map': {'a': 3}},
  'files that are lists': {'weight_map': {'a': ['x']}},
  'another folder': {'weight_map': {'a': '../model.safetensors'}},
  'no files': {'weight_map': {}},
  'a missing file': {'weight_map': {'a': 'model-00001-of-00001.safetensors'}},
}


def _weight_cases():
  file = 'model.safetensors'
  for name, change in HEADERS.items():
    yield fuzzing.Case(
      f'header: {name}', file, lambda f, change=change: _header(f, change)
    )
  for name, change in BYTES.items():
    yield fuzzing.Case(
      f'bytes: {name}', file, lambda f, change=change: _bytes(f, change)
    )
  index = 'model.safetensors.index.json'
  spoiled = [
    *fuzzing.garbage_cases(index),
    *(
      fuzzing.Case(f'index: {name}', index, fuzzing.replaced(index, made))
      for name, made in INDEX.items()
    ),
  ]
  for case in spoiled:

    def mutate(folder, case=case):
      (folder / file).unlink()
      case.mutate(folder)

    yield case._replace(mutate=mutate)


def _missing(file):
  return fuzzing.Case(
    f'{file} is missing', file, lambda folder: (folder / file).unlink()
  )


def _cases(folder, family):
  """Cases of every file that a folder has, or may have."""
  found = _jsons(folder)
  needed = ('config.json', 'preprocessor_config.json', 'tokenizer.json')
  cases = [_missing(name) for name in needed if family == 'llava']
  optional = {
    'processor_config.json': {'image_processor': {'size': 3}},
    'added_tokens.json': {'<x>': 170},
  }
  small = [n for n in found if n not in ('tokenizer.json', 'vocab.json')]
  for seed, (name, valid) in enumerate((found | optional).items()):
    cases += fuzzing.garbage_cases(name)
    # A tokenizer has thousands of fields of one kind.
    number = 12 if name in small else 8
    cases += fuzzing.json_cases(name, valid, seed, number)
  return [*cases, *_weight_cases()]


@pytest.mark.parametrize('family', FAMILIES)
def test_a_spoiled_folder_is_an_error_that_names_the_file(family, tmp_path):
  valid = tmp_path / 'first'
  _make(valid, family)
  cases = _cases(valid, family)
  # All of them take half a minute; other seeds were tried by hand.
  chosen = np.random.default_rng(0).permutation(len(cases))[:NUMBER]
  cases = [cases[i] for i in sorted(chosen)]
  make = lambda folder: _make(folder, family)
  outcomes = fuzzing.attack(cases, make, _meaning, tmp_path)
  fuzzing.check(outcomes, most_unclear=0.02)
