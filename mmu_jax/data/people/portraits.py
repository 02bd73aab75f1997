"""Small drawn pictures: portraits with nameable looks, and coloured shapes.

The synthetic world needs pictures that a model of a million parameters can
learn to read on a CPU in a minute, and whose content is known exactly. So a
face is nine discrete attributes, each with words and each visible whatever the
others are (a hat never hides the hair style), and every rendering moves, tilts
and recolours it a little. Drawn at twice the size, then averaged down.
"""

import math
from typing import NamedTuple

import numpy as np
from PIL import Image
from PIL import ImageDraw

from mmu_jax.errors import UserError

Colour = tuple[int, int, int]

SKINS: dict[str, Colour] = {
  'pale': (255, 228, 206),
  'rosy': (244, 184, 158),
  'tan': (206, 148, 92),
  'brown': (146, 90, 54),
  'dark': (86, 52, 38),
}
FACES = ('round', 'long', 'square')
HAIRS = ('short', 'long', 'curly', 'spiky', 'braided', 'knotted')
HAIR_COLOURS: dict[str, Colour] = {
  'black': (30, 28, 34),
  'brown': (112, 66, 30),
  'blond': (240, 206, 96),
  'red': (204, 74, 24),
  'grey': (172, 174, 182),
  'blue': (48, 92, 214),
}
GLASSES = ('no', 'round', 'dark')
HATS = ('headband', 'cap', 'tophat')
BEARDS = ('no', 'pointed', 'full')
COLOURS: dict[str, Colour] = {
  'red': (214, 40, 48),
  'orange': (246, 138, 24),
  'yellow': (252, 224, 52),
  'green': (44, 156, 72),
  'blue': (42, 98, 216),
  'purple': (136, 58, 178),
  'pink': (252, 150, 198),
  'white': (244, 244, 244),
}
SHAPES = ('circle', 'square', 'triangle', 'star')
SHAPE_COLOURS = ('red', 'orange', 'green', 'blue', 'purple', 'white')
COUNTS = ('one', 'two', 'three', 'four')

_UNITS = 96  # coordinates below: the picture is 96 x 96 units, y downwards
_MARGIN = 16  # units drawn beyond each edge, which a smaller scale moves in
_NOISE = 0.015 * 255
_INK = (44, 34, 40)


class Look(NamedTuple):
  """The look of a face: an index into the words of each attribute.

  Each field is an index into the words that ``LOOK_WORDS`` has under the same
  name; ``clothes_colour`` and ``hat_colour`` share ``COLOURS``.
  """

  skin: int
  face: int
  hair: int
  hair_colour: int
  glasses: int
  hat: int
  beard: int
  clothes_colour: int
  hat_colour: int


LOOK_WORDS = Look(
  skin=tuple(SKINS),
  face=FACES,
  hair=HAIRS,
  hair_colour=tuple(HAIR_COLOURS),
  glasses=GLASSES,
  hat=HATS,
  beard=BEARDS,
  clothes_colour=tuple(COLOURS),
  hat_colour=tuple(COLOURS),
)


def random_look(rng: np.random.Generator) -> Look:
  """Draws every attribute uniformly.

  Example:
    >>> look = random_look(np.random.default_rng(0))
    >>> look._fields[:4]
    ('skin', 'face', 'hair', 'hair_colour')
  """
  return Look(*(int(rng.integers(len(words))) for words in LOOK_WORDS))


def look_words(look: Look) -> dict[str, str]:
  """The words for a look, by attribute.

  Example:
    >>> look_words(Look(0, 1, 2, 3, 1, 1, 0, 4, 5))['hair_colour']
    'red'
  """
  return {
    name: words[index]
    for name, words, index in zip(Look._fields, LOOK_WORDS, look)
  }


