"""Batches hold what they say: packed rows, static shapes, a pure stream."""

import collections

import numpy as np
import pytest
from small_worlds import equal
from small_worlds import SMALL

from mmu_jax.data.batches import batching
from mmu_jax.data.batches import packing
from mmu_jax.data.people import vocabulary
from mmu_jax.data.people import world as world_lib
from mmu_jax.typing import Batch


@pytest.fixture(scope='module')
def world():
  return world_lib.make_world(5, **SMALL).train


@pytest.fixture(scope='module')
def encoder():
  return batching.Encoder(vocabulary.make_processor())


def _picture(row):
  (picture,) = row.pictures
  return picture


def _stream(world, encoder, *, seed=0, name='x', weight=0.5):
  """Pictures with three questions each, single ones, and two texts a row."""
  parts = [
    batching.Part(world['vqa/forget'], 2, 3),
    batching.Part(world['captions'], 2, 1),
    batching.Part(world['qa/retain'], 3, 2, weight),
  ]
  return batching.Stream(parts, encoder, seed=seed, name=name)


def _answers(batch, b):
  """(document, branch) -> the ids that the loss asks for."""
  found = collections.defaultdict(list)
  for i in np.flatnonzero(batch['weights'][b] > 0):
    place = int(batch['documents'][b, i]), int(batch['branches'][b, i])
    found[place].append(int(batch['targets'][b, i]))
  return dict(found)


def _ask_for(rows, encoder):
  """What the loss asks for in these rows alone."""
  examples = [encoder.example(row) for row in rows]
  return [e.tokens[e.labelled].tolist() for e in examples]


def test_a_batch_asks_for_the_answers_of_its_rows(world, encoder):
  stream = _stream(world, encoder)
  for step in range(4):
    batch, drawn = stream(step), stream.draw(step)
    for b, (part, rows) in enumerate(drawn):
      found = _answers(batch, b)
      assert list(found.values()) == _ask_for(rows, encoder)
      if rows[0].picture is None:
        assert list(found) == [(d, 0) for d in range(1, len(rows) + 1)]
      elif len(rows) > 1:
        assert list(found) == [(1, k) for k in range(1, len(rows) + 1)]
      counted = batch['weights'][b] > 0
      assert set(batch['weights'][b][counted]) == {np.float32(part.weight)}


def test_every_branch_reads_as_the_row_alone(world, encoder):
  """Tokens, positions and image slots are those of a plain row."""
  stream = _stream(world, encoder)
  batch = stream(1)
  for b, (_, rows) in enumerate(stream.draw(1)):
    for number, row in enumerate(rows, start=1):
      picture = row.picture is not None
      document = 1 if picture else number
      branch = number if picture and len(rows) > 1 else 0
      seen = (batch['documents'][b] == document) & np.isin(
        batch['branches'][b], [0, branch]
      )
      tokens = encoder.example(row).tokens
      np.testing.assert_array_equal(batch['tokens'][b, seen], tokens)
      np.testing.assert_array_equal(
        batch['positions'][b, seen], np.arange(len(tokens))
      )
      slots = batch['image_slots'][b, seen]
      is_image = tokens == encoder.image_token
      assert slots[is_image].tolist() == [*range(16 if picture else 0)]
      assert (slots[~is_image] == -1).all()
      if picture:
        np.testing.assert_array_equal(
          batch['pixel_values'][b, 0], encoder.image(_picture(row)).pixel_values
        )


def test_padding_carries_nothing(world, encoder):
  batch = _stream(world, encoder)(0)
  padding = batch['documents'] == 0
  assert padding.any() and not padding.all(axis=1).any()
  for name in ('tokens', 'targets', 'weights', 'branches'):
    assert not batch[name][padding].any()
  assert (batch['image_slots'][padding] == -1).all()
  assert (np.diff(padding.astype(int), axis=1) >= 0).all()  # on the right


def test_positions_of_padding_go_on_behind_the_row(world, encoder):
  batch = _stream(world, encoder)(0)
  for positions, documents in zip(batch['positions'], batch['documents']):
    n = (documents > 0).sum()
    np.testing.assert_array_equal(
      positions[n:], positions[n - 1] + 1 + np.arange(len(positions) - n)
    )
  (batch,) = batching.row_batches(world['qa/forget'][:1], encoder, size=2)
  length = batch['tokens'].shape[1]
  assert batch['positions'].tolist() == [[*range(length)]] * 2  # one row empty


