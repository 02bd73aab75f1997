"""SIGTERM asks: once, on every process at the same step, and gently."""

import os
import signal
import threading

import process_group
import pytest

from mmu_jax.distributed import preemption


def _ask():
  os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture
def calls():
  """Counts the signals that reach the handler there was before."""
  found = []
  old = signal.signal(signal.SIGTERM, lambda number, frame: found.append(1))
  yield found
  signal.signal(signal.SIGTERM, old)


def test_the_first_signal_asks_and_the_second_acts_as_before(calls):
  with preemption.watch():
    assert not preemption.requested(1)
    _ask()
    assert preemption.requested(2) and preemption.requested(3)
    assert calls == []
    _ask()
    assert calls == [1]


def test_after_the_watch_all_is_as_before(calls):
  before = signal.getsignal(signal.SIGTERM)
  for ask in (True, False):
    with preemption.watch():
      assert not preemption.requested(1)
      if ask:
        _ask()
    assert signal.getsignal(signal.SIGTERM) is before
    assert not preemption.requested(2)
  with pytest.raises(preemption.Preempted):
    with preemption.watch():
      raise preemption.Preempted('saved')
  assert signal.getsignal(signal.SIGTERM) is before
  _ask()
  assert calls == [1]


def test_a_watch_within_a_watch_changes_nothing(calls):
  with preemption.watch():
    with preemption.watch():
      _ask()
      assert preemption.requested(1)
    assert preemption.requested(2)  # still to be heard outside
    assert calls == []
  assert not preemption.requested(3)


def test_a_watch_in_a_thread_installs_nothing(calls):
  seen = []

  def work():
    with preemption.watch():
      seen.append(signal.getsignal(signal.SIGTERM))

  before = signal.getsignal(signal.SIGTERM)
  thread = threading.Thread(target=work)
  thread.start()
  thread.join()
  assert seen == [before]


def test_ctrl_c_is_left_alone():
  # A shell starts its background jobs with Ctrl-C ignored.
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  try:
    with preemption.watch():
      with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        threading.Event().wait(1)
      assert not preemption.requested(1)
  finally:
    signal.signal(signal.SIGINT, before)


def test_the_message_says_what_is_saved_and_how_to_go_on():
  message = str(preemption.Preempted('vanilla: saved after round 7'))
  assert message.startswith('vanilla: saved after round 7. ')
  assert 'run the same command again' in message
  assert preemption.EXIT_CODE == 75


GROUP = """
  import os, signal, sys, time
  from mmu_jax import distributed
  distributed.initialize()
  import jax
  import numpy as np
  from jax.experimental import multihost_utils
  from mmu_jax.distributed import preemption

  # Two loops of a pipeline, each of which counts its steps from 0. The signal
  # is heard between them: numbers as large as the last one do not come again.
  stopped = None
  with preemption.watch():
    for loop, steps in enumerate((300, 40)):
      for step in range(steps):
        multihost_utils.process_allgather(np.ones(1))  # work of all
        if preemption.requested(step):
          stopped = loop, step
          break
      if (loop, jax.process_index()) == (0, 1):
        os.kill(os.getpid(), signal.SIGTERM)
      time.sleep(3)
  print('stopped', stopped)
"""


def test_a_signal_to_one_process_stops_all_at_the_same_step():
  outputs = process_group.results(GROUP, timeout=60)
  found = [
    line
    for output in outputs
    for line in output.splitlines()
    if line.startswith('stopped')
  ]
  assert len(found) == 2 and len(set(found)) == 1, found
  assert found[0].startswith('stopped (1, '), found


HANDLER = """
  import ctypes, signal
  from mmu_jax import distributed
  distributed.initialize()
  from mmu_jax.distributed import preemption

  libc = ctypes.CDLL(None)
  def handler():  # what the system calls; Python knows of its own ones alone
    found = (ctypes.c_void_p * 32)()
    assert libc.sigaction(signal.SIGTERM, None, ctypes.byref(found)) == 0
    return found[0]

  before = handler()
  with preemption.watch():
    assert handler() == before
  assert handler() == before and before
  print('kept')
"""


def test_the_handler_of_jax_is_not_displaced():
  for output in process_group.results(HANDLER, timeout=60):
    assert 'kept' in output