def draw_portrait(
  look: Look, rng: np.random.Generator, size: int = 48
) -> np.ndarray:
  """Draws one rendering of a face.

  Two renderings of one look differ in position (up to 4 of the 96 units each
  way), scale (.88 to 1.1), tilt (up to 8 degrees), the exact colours (sd 7 of
  255), background, brightness (.85 to 1.12) and noise (sd .015 of the range).

  Args:
    look: the face.
    rng: source of the rendering's variation.
    size: height and width of the picture, pixels, at least 8.

  Returns:
    RGB picture ``[size, size, 3]`` uint8.

  Example:
    >>> look = Look(0, 0, 1, 0, 1, 1, 0, 3, 0)
    >>> draw_portrait(look, np.random.default_rng(0)).shape
    (48, 48, 3)
  """
  words = Look(**look_words(look))
  skin = _near(SKINS[words.skin], rng)
  hair = _near(HAIR_COLOURS[words.hair_colour], rng)
  upper, lower = _background(rng)
  pen, head = _Pen(size, upper), _HEADS[words.face]
  _draw_back_hair(pen, head, words.hair, hair)
  _draw_clothes(pen, _near(COLOURS[words.clothes_colour], rng))
  if words.hair == 'braided':
    _draw_braids(pen, head, hair)
  _draw_head(pen, head, skin)
  _draw_front_hair(pen, head, hair)
  _draw_beard(pen, head, words.beard, hair)
  _draw_features(pen, skin, hair)
  _draw_glasses(pen, words.glasses)
  _draw_hat(pen, head, words.hat, _near(COLOURS[words.hat_colour], rng))
  scale, tilt = rng.uniform(0.88, 1.1), math.radians(rng.uniform(-8, 8))
  dx, dy = rng.uniform(-4, 4, size=2)
  return _finish(pen.moved(scale, tilt, dx, dy), upper, lower, rng)


