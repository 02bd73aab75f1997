"""Which tiles a picture has, which patches of them count, in which order."""

import fractions
import math

import folders
import numpy as np
import pytest
import transformers

from mmu_jax.data.encoding import processors
from mmu_jax.data.encoding import tiles

PINPOINTS = [(336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008)]
EDGE, SIDE = 336, 24
# Height and width, tiles and tokens, of the published model.
KNOWN = {
  (336, 336): (3, 1176),
  (300, 1000): (4, 2182),
  (480, 640): (5, 2340),
  (512, 512): (5, 2928),
  (1024, 1024): (5, 2928),
}


def _sizes(seed, count):
  """Random heights and widths: ordinary, narrow and tiny ones."""
  rng = np.random.default_rng(seed)
  most = rng.choice([30, 400, 3000], (count, 2))
  return [(int(h), int(w)) for h, w in 1 + rng.integers(0, most)]


def _tile(height, width, sizes=PINPOINTS):
  return tiles.tile(height, width, sizes=sizes, edge=EDGE, side=SIDE)


def _kept(shown, whole):
  """First and end of the patches that are no padding, exactly."""
  pad = (whole - math.floor(shown)) // 2
  return pad, whole - pad


def _slots(height, width, best):
  """The order worked out patch by patch, with exact fractions."""
  rows, columns = best[0] // EDGE * SIDE, best[1] // EDGE * SIDE
  top, bottom, left, right = 0, rows, 0, columns
  height, width = fractions.Fraction(height), fractions.Fraction(width)
  if width / height > fractions.Fraction(columns, rows):
    top, bottom = _kept(height * columns / width, rows)
  else:
    left, right = _kept(width * rows / height, columns)
  found = [*range(SIDE**2)]
  for row in range(top, bottom):
    for column in range(left, right):
      tile = 1 + row // SIDE * (columns // SIDE) + column // SIDE
      found.append(tile * SIDE**2 + row % SIDE * SIDE + column % SIDE)
    found.append(tiles.NEWLINE)
  return found


def _processor(**options):
  square = {'height': EDGE, 'width': EDGE}
  return transformers.LlavaNextImageProcessorPil(
    size={'shortest_edge': EDGE}, crop_size=square, **options
  )


@pytest.mark.parametrize('size', KNOWN)
def test_published_sizes_have_their_tiles_and_tokens(size):
  found = _tile(*size)
  assert (found.num_tiles, found.num_tokens) == KNOWN[size]


def test_slots_are_those_worked_out_with_exact_fractions():
  seen = set()
  for height, width in [*KNOWN, (37, 200), (2000, 1999), *_sizes(0, 300)]:
    best = tiles.best_size(height, width, PINPOINTS)
    found = _tile(height, width)
    slots = found.slots()
    assert slots.dtype == np.int32 and len(slots) == found.num_tokens
    assert slots.tolist() == _slots(height, width, best), (height, width)
    seen.add((best, found.top > 0, found.left > 0))
  assert len(seen) > 10 and len({best for best, *_ in seen}) == 5


def test_counts_are_those_of_the_processor_of_transformers():
  """By its own formula, on floats rounded at the seventh digit."""
  kind = transformers.LlavaNextProcessor
  asked = kind.__new__(kind)  # without a tokenizer
  asked.image_processor = _processor()
  asked.patch_size, asked.num_additional_image_tokens = 14, 0
  for height, width in [*KNOWN, *_sizes(1, 400)]:
    want = asked._get_number_of_features(height, width, EDGE, EDGE)
    assert _tile(height, width).num_tokens == want, (height, width)


def test_sizes_are_chosen_as_transformers_does():
  from transformers import image_processing_utils as theirs

  rng, differs = np.random.default_rng(2), 0
  for height, width in _sizes(3, 400):
    sizes = [PINPOINTS[i] for i in rng.permutation(5)[: rng.integers(1, 6)]]
    want = theirs.select_best_resolution((height, width), sizes)
    assert tiles.best_size(height, width, sizes) == want
    differs += want != sizes[0]
  assert differs > 50


