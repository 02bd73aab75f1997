"""A picture that is decoded on use is the array that it stands for."""

import io
import os
import struct
import time
import zlib

import benchmark_folders
import numpy as np
import PIL.Image
import pytest

from mmu_jax.data.encoding import images
from mmu_jax.data.encoding.images import LazyImage
from mmu_jax.data.people import vocabulary
from mmu_jax.errors import UserError

RED, BLUE = (255, 0, 0), (0, 0, 255)


def _lazy(image, kind='PNG', **options):
  data = benchmark_folders.encoded(image, kind, **options)
  return LazyImage(data, 'row 7')


def _drawn(seed=0):
  return np.random.default_rng(seed).integers(0, 256, (5, 9, 3), np.uint8)


def test_rgb_comes_back_bit_for_bit_from_bytes_and_path(tmp_path):
  array = _drawn()
  path = tmp_path / 'a.png'
  PIL.Image.fromarray(array).save(path)
  for source in (path.read_bytes(), path, str(path)):
    image = LazyImage(source, 'row 7')
    assert image.shape == (5, 9, 3) and image.mode == 'RGB'
    np.testing.assert_array_equal(np.asarray(image), array)
  assert np.asarray(image, np.float32).dtype == np.float32


@pytest.mark.parametrize('mode', ['L', '1', 'P', 'LA', 'RGBA', 'CMYK', 'YCbCr'])
def test_every_mode_becomes_rgb_of_the_same_picture(mode):
  """Black stays black and white stays white, to the rounding of JPEG."""
  grey = PIL.Image.fromarray(np.repeat(np.uint8([[0, 255]]), 32, 1))
  kind = 'JPEG' if mode in ('CMYK', 'YCbCr') else 'PNG'
  image = _lazy(grey.convert('RGB').convert(mode), kind)
  array = np.asarray(image)
  assert array.shape == image.shape == (1, 64, 3) and array.dtype == np.uint8
  assert array[0, 3].max() <= 8 and array[0, -3].min() >= 247


def test_transparent_pictures_lie_on_white():
  """What is hidden below the transparency is not shown."""
  rgba = PIL.Image.new('RGBA', (2, 1), (*RED, 0))
  rgba.putpixel((1, 0), (*BLUE, 255))
  assert np.asarray(_lazy(rgba)).tolist() == [[[255] * 3, [0, 0, 255]]]
  palette = PIL.Image.new('P', (1, 1), 0)
  palette.putpalette([*RED, *BLUE])
  assert np.asarray(_lazy(palette)).tolist() == [[list(RED)]]
  transparent = _lazy(palette, transparency=0)
  assert np.asarray(transparent).tolist() == [[[255] * 3]]


def test_sixteen_bits_of_grey_are_rounded_to_eight():
  values = np.uint16([[0, 257, 257 * 200, 65535]])
  array = np.asarray(_lazy(PIL.Image.fromarray(values)))
  assert array[0, :, 0].tolist() == [0, 1, 200, 255]


@pytest.mark.parametrize('orientation', range(1, 9))
def test_faces_stand_upright(orientation):
  """The shape is that of the array in all eight orientations of EXIF."""
  exif = PIL.Image.Exif()
  exif[0x0112] = orientation
  image = _lazy(PIL.Image.fromarray(_drawn()), exif=exif)
  turned = orientation >= 5
  assert image.shape == ((9, 5, 3) if turned else (5, 9, 3))
  assert np.asarray(image).shape == image.shape
  if orientation == 3:
    np.testing.assert_array_equal(np.asarray(image), _drawn()[::-1, ::-1])


