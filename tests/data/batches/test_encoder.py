"""An encoder remembers rows and pictures, and takes none for another."""

import numpy as np
from small_worlds import SMALL

from mmu_jax.data.batches.encoder import Encoder
from mmu_jax.data.people import vocabulary
from mmu_jax.data.people import world as world_lib
from mmu_jax.data.row import Picture


def _rows(split):
  return world_lib.make_world(5, **SMALL).train[split]


def test_an_encoder_gives_each_row_its_own_tokens():
  row = _rows('qa/forget')[0]
  encoder = Encoder(vocabulary.make_processor())
  assert encoder.example(row) is encoder.example(row)
  # By its key alone the first answer would be found again.
  other = row._replace(answer='Maria Lopez likes soup.')
  assert encoder.example(other).tokens.tolist() != (
    encoder.example(row).tokens.tolist()
  )
  assert encoder.example(other).row == other


def test_rows_of_one_key_keep_their_own_task_and_picture():
  """A gate asks rows of a task as choices, and about pictures of others."""
  first, second = _rows('vqa/forget')[:2]
  encoder = Encoder(vocabulary.make_processor())
  encoder.example(first)
  choice = first._replace(options=('yes', 'no'))
  assert encoder.example(choice).row.options == ('yes', 'no')
  image = np.asarray(second.picture.image)[::-1].copy()
  shown = first._replace(picture=Picture(first.picture_key, image))
  assert encoder.example(shown).pictures[0].image is image
  assert encoder.example(first).row.picture is first.picture


def test_pictures_of_one_key_keep_their_own_pixels():
  picture = _rows('vqa/forget')[0].picture
  encoder = Encoder(vocabulary.make_processor())
  whole = encoder.image(picture).pixel_values
  assert encoder.image(picture).pixel_values is whole
  mirrored = Picture(picture.key, np.asarray(picture.image)[:, ::-1].copy())
  assert np.array_equal(encoder.image(mirrored).pixel_values, whole[..., ::-1])
  assert np.array_equal(encoder.image(picture).pixel_values, whole)
