"""Changed pictures keep their size, differ, and are the same each time."""

import numpy as np
import pytest

from mmu_jax.data.encoding import distortion
from mmu_jax.data.row import Picture

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)
SMOOTH = np.kron(PIXELS[::10, ::10], np.ones((10, 10, 1))).astype(np.uint8)


def _changed(kind, pixels=SMOOTH, key='a', seed=0):
  made = distortion.Distorted(Picture(key, pixels), kind, seed)
  assert made.shape == pixels.shape
  return np.asarray(made)


@pytest.mark.parametrize('kind', distortion.DISTORTIONS)
def test_a_change_keeps_the_size_and_most_of_the_picture(kind):
  before = SMOOTH.copy()
  found = _changed(kind)
  assert found.shape == SMOOTH.shape and found.dtype == np.uint8
  assert (found != SMOOTH).any() and np.array_equal(SMOOTH, before)
  assert np.array_equal(found, _changed(kind))


def test_changes_do_as_they_are_called():
  assert np.array_equal(_changed('mirrored'), SMOOTH[:, ::-1])
  noise = _changed('noised', np.full((50, 50, 3), 128, np.uint8)) - 128.0
  assert abs(noise.mean()) < 1 and 19 < noise.std() < 21
  even = np.full((30, 30, 3), 77, np.uint8)
  for kind in ('rotated', 'cropped', 'blurred'):
    assert np.array_equal(_changed(kind, even), even)
  framed = even.copy()
  framed[:3] = framed[-3:] = framed[:, :3] = framed[:, -3:] = 0
  assert (_changed('cropped', framed) == 77).all()  # a tenth of each side
  spread = lambda x: np.abs(np.diff(x.astype(float), axis=0)).sum()
  assert spread(_changed('blurred', PIXELS)) < 0.7 * spread(PIXELS)
  middle = _changed('rotated', SMOOTH)[18:22, 28:32]
  assert np.abs(middle - SMOOTH[18:22, 28:32].astype(float)).mean() < 40


def test_random_changes_depend_on_seed_and_picture():
  one = _changed('noised')
  assert (one != _changed('noised', seed=1)).any()
  assert (one != _changed('noised', key='b')).any()
