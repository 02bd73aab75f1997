"""Hosts share a batch, and every stream has one shape, whatever it draws."""

import itertools

import folders
import numpy as np
import pytest
import small_worlds

from mmu_jax.data.batches import batching
from mmu_jax.data.people import vocabulary
from mmu_jax.data.people import world as world_lib
from mmu_jax.data.row import Picture
from mmu_jax.data.row import Row

FAMILIES = ('llava', 'llava_next', 'qwen2_vl')


@pytest.fixture(scope='module')
def world():
  return world_lib.make_world(5, **small_worlds.SMALL).train


@pytest.fixture(scope='module')
def encoder():
  return batching.Encoder(vocabulary.make_processor())


def _random_parts(rng, world):
  """Up to three parts of random splits and sizes."""
  splits = sorted(split for split, rows in world.items() if rows)
  chosen = rng.choice(splits, rng.integers(1, 4), replace=False)
  return [
    batching.Part(world[s], int(rng.integers(1, 7)), int(rng.integers(1, 4)))
    for s in chosen
  ]


def _stretch(host, size):
  """The rows of a host that makes ``size`` of every batch."""
  return lambda _: range(host * size, (host + 1) * size)


def _shapes(batch):
  return {name: (x.shape, x.dtype) for name, x in batch.items()}


