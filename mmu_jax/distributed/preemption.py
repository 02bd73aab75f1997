"""A job that is asked to stop saves first, and says how to continue.

Clusters send SIGTERM some time before they take a machine away. The loops ask
``requested`` once per step, save when it is true, and raise ``Preempted``; the
command then ends with ``EXIT_CODE``, so that a launcher starts it again.
"""

from collections.abc import Iterator
import contextlib
import itertools
import signal
import threading

import jax
from jax.experimental import multihost_utils

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: the same command may work later
_asked, _watching = threading.Event(), threading.Event()
_points = itertools.count()


class Preempted(Exception):
  """The job was asked to stop, and its work so far is saved.

  Example:
    >>> print(Preempted('vanilla: saved after round 200'))
    vanilla: saved after round 200. The job was asked to stop (SIGTERM) and \
stopped there: run the same command again, and it goes on.
  """

  def __init__(self, saved: str):
    """Makes the error.

    Args:
      saved: the saved work and how far it had come, without a full stop.
    """
    super().__init__(
      f'{saved}. The job was asked to stop (SIGTERM) and stopped there: run '
      'the same command again, and it goes on.'
    )


@contextlib.contextmanager
def watch() -> Iterator[None]:
  """Lets SIGTERM ask instead of kill, for as long as the context lasts.

  A second SIGTERM acts as it did before, and so does Ctrl-C. After
  ``jax.distributed.initialize`` nothing is installed: JAX has a handler then,
  and tells every process when one of them is asked. Neither is anything outside
  the main thread, where Python runs no handlers. Contexts may be nested.

  Example:
    >>> import os, signal
    >>> with watch():
    ...   before = requested(1)
    ...   os.kill(os.getpid(), signal.SIGTERM)
    ...   before, requested(2)
    (False, True)
    >>> requested(3)
    False
  """
  main = threading.current_thread() is threading.main_thread()
  if jax.distributed.is_initialized() or not main or _watching.is_set():
    yield
    return
  before = signal.getsignal(signal.SIGTERM)

  def ask(number, frame):
    del number, frame
    _asked.set()
    signal.signal(signal.SIGTERM, before)

  signal.signal(signal.SIGTERM, ask)
  _watching.set()
  try:
    yield
  finally:
    signal.signal(signal.SIGTERM, before)
    _watching.clear()
    _asked.clear()


def requested(step: int) -> bool:
  """Returns whether to save and stop now; the same on every process.

  In a job of several processes it is a point where they agree: all call it
  equally often, once per step. It takes JAX about a second to notice a signal.

  Args:
    step: number of the step. It may start anew in every loop of a process:
      JAX, which stops all processes at the largest number that any has seen,
      gets another one that only grows.
  """
  del step
  if not jax.distributed.is_initialized():
    return _asked.is_set()
  return multihost_utils.reached_preemption_sync_point(next(_points))