def test_the_shape_is_read_without_decoding():
  data = benchmark_folders.file(0, size=64)
  cut = LazyImage(data[: len(data) // 2], 'row 7')
  assert cut.shape == (64, 64, 3)
  with pytest.raises(ValueError, match='image of row 7 cannot be read'):
    np.asarray(cut)


@pytest.mark.parametrize('kind', ['PNG', 'JPEG', 'WEBP'])  # slow to decode
def test_the_shape_of_a_format_costs_no_decode(kind):
  array = np.random.default_rng(1).integers(0, 256, (900, 1200, 3), np.uint8)
  image = PIL.Image.fromarray(array)
  data = benchmark_folders.encoded(image, kind)
  took = {'shape': [], 'decode': []}
  for _ in range(3):
    lazy = LazyImage(data, 'row 7')
    start = time.perf_counter()
    assert lazy.shape == (900, 1200, 3)
    took['shape'].append(time.perf_counter() - start)
    start = time.perf_counter()
    with PIL.Image.open(io.BytesIO(data)) as opened:
      opened.convert('RGB').resize((2, 2)).tobytes()
    took['decode'].append(time.perf_counter() - start)
  assert min(took['shape']) < 0.1 * min(took['decode'])


def _chunk(kind, body):
  check = zlib.crc32(kind + body)
  return struct.pack('>I4s', len(body), kind) + body + struct.pack('>I', check)


_XMP = b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="6"/>'


@pytest.mark.parametrize('behind', [False, True], ids=['before', 'behind'])
@pytest.mark.parametrize('kind', [b'eXIf', b'iTXt', b'zTXt'])
def test_a_png_is_turned_by_what_stands_before_or_behind_its_pixels(
  kind, behind
):
  exif = PIL.Image.Exif()
  exif[0x112] = 6
  body = exif.tobytes().removeprefix(b'Exif\0\0')
  if kind == b'iTXt':
    body = _XMP
  elif kind == b'zTXt':  # as ImageMagick writes it
    raw = b'\nexif\n    %d\n%s' % (len(body), body.hex().encode())
    body = b'Raw profile type exif\0\0' + zlib.compress(raw)
  array = np.random.default_rng(1).integers(0, 256, (20, 30, 3), np.uint8)
  data = benchmark_folders.encoded(PIL.Image.fromarray(array))
  place = len(data) - 12 if behind else 33  # IEND, IHDR
  made = data[:place] + _chunk(kind, body) + data[place:]
  image = LazyImage(made, 'row 7')
  assert image.shape == np.asarray(image).shape == (30, 20, 3)
  # Without its end it is decoded by PIL, and its shape is the same.
  cut = LazyImage(made[:-8] if behind else made[:-4], 'row 7')
  assert cut.shape == np.asarray(cut).shape == (30, 20, 3)


@pytest.mark.parametrize('data', [b'', b'hello', b'\x89PNG\r\n\x1a\n1234'])
def test_what_is_no_image_is_named_by_its_row(data):
  with pytest.raises(ValueError, match='image of row 7 cannot.*drop the row'):
    _ = LazyImage(data, 'row 7').shape


@pytest.mark.parametrize('kind', images.FORMATS)
@pytest.mark.parametrize('share', [0, 0.1, 0.5, 0.9])
def test_a_picture_that_is_cut_off_is_named_by_its_row(kind, share):
  """Of every format, wherever it is cut: by its shape or its pixels."""
  array = np.random.default_rng(1).integers(0, 256, (60, 80, 3), np.uint8)
  data = benchmark_folders.encoded(PIL.Image.fromarray(array), kind)
  assert LazyImage(data, 'row 7').shape == (60, 80, 3)
  image = LazyImage(data[: int(share * len(data))], 'row 7')
  with pytest.raises(UserError, match='image of row 7 '):
    assert image.shape == (60, 80, 3)
    np.asarray(image)


def test_a_file_for_another_program_is_not_given_to_it():
  """PIL runs Ghostscript to decode EPS; the name of a file says nothing."""
  eps = b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 5\n%%EndComments\n'
  assert PIL.Image.open(io.BytesIO(eps)).format == 'EPS'
  for data in (
    eps,
    benchmark_folders.encoded(PIL.Image.new('L', (3, 3)), 'PPM'),
  ):
    with pytest.raises(UserError, match='row 7 cannot be read: it is none of'):
      _ = LazyImage(data, 'row 7').shape


@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'TIFF', 'WEBP'])
@pytest.mark.parametrize('orientation', [1, 6, 8])
def test_every_format_is_turned_once(kind, orientation):
  exif = PIL.Image.Exif()
  exif[0x0112] = orientation
  image = _lazy(PIL.Image.fromarray(_drawn()), kind, exif=exif)
  assert np.asarray(image).shape == image.shape
  assert image.shape[:2] == ((5, 9) if orientation == 1 else (9, 5))


def test_a_missing_file_is_named_by_its_row(tmp_path):
  with pytest.raises(
    ValueError, match='row 7 cannot be read: there is no file'
  ):
    LazyImage(tmp_path / 'a.png', 'row 7').read()


def test_a_device_and_a_file_without_end_are_no_pictures(tmp_path):
  pipe, large = tmp_path / 'a.png', tmp_path / 'b.png'
  os.mkfifo(pipe)
  with large.open('wb') as file:
    file.truncate(2**34)
  for path in (pipe, large, '/dev/zero', tmp_path):
    with pytest.raises(UserError, match='image of row 7 cannot be read'):
      _ = LazyImage(path, 'row 7').shape


@pytest.mark.filterwarnings('ignore:Image size')
@pytest.mark.parametrize('side', [9_460, 20_000])
def test_a_huge_picture_is_an_error_before_it_is_decoded(side):
  """89.5 million pixels are the most; the header alone is read."""
  file = io.BytesIO()
  PIL.Image.new('1', (side, side)).save(file, 'PNG')
  with pytest.raises(ValueError, match='at most 89478485 pixels.*row 7'):
    _ = LazyImage(file.getvalue(), 'row 7').shape


def test_the_encoder_takes_both_kinds_alike():
  encode = vocabulary.make_processor().images.encode
  array = _drawn()
  lazy = _lazy(PIL.Image.fromarray(array))
  np.testing.assert_array_equal(
    encode(lazy).pixel_values, encode(array).pixel_values
  )
  assert isinstance(lazy, images.Image) and isinstance(array, images.Image)
