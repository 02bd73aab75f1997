"""Pictures that are changed a little: people still see whom they show."""

from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image as pil
from PIL import ImageFilter
from PIL import ImageOps

from mmu_jax.data.rng import named_rng
from mmu_jax.data.row import Picture

_Change = Callable[[pil.Image, np.random.Generator], pil.Image]
_ANGLE = 15  # degrees
_CROP = 0.1  # of a side, at either end
_BLUR = 1 / 48  # of the longer side: standard deviation
_NOISE = 20  # of 255: standard deviation


def _rotated(image: pil.Image, rng: np.random.Generator) -> pil.Image:
  """Turned to one side; corners get the mean colour."""
  mean = np.asarray(image).mean((0, 1)).round().astype(int)
  angle = _ANGLE * int(rng.choice([-1, 1]))
  how = dict(resample=pil.Resampling.BILINEAR, fillcolor=tuple(mean.tolist()))
  return image.rotate(angle, **how)


def _cropped(image: pil.Image, rng: np.random.Generator) -> pil.Image:
  """The middle, as large as the whole was."""
  del rng
  width, height = image.size
  x, y = round(_CROP * width), round(_CROP * height)
  middle = image.crop((x, y, width - x, height - y))
  return middle.resize(image.size, pil.Resampling.BILINEAR)


def _blurred(image: pil.Image, rng: np.random.Generator) -> pil.Image:
  """Out of focus."""
  del rng
  return image.filter(ImageFilter.GaussianBlur(_BLUR * max(image.size)))


def _mirrored(image: pil.Image, rng: np.random.Generator) -> pil.Image:
  """Left and right exchanged."""
  del rng
  return ImageOps.mirror(image)


def _noised(image: pil.Image, rng: np.random.Generator) -> pil.Image:
  """Another amount added to every colour of every pixel."""
  pixels = np.asarray(image, np.float64)
  pixels += rng.normal(0, _NOISE, pixels.shape)
  return pil.fromarray(pixels.round().clip(0, 255).astype(np.uint8))


DISTORTIONS: dict[str, _Change] = {
  'rotated': _rotated,
  'cropped': _cropped,
  'blurred': _blurred,
  'mirrored': _mirrored,
  'noised': _noised,
}


class Distorted:
  """A picture that is changed whenever its pixels are wanted.

  It stands where an RGB array ``[height, width, 3]`` uint8 does, and has the
  shape of the picture that it is made from.
  """

  def __init__(self, picture: Picture, kind: str, seed: int):
    """Changes nothing yet.

    Args:
      picture: picture to change; it stays as it is.
      kind: kind of change, a key of ``DISTORTIONS``.
      seed: seed of its random choices; pictures have their own.
    """
    self._picture, self._kind, self._seed = picture, kind, seed
    self.shape = picture.image.shape

  def __array__(self, dtype: Any = None, copy: bool | None = None):
    """Returns the pixels, always the same."""
    rng = named_rng(self._seed, self._kind, self._picture.key)
    image = pil.fromarray(np.asarray(self._picture.image, np.uint8))
    changed = DISTORTIONS[self._kind](image, rng)
    return np.array(changed, dtype)