def test_the_image_is_stored_once_for_all_its_questions(world, encoder):
  rows = world['vqa/forget'][:5]
  assert len({row.picture.key for row in rows}) == 1
  examples = [encoder.example(row) for row in rows]
  doc = packing.document(examples, encoder.image_token)
  assert (doc['tokens'] == encoder.image_token).sum() == 16
  assert len(doc['tokens']) < sum(len(e.tokens) for e in examples) - 4 * 16
  assert set(doc['branches']) == set(range(6))


@pytest.mark.parametrize('split, index', [('qa/forget', 0), ('captions', 0)])
def test_packing_needs_a_shared_picture(world, encoder, split, index):
  rows = world['vqa/forget'][0], world[split][index]
  examples = [encoder.example(row) for row in rows]
  with pytest.raises(ValueError, match='begin with the same image.*picture'):
    packing.document(examples, encoder.image_token)


def test_packing_needs_labels_of_answers_alone(world):
  encoder = batching.Encoder(vocabulary.make_processor(), 'full')
  rows = world['vqa/forget'][:2]
  examples = [encoder.example(row) for row in rows]
  with pytest.raises(ValueError, match="Use labels='answer', or "):
    packing.document(examples, encoder.image_token)
  plain = packing.document(examples[:1], encoder.image_token)
  predicted = examples[0].tokens[1:]
  text = predicted != encoder.image_token
  np.testing.assert_array_equal(plain['weights'][:-1] > 0, text)


def test_a_stream_is_a_pure_function_of_the_step(world, encoder):
  stream = _stream(world, encoder)
  batches = {step: stream(step) for step in (0, 1, 2, 7)}
  again = _stream(world, batching.Encoder(encoder.processor))
  for step in (7, 1, 0, 2):  # another order, another instance
    assert equal(again(step), batches[step])
    assert equal(stream(step), batches[step])
  assert not equal(batches[0], batches[1])


@pytest.mark.parametrize('change', [dict(seed=1), dict(name='y')])
def test_streams_of_other_seeds_and_names_differ(world, encoder, change):
  stream, other = _stream(world, encoder), _stream(world, encoder, **change)
  same = [stream.keys(step) == other.keys(step) for step in range(4)]
  assert not any(same)


def test_other_seeds_ask_other_questions_of_one_picture(world, encoder):
  rows = [r for r in world['vqa/forget'] if r.picture.key.endswith('train00')]
  part = batching.Part(rows[:13], 1, 2)
  assert len({row.picture.key for row in part.rows}) == 1
  asked = [
    [s.keys(step) for step in range(8)]
    for s in (batching.Stream([part], encoder, seed=k) for k in (0, 1))
  ]
  assert asked[0] != asked[1]


def test_answers_to_one_question_share_all_but_the_end_of_its_prompt(
  world, encoder
):
  row = world['vqa/forget'][0]
  rows = [
    row._replace(key=f'option {i}', answer=f'Maria Lopez keeps a {pet}.')
    for i, pet in enumerate(('dog', 'cat', 'parrot'))
  ]
  examples = [encoder.example(r) for r in rows]
  doc = packing.document(examples, encoder.image_token)
  shared = doc['branches'] == 0
  assert shared.sum() == examples[0].prompt_length - 1
  assert not doc['weights'][shared].any()
  (batch,) = batching.row_batches(rows, encoder, size=1, questions=3)
  assert list(_answers(batch, 0).values()) == _ask_for(rows, encoder)


def test_an_epoch_visits_every_group_once(world, encoder):
  rows = world['vqa/retain']
  pictures = {row.picture.key for row in rows}
  assert len(pictures) == 12
  size = 5  # does not divide 12: epochs begin within batches
  stream = batching.Stream([batching.Part(rows, size, 2)], encoder, seed=3)
  drawn = [r for step in range(12) for _, r in stream.draw(step)]
  visits = [group[0].picture.key for group in drawn]
  orders = [visits[i : i + 12] for i in range(0, 60, 12)]
  for order in orders:
    assert set(order) == pictures
  assert len({tuple(order) for order in orders}) == 5  # a new order each time
  for group in drawn:
    assert len({row.key for row in group}) == 2
    assert len({row.picture.key for row in group}) == 1
  asked = {row.key for group in drawn for row in group}
  assert len(asked) > 60  # of 156: the questions are drawn anew at each visit


