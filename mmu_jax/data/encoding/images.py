"""Pictures that are decoded when they are used.

A benchmark of thousands of photographs does not fit into memory as arrays: a
picture of 1024 x 1024 pixels is 3 MB, and about a tenth of that as a file. A
``LazyImage`` holds the file, says its size from the header, and becomes an
array where one is asked for.
"""

import functools
import hashlib
import io
import os
import struct
from typing import Any
import zlib

import numpy as np

from mmu_jax import inputs
from mmu_jax.errors import UserError

# Others (EPS, WMF, FITS, ...) call programs, or are no pictures.
FORMATS = ('PNG', 'JPEG', 'WEBP', 'GIF', 'BMP', 'TIFF')
MAX_BYTES = 2**28  # of a file: as many as the most pixels take as RGB
# The size at which PIL warns of a decompression bomb: 268 MB of RGB.
MAX_PIXELS = 1024**3 // 4 // 3
_SWAPPED = (5, 6, 7, 8)  # orientations of EXIF that turn height into width
_ORIENTATION = 0x0112
# What PIL raises for files that are cut off, damaged, or no images.
_UNREADABLE = (
  OSError,
  SyntaxError,
  ValueError,
  EOFError,
  IndexError,
  struct.error,
  zlib.error,
)


class LazyImage:
  """A picture in a file, or in the bytes of one, decoded on every use.

  It stands where an RGB array ``[height, width, 3]`` uint8 does: ``shape`` is
  read from the header, and ``np.asarray`` decodes. The file has one of
  ``FORMATS``, whatever its name says. Other than plain RGB:

  * Grey and palette pictures become RGB; 16 bits of grey are rounded to 8.
  * Transparent pictures are laid on white, as a page shows them. (The
    published code drops the alpha channel, which shows colours that nobody
    sees.)
  * CMYK and other colour spaces are converted without a colour profile.
  * The orientation in EXIF is applied, so that faces stand upright; height and
    width are those after it. (The published code ignores it.)
  * Of several frames the first is taken.

  Example:
    >>> import io, PIL.Image
    >>> file = io.BytesIO()
    >>> PIL.Image.new('L', (4, 2), 7).save(file, 'PNG')
    >>> image = LazyImage(file.getvalue(), 'row 3')
    >>> image.shape, np.asarray(image)[0, 0].tolist()
    ((2, 4, 3), [7, 7, 7])
  """

  def __init__(self, source: bytes | str | os.PathLike, name: str):
    """Keeps the file; nothing is read yet.

    Args:
      source: the bytes of an image file, or its path.
      name: name of the row that it belongs to, for messages.
    """
    self._source = source
    self.name = name

  @functools.cached_property
  def shape(self) -> tuple[int, int, int]:
    """``(height, width, 3)``, from the header.

    Raises:
      ValueError: if the file is missing or no image, or the image is empty or
        has more than ``MAX_PIXELS``.
    """
    with self._open() as image:
      width, height = image.size
      try:
        turned = _exif(image, self).get(_ORIENTATION) in _SWAPPED
      except _UNREADABLE as error:
        raise self._unreadable(error) from error
    # A TIFF states the size of the turned picture.
    if turned and image.format != 'TIFF':
      width, height = height, width
    return height, width, 3

  @functools.cached_property
  def mode(self) -> str:
    """How the file has its colours: ``'RGB'``, ``'L'``, ``'CMYK'``."""
    with self._open() as image:
      return image.mode

  def is_plain(self) -> bool:
    """Whether any decoder reads the pixels of the file as we do."""
    with self._open() as image:
      if image.mode != 'RGB':
        return False
      return np.array_equal(np.asarray(image), np.asarray(self))

  def __array__(self, dtype: Any = None, copy: bool | None = None):
    """Decodes to RGB ``[height, width, 3]`` uint8.

    Raises:
      ValueError: as for ``shape``, and if the file is damaged.
    """
    if copy is False:
      raise UserError('decoding makes an array; copy=False cannot be met.')
    with self._open() as image:
      try:
        array = np.asarray(_to_rgb(image))
      except _UNREADABLE as error:
        raise self._unreadable(error) from error
    return array if dtype is None else array.astype(dtype)

  def digest(self) -> str:
    """Sixteen hexadecimal digits that tell the file from others."""
    return hashlib.sha256(self.read()).hexdigest()[:16]

  def read(self) -> bytes:
    """The bytes of the file.

    Raises:
      ValueError: if it cannot be read.
    """
    if isinstance(self._source, bytes):
      return self._source
    try:
      return inputs.read_bytes(self._source, MAX_BYTES)
    except UserError as error:
      raise self._unreadable(error) from error

  def __repr__(self) -> str:
    return f'LazyImage({self.name!r})'

  def _open(self):
    """Reads the header; raises before anything large is decoded."""
    import PIL.Image

    try:
      image = PIL.Image.open(io.BytesIO(self.read()), formats=FORMATS)
    except PIL.Image.DecompressionBombError as error:
      raise self._huge(str(error)) from error
    except PIL.UnidentifiedImageError as error:
      why = UserError(f'it is none of {", ".join(FORMATS)}')
      raise self._unreadable(why) from error
    except _UNREADABLE as error:
      raise self._unreadable(error) from error
    width, height = image.size
    if not width * height:
      raise self._unreadable(UserError('it has no pixels'))
    if width * height > MAX_PIXELS:
      raise self._huge(f'{height} x {width} pixels')
    return image

  def _huge(self, found):
    return UserError(
      f'an image has at most {MAX_PIXELS} pixels; the image of {self.name} has '
      f'more ({found}). Scale it down.'
    )

  def _unreadable(self, error):
    return UserError(
      f'the image of {self.name} cannot be read: {_short(error)}. Get the '
      'file again, or drop the row.'
    )


