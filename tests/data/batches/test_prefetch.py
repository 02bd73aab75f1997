"""Batches made ahead are those of the stream, few, and end with the run."""

import threading
import weakref

import numpy as np
import pytest
import small_worlds

from mmu_jax.data.batches import batching
from mmu_jax.data.batches import prefetch
from mmu_jax.data.people import vocabulary
from mmu_jax.data.people import world as world_lib

WAIT = 20  # seconds until a test gives up


class Counted:
  """A stream that notes when and how often each step was made."""

  def __init__(self, bad=()):
    self.made, self.bad = [], bad
    self._changed = threading.Condition()

  def __call__(self, step):
    with self._changed:
      self.made.append(step)
      self._changed.notify_all()
    if step in self.bad:
      raise OSError(f'the image of row {step} is damaged')
    return {'tokens': np.full(3, step)}

  def keys(self, step):
    return [f'row {step}/{i}' for i in range(9)]

  def wait_for(self, step):
    """Whether a step is made before the time is over."""
    with self._changed:
      return self._changed.wait_for(lambda: step in self.made, WAIT)


def _threads():
  return [t for t in threading.enumerate() if t.name.startswith('prefetch')]


def test_steps_in_any_order_give_the_batches_of_the_stream():
  for seed in range(20):
    rng = np.random.default_rng(seed)
    ahead, workers = int(rng.integers(1, 5)), int(rng.integers(1, 4))
    with prefetch.Prefetch(Counted(), ahead=ahead, workers=workers) as stream:
      for start in rng.integers(0, 50, 6):
        for step in range(start, start + rng.integers(1, 5)):
          assert stream(step)['tokens'].tolist() == [step] * 3


@pytest.mark.parametrize('ahead', [1, 3])
def test_the_next_steps_are_made_before_they_are_asked_for(ahead):
  counted = Counted()
  with prefetch.Prefetch(counted, ahead=ahead) as stream:
    stream(5)
    assert counted.wait_for(5 + ahead)
    assert counted.made == [*range(5, 6 + ahead)]


def test_each_step_of_a_run_is_made_once():
  counted = Counted()
  with prefetch.Prefetch(counted, ahead=2, workers=2) as stream:
    for step in range(3, 30):
      stream(step)
      stream(step)  # two turns of a round may ask for the same one
    assert counted.wait_for(31)
  assert sorted(counted.made) == [*range(3, 32)]


def test_steps_out_of_order_are_not_made_ahead():
  """Else every step of such a run would cost three."""
  counted = Counted()
  with prefetch.Prefetch(counted, ahead=2) as stream:
    stream(0)
    for step in (10, 20, 30, 40):
      stream(step)
  assert set(counted.made) - {1, 2} == {0, 10, 20, 30, 40}


@pytest.mark.parametrize('ahead', [1, 4])
def test_at_most_the_next_steps_are_in_memory(ahead):
  alive = weakref.WeakSet()

  class Made(np.ndarray):
    """An array that can be watched."""

    __hash__ = object.__hash__

  def make(step):
    array = np.full(3, step).view(Made)
    alive.add(array)
    return {'tokens': array}

  most = 0
  with prefetch.Prefetch(make, ahead=ahead, workers=2) as stream:
    for step in range(50):
      stream(step)
      most = max(most, len(alive))
  assert 1 <= most <= ahead + 1


def test_an_error_is_raised_at_its_step_with_the_rows():
  with prefetch.Prefetch(Counted(bad={3}), ahead=3) as stream:
    for step in (0, 1, 2):
      assert stream(step)['tokens'][0] == step
    match = r'step 3 \(rows row 3/0, .*row 3/7; 9 in all\).*row 3 is damaged'
    with pytest.raises(ValueError, match=match) as caught:
      stream(3)
    assert isinstance(caught.value.__cause__, OSError)
    assert stream(4)['tokens'][0] == 4
    with pytest.raises(ValueError, match='step 3'):
      stream(3)


def test_an_error_in_a_step_that_nobody_asks_for_is_not_raised():
  """The last steps of a run are followed by some that are never taken."""
  counted = Counted(bad={3})
  with prefetch.Prefetch(counted, ahead=2) as stream:
    for step in (0, 1, 2):
      stream(step)
    assert counted.wait_for(4)


def test_a_fault_of_the_code_keeps_its_traceback():
  def fault(step):
    return {}['tokens']

  with prefetch.Prefetch(fault) as stream:
    with pytest.raises(RuntimeError, match='batch of step 0') as caught:
      stream(0)
    assert isinstance(caught.value.__cause__, KeyError)


def test_an_interrupt_stays_an_interrupt():
  def interrupt(step):
    raise KeyboardInterrupt

  with prefetch.Prefetch(interrupt) as stream:
    with pytest.raises(KeyboardInterrupt):
      stream(0)


def test_a_step_that_failed_is_tried_again():
  counted = Counted(bad={0})
  with prefetch.Prefetch(counted) as stream:
    with pytest.raises(ValueError):
      stream(0)
    counted.bad = ()
    assert stream(0)['tokens'][0] == 0


@pytest.mark.parametrize('error', [None, ZeroDivisionError])
def test_threads_end_with_the_run(error):
  streams = {'forget': Counted(), 'retain': Counted()}
  try:
    with prefetch.prefetched(streams) as made:
      for name in streams:
        made[name](0)
      assert len(_threads()) == 2
      if error:
        raise error
  except ZeroDivisionError:
    pass
  assert not _threads()
  with pytest.raises(RuntimeError, match='step 1 .* closed'):
    made['forget'](1)


def test_keys_pass_through():
  with prefetch.Prefetch(Counted()) as stream:
    assert stream.keys(2)[0] == 'row 2/0'
  with prefetch.Prefetch(lambda step: step) as stream:
    assert stream.keys(2) == ['?']


@pytest.mark.parametrize('wrong', [dict(ahead=0), dict(workers=0)])
def test_numbers_below_one_are_a_clear_error(wrong):
  with pytest.raises(ValueError, match='at least 1, got'):
    prefetch.Prefetch(Counted(), **wrong)


def test_threads_share_an_encoder_that_keeps_no_pixels():
  """Two streams, two threads each, and the batches are those made alone."""
  world = world_lib.make_world(5, **small_worlds.SMALL).train
  streams = {}
  for name in ('threads', 'alone'):
    encoder = batching.Encoder(vocabulary.make_processor(), max_bytes=0)
    parts = [batching.Part(world['vqa/retain'], 3, 2)]
    streams[name] = [
      batching.Stream(parts, encoder, seed=seed) for seed in (0, 1)
    ]
  one, two = streams['threads']
  with prefetch.Prefetch(one, workers=2) as first:
    with prefetch.Prefetch(two, workers=2) as second:
      for step in range(12):
        for made, alone in zip((first, second), streams['alone']):
          batch, wanted = made(step), alone(step)
          for key in wanted:
            np.testing.assert_array_equal(batch[key], wanted[key])
  encoder = one._encoder
  kept = sum(i.pixel_values.nbytes for _, i in encoder._images.values())
  assert kept == -encoder._free and len(encoder._images) == 1
