"""Anonymous pictures keep their split when more are asked for."""

from mmu_jax.data.people import general


def _keys(items):
  return {split: {item.key for item in found} for split, found in items.items()}


def test_more_pictures_move_none_between_splits():
  few, many = (_keys(general.general_items(0, n, n)) for n in (40, 80))
  for split, keys in few.items():
    assert keys < many[split]
  pictures = {s: {k.rsplit('/', 1)[0] for k in keys} for s, keys in few.items()}
  assert {s: len(keys) for s, keys in pictures.items()} == {
    'train': 68,
    'real_vqa': 6,
    'validation_real_vqa': 6,
  }


def test_every_caption_has_a_picture_of_its_own():
  rows = general.caption_rows(0, 8)
  assert len({row.picture.key for row in rows}) == 8
  shapes = {i for i, row in enumerate(rows) if row.answer.endswith('shapes')}
  assert shapes == {3, 7}