@pytest.mark.parametrize('seed', range(25))
def test_the_hosts_together_make_the_batch_of_one(seed, world, encoder):
  """Random parts, sizes, numbers of hosts, seeds and steps."""
  rng = np.random.default_rng(seed)
  parts = _random_parts(rng, world)
  total = sum(part.size for part in parts)
  hosts = int(rng.integers(1, 7))
  padded = -(-total // hosts) * hosts
  options = dict(seed=seed, name=f'stream {seed}')
  alone = batching.Stream(parts, encoder, **options)
  streams = [
    batching.Stream(
      parts, encoder, share=_stretch(h, padded // hosts), **options
    )
    for h in range(hosts)
  ]
  for step in rng.integers(0, 200, 3):
    batches = [stream(step) for stream in streams]
    assert len({str(_shapes(batch)) for batch in batches}) == 1
    assert len(batches[0]['tokens']) == padded // hosts
    for name, whole in alone(step).items():
      together = np.concatenate([batch[name] for batch in batches])
      np.testing.assert_array_equal(together[:total], whole)
      if name in ('documents', 'weights'):
        assert not together[total:].any()
    drawn = [rows for stream in streams for rows in stream.draw(step)]
    assert drawn == alone.draw(step)
    assert {tuple(stream.keys(step)) for stream in streams} == {
      tuple(alone.keys(step))
    }


@pytest.mark.parametrize('seed', range(5))
def test_a_stream_goes_on_from_the_step_alone(seed, world, encoder):
  """On every host: a new instance at step n gives what the first gave."""
  rng = np.random.default_rng(100 + seed)
  part = batching.Part(world['vqa/retain'], 4, 2)
  host = dict(seed=seed, share=_stretch(int(rng.integers(2)), 2))
  first = batching.Stream([part], encoder, **host)
  for step in range(6):
    first(step)
  step = int(rng.integers(6, 100))
  again = batching.Stream([part], encoder, **host)
  for later in (step, step + 1):
    assert small_worlds.equal(again(later), first(later))


def test_a_step_is_an_epoch_and_a_step_of_it(world, encoder):
  """12 pictures, 4 a step: step 3 e + s is step s of epoch e."""
  rows = world['vqa/retain']
  stream = batching.Stream([batching.Part(rows, 4, 1)], encoder, seed=0)
  for epoch in range(4):
    seen = {
      rows[0].picture.key
      for s in range(3)
      for _, rows in stream.draw(3 * epoch + s)
    }
    assert len(seen) == 12


def test_a_host_may_hold_nothing_but_padding(world, encoder):
  """As of 3 rows on 8 devices: shapes are those of the other hosts."""
  part = batching.Part(world['vqa/forget'], 3)
  empty = batching.Stream([part], encoder, seed=0, share=lambda n: [n, n + 1])
  real = batching.Stream([part], encoder, seed=0, share=lambda n: [0, 1])
  assert empty.draw(0) == []
  assert _shapes(empty(0)) == _shapes(real(0))
  assert not empty(0)['documents'].any() and not empty(0)['weights'].any()
  assert empty.keys(0) == real.keys(0)


def _rows_of_all_sizes(rng, number):
  """Rows about pictures of many sizes, with words of many lengths."""
  rows = []
  for i in range(number):
    height, width = rng.integers(8, 60, 2)
    picture = folders.picture(i, height, width)
    for k in range(rng.integers(1, 4)):
      words = 'the red house ' * int(rng.integers(1, 9))
      rows.append(
        Row(
          f'{i}/{k}',
          f'What {words}?',
          f'It is {words}.',
          '',
          Picture(f'picture {i}', picture),
        )
      )
  return rows


@pytest.mark.parametrize('family', FAMILIES)
def test_a_stream_of_pictures_of_all_sizes_has_one_shape(family, tmp_path):
  """Pictures and texts in one batch, for every kind of processor."""
  encoder = batching.Encoder(folders.load(tmp_path, family))
  rng = np.random.default_rng(3)
  rows = _rows_of_all_sizes(rng, 12)
  texts = [row._replace(key=f'text {row.key}', picture=None) for row in rows]
  sizes = {encoder.room(encoder.example(row).pictures) for row in rows}
  assert len(sizes) == {'llava': 1, 'llava_next': 2, 'qwen2_vl': 5}[family]
  parts = [batching.Part(rows, 3, 2), batching.Part(texts, 1, 3)]
  streams = [
    batching.Stream(parts, encoder, seed=1, share=_stretch(h, 2))
    for h in range(2)
  ]
  found = {
    str(_shapes(stream(step))) for step in range(30) for stream in streams
  }
  assert len(found) == 1
  batch = streams[0](0)
  assert batch['tokens'].shape == (2, streams[0].length)
  assert streams[0].length % 8 == 0
  shape = {
    'llava': (2, 1, 3, 30, 30),
    'llava_next': (2, 5, 3, 30, 30),
    'qwen2_vl': (2, 32, 96),
  }
  assert batch['pixel_values'].shape == shape[family]


@pytest.mark.parametrize('family', FAMILIES)
def test_no_step_is_longer_than_the_stream_says(family, tmp_path):
  """The longest a stream can draw is found without drawing it."""
  encoder = batching.Encoder(folders.load(tmp_path, family))
  rows = _rows_of_all_sizes(np.random.default_rng(4), 6)
  stream = batching.Stream([batching.Part(rows, 2, 3)], encoder, seed=0)
  longest = max(
    int((batch['documents'] > 0).sum(1).max())
    for batch in map(stream, range(12))
  )
  assert stream.length - 8 < longest <= stream.length


@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize('labels', ['answer', 'full'])
def test_the_places_that_count_are_those_with_a_weight(
  family, labels, tmp_path
):
  processor = folders.load(tmp_path, family)
  encoder = batching.Encoder(processor, labels=labels)
  rows = _rows_of_all_sizes(np.random.default_rng(7), 6)
  questions = 3 if labels == 'answer' else 1
  stream = batching.Stream([batching.Part(rows, 2, questions)], encoder, seed=0)
  most = 0
  for step in range(12):
    batch = stream(step)
    assert batch['counted'].shape == (2, stream.most_counted)
    for places, weights in zip(batch['counted'], batch['weights']):
      want = np.flatnonzero(weights)
      np.testing.assert_array_equal(places[: len(want)], want)
      assert (places[len(want) :] == -1).all()
      most = max(most, len(want))
  assert stream.most_counted - 8 < most <= stream.most_counted


@pytest.mark.parametrize(
  'split, size, questions',
  [('vqa/retain', 3, 2), ('vqa/retain', 100, 1), ('qa/retain', 2, 3)],
)
def test_an_epoch_draws_every_picture_or_text_row(
  split, size, questions, world, encoder
):
  rows = world[split]
  stream = batching.Stream(
    [batching.Part(rows, size, questions)], encoder, seed=1
  )
  seen = lambda steps: {
    row.picture_key or row.key
    for step in range(steps)
    for _, drawn in stream.draw(step)
    for row in drawn
  }
  wanted = {row.picture_key or row.key for row in rows}
  assert seen(stream.steps_per_epoch) == wanted
  if stream.steps_per_epoch > 1:
    assert seen(stream.steps_per_epoch - 1) < wanted


def _texts(rng, number):
  """Text rows of very unequal lengths."""
  said = lambda most: ' '.join(['red'] * int(rng.integers(1, most)))
  return [
    Row(f'text {i}', f'{said(9)}?', f'{said(60)}.', '') for i in range(number)
  ]


def _tokens(rows, encoder):
  """The tokens of a sequence of texts."""
  return sum(len(encoder.example(row).tokens) for row in rows)


@pytest.mark.parametrize('seed', range(40))
def test_no_sequence_of_texts_is_longer_than_the_stream(seed):
  """From one row up, fewer than the questions or more, over many epochs."""
  rng = np.random.default_rng(seed)
  encoder = batching.Encoder(vocabulary.make_processor())
  rows = _texts(rng, int(rng.integers(1, 24)))
  size, questions = int(rng.integers(1, 4)), int(rng.integers(1, 20))
  part = batching.Part(rows, size, questions)
  stream = batching.Stream([part], encoder, seed=seed)
  drawn = {
    step: max(_tokens(rows, encoder) for _, rows in stream.draw(step))
    for step in range(6 * len(rows))
  }
  longest = max(drawn, key=drawn.get)
  batch = stream(longest)
  assert (batch['documents'] > 0).sum(1).max() == drawn[longest]
  assert drawn[longest] <= stream.length
  counted = lambda row: sum(encoder.example(row).labelled[1:])
  most = max(
    sum(map(counted, rows))
    for step in range(6 * len(rows))
    for _, rows in stream.draw(step)
  )
  assert most <= stream.most_counted


@pytest.mark.parametrize('number', range(1, 4))
@pytest.mark.parametrize('questions', range(1, 7))
def test_the_length_of_texts_is_the_least_that_holds_any_order(
  number, questions
):
  """Every order of every epoch, at every place where a sequence can begin."""
  rng = np.random.default_rng(number)
  encoder = batching.Encoder(vocabulary.make_processor())
  rows = _texts(rng, number)
  part = batching.Part(rows, 2, questions)
  orders = list(itertools.permutations(rows))
  longest = 0
  for begin in {questions * k % number for k in range(number)}:
    epochs = -(-(begin + questions) // number)
    for chosen in itertools.product(orders, repeat=epochs):
      visits = list(itertools.chain(*chosen))[begin : begin + questions]
      longest = max(longest, _tokens(visits, encoder))
  stream = batching.Stream([part], encoder, seed=0)
  assert stream.length == -(-longest // 8) * 8
