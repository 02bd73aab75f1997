"""A row has one picture or none."""

import pickle

import numpy as np

from mmu_jax.data.row import Picture
from mmu_jax.data.row import Row


def test_a_row_has_one_picture_or_none():
  text = Row('k', 'Who?', 'Ana.', 'Ana')
  assert text.pictures == () and text.picture_key is None
  picture = Picture('p', np.zeros((2, 3, 3), np.uint8))
  shown = text._replace(picture=picture)
  assert shown.pictures[0] is picture and shown.picture_key == 'p'


def test_a_row_takes_pixels_in_place_of_a_picture():
  pixels = np.zeros((2, 3, 3), np.uint8)
  named = Row('k', 'Who?', 'Ana.', 'Ana', image=pixels, image_key='p')
  assert named.picture_key == 'p' and named.picture.image is pixels
  assert Row('k', 'Who?', 'Ana.', 'Ana', image=pixels).picture_key == 'k'
  again = pickle.loads(pickle.dumps(named._replace(person='ana')))
  assert type(again) is Row and again.person == 'ana'
