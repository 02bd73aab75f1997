"""Names beside the points of a plot, so that nothing covers anything."""

from collections.abc import Sequence

import numpy as np

_RINGS = 40  # places to try, from near to far
_ANGLES = np.deg2rad([0, 30, -30, 180, 90, -90, 150, -150, 60, -60])


def _overlaps(a, b) -> bool:
  """Whether two boxes ``(x0, y0, x1, y1)`` share a point."""
  return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def place_labels(ax, points: dict, colours: dict, avoid: Sequence = ()):
  """Names beside their points, moved until nothing covers anything.

  Every label tries rings of places around its point, nearest first, and takes
  the first one that is inside the axes and free of points, other labels and
  ``avoid`` (paths ``[[(x, y), ...]]``); a thin line joins it to its point where
  it is not next to it.
  """
  figure = ax.figure
  figure.draw_without_rendering()
  renderer = figure.canvas.get_renderer()
  at = {run: ax.transData.transform(xy) for run, xy in points.items()}
  r = 4 * figure.dpi / 72  # the half width of a marker
  taken = [(x - r, y - r, x + r, y + r) for x, y in at.values()]
  taken += _covered(ax, avoid, r)
  for run in sorted(points, key=lambda run: -points[run][1]):
    text = ax.annotate(
      run,
      points[run],
      xytext=(0, 0),
      textcoords='offset points',
      fontsize=8.5,
      color=colours[run],
      va='center',
      annotation_clip=False,
    )
    text.set_in_layout(False)
    extent = text.get_window_extent(renderer)
    x, y = at[run]
    frame = ax.get_window_extent(renderer)
    ring, box = _spot(x, y, extent.width, extent.height, r, frame, taken)
    taken.append(box)
    scale = 72 / figure.dpi
    middle = (box[1] + box[3]) / 2
    text.set_position(((box[0] - x) * scale, (middle - y) * scale))
    if ring > 3:
      end = ax.transData.inverted().transform(
        (min(max(x, box[0]), box[2]), min(max(y, box[1]), box[3]))
      )
      ax.plot(*zip(points[run], end), color=colours[run], lw=0.6, alpha=0.6)


def _covered(ax, paths, r: float) -> list[tuple]:
  """Small boxes along paths, in pixels."""
  boxes = []
  for path in paths:
    ends = ax.transData.transform(path)
    for a, b in zip(ends[:-1], ends[1:]):
      steps = np.linspace(a, b, 2 + int(np.hypot(*(b - a)) / r))
      boxes += [(x - 1, y - 1, x + 1, y + 1) for x, y in steps]
  return boxes


def _spot(x, y, w, h, r, frame, taken) -> tuple[int, tuple]:
  """The ring and the box of the first free place; the last one if none is."""
  for ring in range(1, _RINGS):
    for angle in _ANGLES:
      dx = np.cos(angle) * r * (1 + 1.2 * ring)
      dy = np.sin(angle) * r * (1 + 1.2 * ring)
      left = dx if dx > 1 else dx - w if dx < -1 else -w / 2
      box = (x + left, y + dy - h / 2, x + left + w, y + dy + h / 2)
      inside = frame.x0 + r <= box[0] and box[2] <= frame.x1
      inside &= frame.y0 <= box[1] and box[3] <= frame.y1
      if inside and not any(_overlaps(box, other) for other in taken):
        return ring, box
  return ring, box