@pytest.mark.parametrize('size', [*KNOWN, (3, 7), (40, 900), (700, 90)])
def test_pixels_are_those_of_the_image_processor(size):
  processor = _processor()
  images = tiles.LlavaNextImages(processor, 14)
  picture = folders.picture(5, *size)
  want = processor(
    images=[picture], input_data_format='channels_last', return_tensors='np'
  )
  found = images.encode(picture)
  np.testing.assert_array_equal(found.pixel_values, want['pixel_values'][0])
  assert tuple(want['image_sizes'][0]) == size
  assert found.grid == images.grid(*size) == _tile(*size)
  assert found.pixel_values.shape == (found.grid.num_tiles, 3, EDGE, EDGE)
  assert found.pixel_values.dtype == np.float32
  assert found.num_tokens == len(found.slots) == images.num_tokens(found.grid)
  assert found.num_features == 576 * len(found.pixel_values)
  assert found.slots.max() < found.num_features
  assert images.room([found.grid] * 2) == 2 * len(found.pixel_values)


def test_tiles_show_the_picture_from_left_to_right_and_down():
  """A picture whose colours say where they are fills its four tiles."""
  options = dict(do_rescale=False, do_normalize=False)
  images = tiles.LlavaNextImages(_processor(**options), 14)
  rows, columns = np.indices((672, 672)) // 336
  picture = 100 * np.stack([rows, columns, 0 * rows], -1).astype(np.uint8)
  found = images.encode(picture)
  inner = found.pixel_values[1:, :2, 20:-20, 20:-20]  # resizing rounds edges
  assert (inner == inner[..., :1, :1]).all()
  want = [[0, 0], [0, 100], [100, 0], [100, 100]]
  assert inner[..., 0, 0].tolist() == want


@pytest.mark.parametrize(
  'most, size, count',
  [
    (0, (900, 800), 5),
    (451584, (900, 800), 5),
    (400000, (900, 800), 3),
    (400000, (900, 300), 4),
    (225792, (900, 300), 3),
    (225791, (900, 300), 1),
  ],
)
def test_a_limit_leaves_larger_sizes_out(most, size, count):
  images = tiles.LlavaNextImages(_processor(), 14, most)
  picture = folders.picture(6, *size)
  found = images.encode(picture)
  sizes = [p for p in PINPOINTS if math.prod(p) <= (most or math.inf)]
  assert found.grid == images.grid(*size) == _tile(*size, sizes)
  assert len(found.pixel_values) == count
  whole = tiles.LlavaNextImages(_processor(), 14).encode(picture)
  np.testing.assert_array_equal(found.pixel_values[0], whole.pixel_values[0])
  assert images.cut == tiles.LlavaNextImages(_processor(), 14).cut


def test_the_whole_picture_alone_is_one_row():
  found = _tile(480, 640, [])
  assert (found.num_tiles, found.num_tokens) == (1, 577)
  assert found.slots().tolist() == [*range(576), tiles.NEWLINE]


def _folder(tmp_path, **changes):
  """A folder whose preprocessor_config.json has other fields."""
  edited = folders.CONFIGS['llava_next']['preprocessor_config.json'] | changes
  folder = folders.write(tmp_path / 'folder', 'llava_next')
  folders.write_json(folder / 'preprocessor_config.json', edited)
  return folder


def test_a_folder_gives_its_tiles(tmp_path):
  found = processors.read_processor(_folder(tmp_path))
  pinpoints = ((30, 60), (60, 30), (60, 60), (90, 30))
  assert found.images.cut == {
    'tokens of a tile': 9,
    'image_grid_pinpoints': pinpoints,
  }
  assert found.images.grid(50, 60) == tiles.Tiling(3, 2, 2)
  narrow = processors.read_processor(tmp_path / 'folder', max_pixels=1800)
  assert narrow.images.grid(50, 60).num_tiles == 3
  with pytest.raises(ValueError, match='min_pixels would change nothing'):
    processors.read_processor(tmp_path / 'folder', min_pixels=9)


@pytest.mark.parametrize(
  'changes, words',
  [
    ({'image_grid_pinpoints': [[30, 60], [30, 50]]}, 'whole tiles; got size'),
    ({'size': {'shortest_edge': 60}}, 'those of a tile'),
    ({'crop_size': {'height': 30, 'width': 60}}, 'those of a tile'),
    ({'size': {'shortest_edge': 35}, 'crop_size': 35}, r'patches \(10 pixels'),
    ({'image_grid_pinpoints': [[30, 0]]}, 'image_grid_pinpoints is a list of'),
    ({'image_grid_pinpoints': []}, 'image_grid_pinpoints is a list of'),
    ({'image_grid_pinpoints': [30, 60]}, 'image_grid_pinpoints is a list of'),
  ],
)
def test_tiles_that_are_not_whole_are_refused(changes, words, tmp_path):
  with pytest.raises(ValueError, match=f'preprocessor_config.json.*{words}'):
    processors.read_processor(_folder(tmp_path, **changes))