# A picture as rows hold it.
Image = np.ndarray | LazyImage


def _exif(image, lazy):
  """The EXIF of an image; no pixel is decoded.

  PIL decodes a PNG for it, as it may stand behind the pixels. So a PNG is
  opened again without pixels: its size and the chunks that may hold EXIF.
  """
  import PIL.Image

  if image.format != 'PNG':
    return image.getexif()
  data, place, ended = lazy.read(), 8, False
  kept = [data[:place]]
  while place + 12 <= len(data):
    length, kind = struct.unpack_from('>I4s', data, place)
    body, place = data[place + 4 : place + 8 + length], place + 12 + length
    ended = ended or kind == b'IDAT'
    if place > len(data) or (ended and kind == b'fcTL'):  # a second frame
      break
    if kind in (b'IHDR', b'eXIf', b'tEXt', b'zTXt', b'iTXt', b'IEND'):
      check = struct.pack('>I', zlib.crc32(body))
      kept.append(struct.pack('>I', length) + body + check)
  kept.append(b'\0\0\0\0IEND\xaeB`\x82')
  with PIL.Image.open(io.BytesIO(b''.join(kept)), formats=['PNG']) as header:
    return PIL.Image.Image.getexif(header)


def _to_rgb(image):
  """A PIL image as RGB, upright."""
  import PIL.Image
  import PIL.ImageOps

  image = PIL.ImageOps.exif_transpose(image)
  if image.mode.startswith('I;16'):
    grey = (np.asarray(image).astype(np.uint32) + 128) // 257
    image = PIL.Image.fromarray(grey.astype(np.uint8))
  if image.mode in ('I', 'F'):
    raise UserError(f'pixels of 32 bits (mode {image.mode!r}) have no scale')
  if image.has_transparency_data:
    image = image.convert('RGBA')
    white = PIL.Image.new('RGBA', image.size, (255, 255, 255, 255))
    image = PIL.Image.alpha_composite(white, image)
  return image.convert('RGB')


def _short(error):
  """The first line of an error, without the address of a buffer."""
  text = str(error).split(' <_io.')[0].strip().rstrip('.')
  if isinstance(error, UserError):
    return text
  return f'{type(error).__name__}: {text}' if text else type(error).__name__
