"""Several processes as one job: how they find each other, and who writes.

Every process runs the same program on its own devices. Arrays are spread over
all of them; files, tables and plots are made by the first process alone, and
the others get its result, or its error.
"""

import atexit
import collections
from collections.abc import Callable
import contextlib
import faulthandler
import json
import os
import sys
import threading
from typing import Any

import jax
from jax.experimental import multihost_utils
import numpy as np

from mmu_jax.distributed import clusters
from mmu_jax.errors import Collapse
from mmu_jax.errors import DiskError
from mmu_jax.errors import MissingError
from mmu_jax.errors import UserError

PATIENCE = 20  # seconds until a process says that it waits for the others
ENDING = 20  # seconds that a process which ends waits for the others to end
BLOCK = 4096  # bytes of the first message of an answer; most fit
_KNOWN = (
  UserError,
  MissingError,
  DiskError,
  Collapse,
  ValueError,
  TypeError,
  KeyError,
  IndexError,
  AttributeError,
  ImportError,
  OSError,
  FloatingPointError,
  OverflowError,
  ZeroDivisionError,
  ArithmeticError,
  MemoryError,
  NotImplementedError,
  RuntimeError,
)
_within = threading.local()  # .first: whether this thread runs f of `first`


def initialize(
  coordinator: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
) -> None:
  """Joins the processes of a job; a single process stays as it is.

  Missing arguments are taken from the variables MMU_COORDINATOR,
  MMU_NUM_PROCESSES and MMU_PROCESS_ID; if these are not set either, it looks
  for a cluster. ``num_processes=1`` alone means one process, even in a cluster.
  Later calls do nothing.

  Args:
    coordinator: ``host:port`` on process 0 that all processes can reach.
    num_processes: number of processes, >= 1.
    process_id: id of this process, 0 to ``num_processes - 1``.

  Raises:
    ValueError: if one of the three is missing or is not such a number, if there
      are other processes that cannot be found, or if one has more devices.
    RuntimeError: if something has used a device of JAX before.

  Example:
    >>> initialize(num_processes=1)
    >>> jax.process_count()
    1
  """
  if jax.distributed.is_initialized():
    return
  where, options = clusters.options(
    (coordinator, num_processes, process_id), os.environ
  )
  if options is None:
    return
  # On CPUs (gloo), a process that runs ahead with several collectives can wait
  # for another for ever. It must be said before there are devices.
  jax.config.update('jax_cpu_enable_async_dispatch', False)
  with _saying_that_it_waits(where):
    try:
      jax.distributed.initialize(**options)
    except ValueError as error:
      if where == 'Cloud TPU':
        return  # a machine with TPUs that is no part of a slice
      raise UserError(
        f'the processes do not find each other ({clusters.found_by(where)}): '
        f'{error} {clusters.advice()}'
      ) from error
  atexit.register(_end_even_alone)
  if jax.process_count() > 1:
    _check_devices()
    # The first message also connects the devices, while all processes are here:
    # later the others may wait for minutes for what process 0 does alone.
    first(_say_who_is_here, where)


def is_first() -> bool:
  """Whether this is process 0, the one that writes and prints.

  Example:
    >>> is_first()
    True
  """
  return jax.process_index() == 0


def barrier(name: str) -> None:
  """Waits until every process is here; at once if there is one.

  Args:
    name: name of the place; the same in all processes.

  Raises:
    RuntimeError: within ``first``, where the others never come.

  Example:
    >>> barrier('masks are written')
  """
  if getattr(_within, 'first', False):
    raise RuntimeError(
      f'a barrier ({name}) is for all processes, and within first(f) there '
      'is only one. Put it after the call of first.'
    )
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


