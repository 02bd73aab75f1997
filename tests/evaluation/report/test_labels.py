"""Names in plots can be read."""

from shown import people
from shown import SCORES

from mmu_jax.evaluation.report import plots


def test_labels_do_not_cover_each_other():
  crowd = {f'method_{i}': SCORES['mmunlearner'] for i in range(8)}
  figure = plots.tradeoff(people(SCORES | crowd))
  figure.canvas.draw()
  boxes = [text.get_window_extent() for text in figure.axes[0].texts]
  for i, box in enumerate(boxes):
    # A pixel of tolerance: text extents are rounded to whole pixels.
    small = box.padded(-1)
    assert not any(small.overlaps(other.padded(-1)) for other in boxes[:i])