def draw_shapes(
  shape: str, colour: str, count: int, rng: np.random.Generator, size: int = 48
) -> np.ndarray:
  """Draws one to four equal shapes that do not touch.

  Args:
    shape: one of ``SHAPES``.
    colour: one of ``SHAPE_COLOURS``.
    count: number of shapes, 1 to 4.
    rng: source of places, sizes, background and noise.
    size: height and width of the picture, pixels, at least 8.

  Returns:
    RGB picture ``[size, size, 3]`` uint8.

  Example:
    >>> draw_shapes('star', 'red', 3, np.random.default_rng(0)).dtype
    dtype('uint8')
  """
  if shape not in SHAPES or colour not in SHAPE_COLOURS or not 1 <= count <= 4:
    raise UserError(
      f'a picture of shapes needs a shape in {SHAPES}, a colour in'
      f' {SHAPE_COLOURS} and a count from 1 to 4, got {shape!r}, {colour!r}'
      f' and {count!r}; use the words of mmu_jax.data.people.portraits'
    )
  upper, lower = _background(rng)
  pen = _Pen(size, upper)
  fill = _near(COLOURS[colour], rng)
  # One shape per quadrant, within reach of its middle: they cannot touch.
  for quadrant in rng.permutation(4)[:count]:
    radius = rng.uniform(14, 18)
    x = 25 + 46 * (quadrant % 2) + rng.uniform(-4, 4)
    y = 25 + 46 * (quadrant // 2) + rng.uniform(-4, 4)
    _draw_shape(pen, shape, x, y, radius, rng.uniform(-0.2, 0.2), fill)
  return _finish(pen.moved(), upper, lower, rng)


class _Head(NamedTuple):
  """Half width and half height of a head in units, and its corner radius."""

  rx: float
  ry: float
  corner: float = 0


_HEADS = {
  'round': _Head(20, 19.5),
  'long': _Head(15, 24),
  'square': _Head(18, 21, 6),
}
_X, _Y = 48, 48  # middle of every head


class _Pen:
  """Draws in units, on a canvas of twice the resolution of the picture."""

  def __init__(self, size: int, background: Colour):
    # Transparent pixels carry the background's colour, so that edges blended
    # by the rotation do not darken.
    self.size = 2 * size
    self.unit = self.size / _UNITS
    self.edge = round(_MARGIN * self.unit)
    side = self.size + 2 * self.edge
    self.image = Image.new('RGBA', (side, side), (*background, 0))
    self._draw = ImageDraw.Draw(self.image)

  def _style(self, fill, outline=None, width=1.5):
    if outline is None:
      outline = _shade(fill, 0.62)
    return {'fill': fill, 'outline': outline, 'width': self._width(width)}

  def _width(self, width):
    return max(1, round(width * self.unit))

  def _box(self, x, y, rx, ry):
    u, e = self.unit, self.edge
    left, upper = (x - rx) * u + e, (y - ry) * u + e
    return left, upper, left + 2 * rx * u, upper + 2 * ry * u

  def ellipse(self, x, y, rx, ry, *style):
    self._draw.ellipse(self._box(x, y, rx, ry), **self._style(*style))

  def chord(self, x, y, rx, ry, angles, fill):
    self._draw.chord(self._box(x, y, rx, ry), *angles, **self._style(fill))

  def arc(self, x, y, rx, ry, angles, fill, width=2):
    box = self._box(x, y, rx, ry)
    self._draw.arc(box, *angles, fill=fill, width=self._width(width))

  def slab(self, x, y, rx, ry, corner, fill):
    box, corner = self._box(x, y, rx, ry), corner * self.unit
    self._draw.rounded_rectangle(box, corner, **self._style(fill))

  def polygon(self, points, fill):
    u, e = self.unit, self.edge
    points = [(x * u + e, y * u + e) for x, y in points]
    self._draw.polygon(points, **self._style(fill))

  def moved(self, scale=1.0, tilt=0.0, dx=0.0, dy=0.0) -> Image.Image:
    """The picture scaled, tilted (radians) and shifted about its middle."""
    c, s = math.cos(tilt) / scale, math.sin(tilt) / scale
    middle = self.size / 2
    x, y = middle + dx * self.unit, middle + dy * self.unit
    # PIL asks for the map from the new picture's pixels to the old ones.
    x0 = middle + self.edge - c * x - s * y
    y0 = middle + self.edge + s * x - c * y
    shape, matrix = (self.size, self.size), (c, s, x0, -s, c, y0)
    affine, resample = Image.Transform.AFFINE, Image.Resampling.BILINEAR
    return self.image.transform(shape, affine, matrix, resample)


def _near(colour: Colour, rng: np.random.Generator) -> Colour:
  """A colour close to the given one."""
  noisy = np.clip(np.asarray(colour) + rng.normal(0, 7, 3), 0, 255)
  return tuple(int(value) for value in noisy)


def _shade(colour: Colour, factor: float) -> Colour:
  """Darker below 1, lighter above."""
  return tuple(min(255, int(value * factor)) for value in colour)


def _background(rng: np.random.Generator) -> tuple[Colour, Colour]:
  """Two muted colours, for the upper and the lower edge of the picture."""
  base = rng.uniform(105, 205) + rng.uniform(-28, 28, size=3)
  lower = base * rng.uniform(0.72, 0.95)
  return tuple(map(int, base)), tuple(map(int, lower))


def _finish(drawing, upper, lower, rng) -> np.ndarray:
  """Puts the drawing on its background, halves it, adds light and noise."""
  size = drawing.width // 2
  layers = np.asarray(drawing.reduce(2), np.float32)
  alpha = layers[..., 3:] / 255
  depth = np.linspace(0, 1, size, dtype=np.float32)[:, None, None]
  ground = np.float32(upper) * (1 - depth) + np.float32(lower) * depth
  picture = alpha * layers[..., :3] + (1 - alpha) * ground
  picture *= rng.uniform(0.85, 1.12)
  picture += _NOISE * rng.standard_normal(picture.shape, dtype=np.float32)
  return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def _around(head, angle, wide, high):
  """A point on the head's outline grown by so many units; y is downwards."""
  a = math.radians(angle)
  x = _X + (head.rx + wide) * math.cos(a)
  return x, _Y + (head.ry + high) * math.sin(a)


def _draw_clothes(pen, colour):
  pen.slab(_X, 105, 34, 30, 16, colour)
  for side in (-1, 1):  # sleeves
    pen.arc(_X + side * 25, 106, 6, 16, (180, 360), _shade(colour, 0.62), 1.5)


def _draw_back_hair(pen, head, style, colour):
  """All of the hair that the face will not cover."""
  rx, top = head.rx, _Y - head.ry
  pen.ellipse(_X, top + 15, rx + 4, 20, colour)
  if style == 'long':
    pen.slab(_X, 58, rx + 9, 31, 14, colour)
  elif style == 'curly':
    for angle in range(150, 391, 30):
      pen.ellipse(*_around(head, angle, 6, 1), 8.5, 8.5, colour)
  elif style == 'spiky':
    for angle in range(172, 369, 28):
      spike = (-16, 1, 1), (0, 19, 14), (16, 1, 1)
      pen.polygon([_around(head, angle + d, *up) for d, *up in spike], colour)
  elif style == 'knotted':
    for x in (_X - rx - 9, _X + rx + 9):
      pen.ellipse(x, 43, 10.5, 10.5, colour)
      pen.ellipse(x, 43, 5, 5, colour)


def _draw_braids(pen, head, colour):
  for side in (-1, 1):
    for link in range(5):
      x = _X + side * (head.rx + 5 + link)
      pen.ellipse(x, 47 + 9 * link, 5.5, 6, colour)


def _draw_head(pen, head, skin):
  rx, ry, corner = head
  pen.slab(_X, 70, 7.5, 13, 7, _shade(skin, 0.88))  # neck
  for side in (-1, 1):
    pen.ellipse(_X + side * rx, 50, 4, 5, skin)
  if corner:
    pen.slab(_X, _Y, rx, ry, corner, skin)
  else:
    pen.ellipse(_X, _Y, rx, ry, skin)


def _draw_front_hair(pen, head, colour):
  """A fringe, and the sideburns that show under every hat."""
  rx, top = head.rx, _Y - head.ry
  pen.chord(_X, top + 13, rx + 2.5, 16.5, (196, 344), colour)
  for side in (-1, 1):
    corners = (rx + 2, top + 10), (rx - 5, top + 10), (rx - 1, 47), (rx + 2, 47)
    pen.polygon([(_X + side * x, y) for x, y in corners], colour)


def _draw_beard(pen, head, style, colour):
  (rx, ry, corner), bottom = head, _Y + head.ry
  if style == 'full':
    if corner:
      pen.slab(_X, bottom - 6, rx + 1.5, 10, corner, colour)
    else:
      pen.chord(_X, _Y + 4, rx + 2, ry + 1, (2, 178), colour)
    pen.ellipse(_X, 55, 9, 3, colour)
  elif style == 'pointed':
    corners = (_X - 7, bottom - 7), (_X + 7, bottom - 7), (_X, bottom + 11)
    pen.polygon(corners, colour)
    pen.polygon([(_X, 53.5), (_X - 11, 57.5), (_X + 11, 57.5)], colour)


def _draw_features(pen, skin, hair):
  dark = _shade(skin, 0.6)
  for side in (-1, 1):
    x = _X + side * 7.5
    pen.ellipse(x, 47, 4, 4.5, (252, 252, 252), dark, 1)
    pen.ellipse(x, 47.5, 2.2, 2.6, _INK)
    pen.arc(x, 42, 4.5, 3, (200, 340), _shade(hair, 0.75), 2)
  pen.arc(_X, 51, 2.5, 3, (20, 160), dark, 2)  # nose
  pen.chord(_X, 58, 6, 5, (8, 172), (186, 44, 58))  # a smile


def _draw_glasses(pen, style):
  for x in (_X - 8, _X + 8):
    if style == 'dark':
      pen.slab(x, 47.5, 7.5, 5.5, 3, (34, 34, 42))
      pen.arc(x, 47.5, 4.5, 3, (200, 260), (150, 160, 190), 1.5)
    elif style == 'round':
      pen.ellipse(x, 47.5, 7.5, 7.5, None, _INK, 2)
  if style != 'no':
    pen.arc(_X, 47.5, 2.5, 2, (180, 360), _INK, 2)


def _draw_hat(pen, head, kind, colour):
  rx, top, shadow = head.rx, _Y - head.ry, _shade(colour, 0.62)
  if kind == 'headband':
    pen.slab(_X, top + 7, rx + 3, 4.5, 3, colour)
    for dx in (-5, 5):  # a bow
      pen.ellipse(_X + rx - 2 + dx, top + 4, 5.5, 5, colour)
    pen.ellipse(_X + rx - 2, top + 4, 2.5, 2.5, shadow)
  elif kind == 'cap':
    pen.chord(_X, top + 11, rx + 5, 19, (180, 360), colour)
    pen.slab(_X + 12, top + 10.5, rx + 3, 3.5, 3, colour)
    pen.ellipse(_X, top - 8, 2.5, 2, colour)
  else:
    pen.slab(_X, top - 4, rx - 1, 15, 3, colour)
    pen.slab(_X, top + 4, rx - 1, 3, 1, shadow)
    pen.slab(_X, top + 9, rx + 10, 3.2, 3, colour)


def _draw_shape(pen, shape, x, y, radius, tilt, fill):
  if shape == 'circle':
    pen.ellipse(x, y, radius, radius, fill)
    return
  corners, points = {'square': 4, 'triangle': 3, 'star': 10}[shape], []
  tilt += math.pi / 4 if shape == 'square' else 0
  for corner in range(corners):
    angle = tilt - math.pi / 2 + 2 * math.pi * corner / corners
    reach = radius * (0.42 if shape == 'star' and corner % 2 else 1.1)
    points.append((x + reach * math.cos(angle), y + reach * math.sin(angle)))
  pen.polygon(points, fill)