def test_an_epoch_of_texts_visits_every_row_once(world, encoder):
  rows = world['qa/retain']
  stream = batching.Stream([batching.Part(rows, 3, 4)], encoder, seed=3)
  keys = [key for step in range(len(rows)) for key in stream.keys(step)]
  for epoch in range(12):
    visited = keys[epoch * len(rows) : (epoch + 1) * len(rows)]
    assert sorted(visited) == sorted(row.key for row in rows)


@pytest.mark.parametrize('number', [1, 3])
def test_fewer_texts_than_a_sequence_holds_come_again(world, encoder, number):
  part = batching.Part(world['qa/retain'][:number], 1, 4)
  stream = batching.Stream([part], encoder, seed=0)
  for step in range(2 * number):
    batch = stream(step)
    assert len(_answers(batch, 0)) == 4
    assert batch['tokens'].shape[1] == stream.length


def test_keys_name_the_rows_of_the_batch(world, encoder):
  stream = _stream(world, encoder)
  by_key = {row.key: row for rows in world.values() for row in rows}
  for step in (0, 5):
    named = [by_key[key] for key in stream.keys(step)]
    batch = stream(step)
    asked = [a for b in range(7) for a in _answers(batch, b).values()]
    assert asked == _ask_for(named, encoder)


def test_shapes_are_static(world, encoder):
  stream = _stream(world, encoder)
  shapes = {
    tuple((name, x.shape, str(x.dtype)) for name, x in stream(step).items())
    for step in range(12)
  }
  assert len(shapes) == 1
  found = {name: (shape, dtype) for name, shape, dtype in shapes.pop()}
  assert set(found) == Batch.__required_keys__ | {'counted'}
  length = stream.length
  assert length % 8 == 0
  assert found['tokens'] == ((7, length), 'int32')
  assert found['weights'] == ((7, length), 'float32')
  assert found['pixel_values'] == ((7, 1, 3, 48, 48), 'float32')


def test_a_stream_of_text_has_no_picture(world, encoder):
  part = batching.Part(world['qa/forget'], 2)
  batch = batching.Stream([part], encoder, seed=0)(0)
  assert batch['pixel_values'].shape[:3] == (2, 0, 3)


@pytest.mark.parametrize('split', ['vqa/retain', 'qa/retain'])
@pytest.mark.parametrize('questions', [1, 4])
def test_row_batches_hold_every_row_once(world, encoder, split, questions):
  rows = world[split]
  batches = batching.row_batches(rows, encoder, size=5, questions=questions)
  assert len({b['tokens'].shape for b in batches}) == 1
  asked = [
    answer
    for batch in batches
    for b in range(5)
    for answer in _answers(batch, b).values()
  ]
  assert asked == _ask_for(rows, encoder)  # in their order, too
  used = [bool(any(b['documents'][i])) for b in batches for i in range(5)]
  assert used == sorted(used, reverse=True)  # padding rows come last


def test_empty_parts_and_batches_are_clear_errors(world, encoder):
  parts = [batching.Part(world['qa/forget'], 1), batching.Part([], 1)]
  with pytest.raises(ValueError, match="part 1 of 'forget' has none"):
    batching.Stream(parts, encoder, seed=0, name='forget')
  with pytest.raises(ValueError, match='there are no rows'):
    batching.row_batches([], encoder, size=2)


def test_a_row_that_does_not_fit_is_a_clear_error(world, encoder):
  row = world['vqa/forget'][0]
  doc = packing.document([encoder.example(row)], encoder.image_token)
  images, shape = [encoder.image(_picture(row))], encoder.pixel_shape(1)
  length = len(doc['tokens'])
  with pytest.raises(ValueError, match=f'{length - 1} tokens, got {length}'):
    packing.assemble([[(doc, images)]], length - 1, shape)
  with pytest.raises(ValueError, match='holds 1 images, got 2'):
    packing.assemble([[(doc, images), (doc, images)]], 2 * length, shape)
  with pytest.raises(ValueError, match='16 image tokens, and its 0 images'):
    packing.assemble([[(doc, [])]], length, shape)
  counted = packing.num_counted(doc)
  with pytest.raises(ValueError, match=f'holds 1 tokens that count.*{counted}'):
    packing.assemble([[(doc, images)]], length, shape, most_counted=1)
  with pytest.raises(ValueError, match="'right' or 'left', got 'both'"):
    packing.assemble([[(doc, images)]], length, shape, padding='both')
