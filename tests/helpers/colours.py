"""How far two colours are apart for readers with a colour vision deficiency.

Colours are turned into the ones that a reader without one kind of cones sees
(Machado et al., 2009, at full severity), and compared in CIELAB.
"""

import numpy as np

# Linear RGB to linear RGB, by the missing cones.
_SEEN = {
  'none': np.eye(3),
  'long': [
    [0.152286, 1.052583, -0.204868],
    [0.114503, 0.786281, 0.099216],
    [-0.003882, -0.048116, 1.051998],
  ],
  'medium': [
    [0.367322, 0.860646, -0.227968],
    [0.280085, 0.672501, 0.047413],
    [-0.011820, 0.042940, 0.968881],
  ],
  'short': [
    [1.255528, -0.076749, -0.178779],
    [-0.078411, 0.930809, 0.147602],
    [0.004733, 0.691367, 0.303900],
  ],
}
_TO_XYZ = [  # linear sRGB to XYZ, divided by the white of D65
  [0.433953, 0.376219, 0.189828],
  [0.212673, 0.715152, 0.072175],
  [0.017758, 0.109477, 0.872766],
]


def distance(one: str, other: str) -> float:
  """Returns the smallest distance over all kinds of vision.

  Args:
    one: colour as '#0072B2'.
    other: colour to compare it with.
  """
  lab = lambda colour, seen: _lab(np.clip(seen @ _linear(colour), 0, 1))
  return min(
    float(np.linalg.norm(lab(one, seen) - lab(other, seen)))
    for seen in map(np.array, _SEEN.values())
  )


def _linear(colour: str) -> np.ndarray:
  """Linear RGB in [0, 1]."""
  c = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
  return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def _lab(linear: np.ndarray) -> np.ndarray:
  """CIELAB of linear RGB."""
  xyz = np.array(_TO_XYZ) @ linear
  f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
  return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])
