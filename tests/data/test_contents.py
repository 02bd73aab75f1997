"""The content of a dataset names every row, field and pixel."""

import functools
import io

import numpy as np
import PIL.Image
import pytest

from mmu_jax.data import contents
from mmu_jax.data.dataset import Dataset
from mmu_jax.data.dataset import Task
from mmu_jax.data.encoding.images import LazyImage
from mmu_jax.data.people.items import Drawing
from mmu_jax.data.row import Picture
from mmu_jax.data.row import Row


def _image(seed):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (5, 4, 3)).astype(np.uint8)


def _data(change=lambda rows: rows, image=None):
  picture = Picture('p', _image(0) if image is None else image)
  rows = change(
    [
      Row('a', 'Who?', 'Ada', 'Ada', picture),
      Row('b', 'Where?', 'Oslo', 'Oslo', picture, options=('Oslo', 'Rome')),
      Row('c', 'When?', 'Then', 'Then'),
    ]
  )
  task = Task('forget_vqa', rows[:2], 'forget', 'vqa', 'forget')
  return contents.digest(Dataset({'vqa/forget': rows}, {task.name: task}, {}))


def test_the_same_rows_have_the_same_content():
  assert _data() == _data()
  assert set(_data()) == {'train vqa/forget', 'task forget_vqa', 'shown'}
  assert _data()['train vqa/forget'].startswith('3 rows, ')


@pytest.mark.parametrize(
  'change',
  [
    lambda rows: rows[::-1],
    lambda rows: rows[1:],
    lambda rows: [rows[0]._replace(answer='Eve'), *rows[1:]],
    lambda rows: [rows[0]._replace(key='d'), *rows[1:]],
    lambda rows: [rows[0]._replace(picture=None), *rows[1:]],
    lambda rows: [*rows[:1], rows[1]._replace(options=('Oslo', 'Bonn'))],
  ],
)
def test_every_change_of_a_row_is_seen(change):
  assert _data(change)['train vqa/forget'] != _data()['train vqa/forget']


def test_one_pixel_is_seen_in_every_split_that_shows_it():
  image = _image(0)
  image[2, 3, 1] ^= 1
  changed, same = _data(image=image), _data()
  assert {name for name in same if changed[name] != same[name]} == {
    *('train vqa/forget', 'task forget_vqa')
  }


_OTHER = {
  'name': 'a',
  'split': 'retain',
  'modality': 'qa',
  'role': 'keep',
  'holdout': True,
  'reported': False,
  'headline': True,
}


@pytest.mark.parametrize('field', sorted(set(Task._fields) - {'rows'}))
def test_how_a_task_is_meant_counts(field):
  task = Task('t', [Row('c', 'When?', 'Then', 'Then')], 'forget', 'vqa', 'keep')
  task = task._replace(role='forget')
  other = task._replace(**{field: _OTHER[field]})
  found = [contents.digest(Dataset({}, {'t': t}, {})) for t in (task, other)]
  assert found[0]['task t'] != found[1]['task t']
  assert found[0]['shown'] == found[1]['shown']


@pytest.mark.parametrize('field', ['layout', 'protocol', 'official', 'names'])
def test_how_a_dataset_asks_and_shows_counts(field):
  data = Dataset({}, {}, {})
  other = data._replace(**{field: {'a': 'b'} if field == 'names' else 'other'})
  assert contents.digest(data)['shown'] != contents.digest(other)['shown']


def test_of_drawn_pictures_one_of_each_split_is_drawn():
  """And their keys count."""
  drawn = []

  def rows(keys, seed=0):
    def draw(key):
      drawn.append(key)
      return _image(seed)

    pictures = [
      Picture(key, Drawing(functools.partial(draw, key))) for key in keys
    ]
    made = [Row(p.key, 'Who?', 'Ada', 'Ada', p) for p in pictures]
    return contents.digest(Dataset({'a': made}, {}, {}))['train a']

  same = rows('abc')
  assert drawn == ['a'] and rows('abc') == same
  assert rows('abd') != same and rows('abc', seed=1) != same


def test_a_file_counts_with_its_bytes(tmp_path):
  path = tmp_path / 'a.png'
  PIL.Image.fromarray(_image(1)).save(path)
  found = _data(image=LazyImage(path, 'row 1'))
  assert found == _data(image=LazyImage(path.read_bytes(), 'elsewhere'))
  other = io.BytesIO()
  PIL.Image.fromarray(_image(2)).save(other, 'PNG')
  path.write_bytes(other.getvalue())
  assert found != _data(image=LazyImage(path, 'row 1'))