def first(f: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
  """Calls a function on process 0 alone; every process gets its result.

  Every process raises its error, too: where the disk of one machine is full
  the job ends, instead of the others waiting for it. All processes call this
  from their main thread, in the same order. Within f, calls of ``first`` are
  plain calls, and nothing may be computed on the devices of other processes. On
  CPUs the others wait for half an hour at most; then gloo ends the job.

  Args:
    f: function that reads or writes files, makes tables, and so on.
    *args: arguments of f.
    **kwargs: keyword arguments of f.

  Returns:
    The result of f as JSON values, in a single process too: tuples become
    lists, keys become strings. A function returns ``str(path)``, not a path.

  Raises:
    TypeError: if the result is no JSON value.
    Exception: what f raised; on the other processes the nearest of its classes
      that is builtin or of ``errors``, with the same message.

  Example:
    >>> first(sorted, {3, 1, 2})
    [1, 2, 3]
    >>> first(divmod, 7, 2)
    [3, 1]
  """
  if jax.process_count() == 1 or getattr(_within, 'first', False):
    return json.loads(_call(f, args, kwargs))
  if not is_first():
    failed, answer = json.loads(_tell(b''))
    if failed:
      raise _made_again(*answer)
    return answer
  try:
    text = _call(f, args, kwargs)
  except Exception as error:  # whatever it is, the others wait to hear of it
    _tell(json.dumps([True, _described(error)]).encode())
    raise
  _tell(f'[false, {text}]'.encode())
  return json.loads(text)


def gather(value: Any) -> list[Any]:
  """Returns the values of all processes, in the order of their ids.

  Args:
    value: a JSON value of this process, of any length.

  Example:
    >>> gather({'host': 'here'})
    [{'host': 'here'}]
  """
  text = json.dumps(value).encode()
  if jax.process_count() == 1:
    return [json.loads(text)]
  lengths = multihost_utils.process_allgather(np.asarray(len(text), np.int32))
  size = 1 << int(lengths.max()).bit_length()
  rows = multihost_utils.process_allgather(
    np.frombuffer(text.ljust(size), np.uint8)
  )
  return [json.loads(np.asarray(row).tobytes()) for row in rows]


@contextlib.contextmanager
def _saying_that_it_waits(where):
  """Tells a person after a while why nothing happens."""
  text = (
    'mmu: still waiting for the other processes, '
    f'{clusters.found_by(where)}. The same command must run in all of them '
    'at once, and the coordinator must be reachable; after 5 minutes JAX '
    'gives up. --num_processes=1 runs alone.'
  )
  timer = threading.Timer(PATIENCE, print, (text,), {'file': sys.stderr})
  timer.daemon = True
  timer.start()
  try:
    yield
  finally:
    timer.cancel()


def _end_even_alone():
  """Ends a process that failed by itself, while the others go on.

  JAX lets it wait for them for minutes, and they wait for it. Once it is gone,
  JAX ends them too. What it had to say was printed before this is called.
  """
  quiet = open(os.devnull, 'w')  # pylint: disable=consider-using-with
  faulthandler.dump_traceback_later(ENDING, exit=True, file=quiet)


def _check_devices():
  """Raises ValueError, on all processes, unless all have as many devices."""
  counts = collections.Counter(x.process_index for x in jax.devices())
  if len(set(counts.values())) > 1:
    raise UserError(
      'every process of a job has as many devices; the processes '
      f'0 to {max(counts)} have {[counts[i] for i in sorted(counts)]}. Start '
      'them with the same devices, or leave machines out.'
    )


def _say_who_is_here(where):
  """Prints how many there are."""
  print(
    f'process 0 of {jax.process_count()}, {clusters.found_by(where)}; '
    f'{jax.local_device_count()} devices here, {jax.device_count()} in all',
    flush=True,
  )


def _call(f, args, kwargs):
  """Calls f and returns its result as JSON."""
  outer = getattr(_within, 'first', False)
  _within.first = True
  try:
    value = f(*args, **kwargs)
  finally:
    _within.first = outer
  try:
    return json.dumps(value)
  except TypeError as error:
    raise TypeError(
      f'what {getattr(f, "__qualname__", f)} returns goes to every process '
      f'as JSON: {error}. Return lists, dicts, strings and numbers.'
    ) from error


def _described(error):
  """Class and arguments of an error, as JSON."""
  if isinstance(error, OSError) and error.errno is not None:
    file = error.filename and str(error.filename)
    return 'OSError', [error.errno, error.strerror, file]  # makes the subclass
  known = (kind for kind in type(error).__mro__ if kind in _KNOWN)
  kind = next(known, RuntimeError)
  message = error.args[0] if kind is KeyError and error.args else error
  return kind.__name__, [str(message)]


def _made_again(name, arguments):
  """The error of process 0, on another."""
  kinds = {kind.__name__: kind for kind in _KNOWN}
  return kinds[name](*arguments)


def _tell(text: bytes) -> bytes:
  """Sends bytes from process 0 to all; short ones in one go."""
  head = len(text).to_bytes(8, 'little') + text[: BLOCK - 8]
  head = _broadcast(head.ljust(BLOCK))
  length = int.from_bytes(head[:8], 'little')
  if length <= BLOCK - 8:
    return head[8 : 8 + length]
  # Few lengths, since each is compiled.
  size = 1 << (length - 1).bit_length()
  return _broadcast(text.ljust(size))[:length]


def _broadcast(text):
  """Sends bytes of a length that all know."""
  sent = multihost_utils.broadcast_one_to_all(np.frombuffer(text, np.uint8))
  return np.asarray(sent).tobytes()
