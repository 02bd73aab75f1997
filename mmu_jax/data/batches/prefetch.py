"""The batches of the next steps are made while the device works.

Decoding a JPEG file of 512 x 512 pixels and bringing it to 336 x 336 takes
about 10 ms of one core, so a batch of 32 takes longer than many a step. PIL and
NumPy leave the interpreter free while they work, so threads are enough.
"""

from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
import contextlib
from typing import Any

from mmu_jax.errors import UserError
from mmu_jax.typing import Batch


class Prefetch:
  """A stream whose next batches are made in the background.

  It is called as the stream is, and gives the same batches: any step, in any
  order, so resuming needs nothing else. Steps that are asked for in order
  are made ahead; any other is made when it is asked for.

  It holds at most ``ahead + 1`` batches. Close it, or use it as a context
  manager, and its threads end.

  Example:
    >>> with Prefetch(lambda step: {'tokens': step}) as stream:
    ...   [stream(step)['tokens'] for step in (7, 8, 9, 3)]
    [7, 8, 9, 3]
  """

  def __init__(
    self, stream: Callable[[int], Batch], *, ahead: int = 2, workers: int = 1
  ):
    """Starts nothing yet.

    Args:
      stream: a pure function of the step, called from ``workers`` threads.
      ahead: number of steps made before they are asked for, at least 1.
      workers: threads, at least 1; more where one batch takes longer than a
        step and cores are free.

    Raises:
      ValueError: if a number is less than 1.
    """
    if ahead < 1 or workers < 1:
      raise UserError(
        f'ahead and workers are at least 1, got {ahead} and {workers}. '
        'Without any, call the stream itself.'
      )
    self._stream = stream
    self._ahead = ahead
    self._pool = futures.ThreadPoolExecutor(workers, 'prefetch')
    self._made: dict[int, futures.Future[Batch]] = {}
    self._last: int | None = None
    self._closed = False

  def __call__(self, step: int) -> Batch:
    """Returns the batch of a step >= 0, and has the next ones made.

    Raises:
      ValueError: if making it failed by the data: names step and rows, and
        has the error as its cause.
      RuntimeError: if it failed otherwise, or the stream was closed.
    """
    if self._closed:
      raise RuntimeError(
        f'step {step} was asked of a stream that was closed; ask within '
        'its `with` block.'
      )
    in_order = self._last is None or step in (self._last, self._last + 1)
    self._last = step
    wanted = range(step, step + 1 + (self._ahead if in_order else 0))
    for other in self._made.keys() - set(wanted):
      self._made.pop(other).cancel()
    for other in wanted:
      if other not in self._made:
        self._made[other] = self._pool.submit(self._stream, other)
    return self._result(step)

  def keys(self, step: int) -> list[str]:
    """Returns the keys of the rows of a step, for messages."""
    return getattr(self._stream, 'keys', lambda _: ['?'])(step)

  def close(self) -> None:
    """Ends the threads, after the batches that are being made."""
    self._closed = True
    self._made.clear()
    self._pool.shutdown(cancel_futures=True)

  def __enter__(self):
    return self

  def __exit__(self, *error: Any) -> None:
    self.close()

  def _result(self, step):
    """Waits for a batch; raises what went wrong with it."""
    error = self._made[step].exception()
    if error is None:
      return self._made[step].result()
    del self._made[step]  # whoever asks again, tries again
    if not isinstance(error, Exception):  # the process is asked to stop
      raise error
    keys = self.keys(step)
    # What is wrong with data is for the user, all else for a traceback.
    data = isinstance(error, (ValueError, OSError))
    raise (ValueError if data else RuntimeError)(
      f'cannot make the batch of step {step} (rows {", ".join(keys[:8])}; '
      f'{len(keys)} in all). Repair or drop the row that this speaks of: '
      f'{error}'
    ) from error


@contextlib.contextmanager
def prefetched(
  streams: Mapping[str, Callable[[int], Batch]], *, ahead: int = 2
) -> Iterator[dict[str, Prefetch]]:
  """Makes the batches of several streams ahead, until the block ends.

  Args:
    streams: streams by split; each has a thread of its own.
    ahead: number of steps, see ``Prefetch``.

  Yields:
    The same streams, with their next batches made in the background.
  """
  with contextlib.ExitStack() as stack:
    yield {
      name: stack.enter_context(Prefetch(stream, ahead=ahead))
      for name, stream in streams.items()
    }
