"""Lines about memory: the most that a process holds while it takes a step.

    python tests/benchmarks/rows_memory.py 30m kl_min ours   # bytes a weight

Linux alone counts it. What is held before a step (weights, moments, a second
model) is added up; the rest is by how much the step raised the peak of the
process. A step before it compiles, and what that left behind is given back.
"""

from collections.abc import Callable, Iterator
import ctypes
import gc
import pathlib
import re
import subprocess
import sys
from typing import Any

import jax
from measuring import Line
import rows_learning
import subjects
from subjects import Subject

from mmu_jax import saliency
from mmu_jax.objectives import descend

STEPS = ('importance', 'mmunlearner', 'kl_min')


def memory(subject: Subject, repeats: int) -> Iterator[Line]:
  """Bytes a weight of an importance and of rounds, a process for each."""
  if sys.platform != 'linux':
    return
  ways = ('ours', 'torch')[: 1 + (subject.torch is not None)]
  for step in STEPS:
    found = {
      way: [_process(subject.name, step, way) for _ in range(repeats)]
      for way in ways
    }
    ratio = [t / o for o, t in zip(found['ours'], found.get('torch', ()))]
    yield Line(
      *('memory', subject.name, step, found['ours']), 'B/weight', torch=ratio
    )


def _process(name: str, step: str, way: str) -> float:
  """Bytes a weight, measured in a process of its own."""
  words = [sys.executable, __file__, name, step, way]
  made = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
  return float(made.stdout.split()[-1])


def measure(name: str, step: str, way: str) -> float:
  """Returns the peak of a step in this process, in bytes a weight.

  Args:
    name: key of ``subjects.SIZES``.
    step: one of ``STEPS``.
    way: 'ours' or 'torch'.
  """
  subject = subjects.load(name, torch=way == 'torch')
  weights = sum(x.size for x in jax.tree.leaves(subject.params))
  take = _taker(subject, step) if way == 'ours' else _torch_taker(subject, step)
  subjects.load.cache_clear()
  del subject
  take()
  held = _held_ours() if way == 'ours' else _held_torch()
  return (held + raised(take)) / weights


def raised(call: Callable[[], Any]) -> int:
  """Returns by how many bytes a call raises the peak of this process."""
  gc.collect()
  ctypes.CDLL('libc.so.6').malloc_trim(0)
  before = _status('VmRSS')
  pathlib.Path('/proc/self/clear_refs').write_text('5')  # the peak is now
  call()
  return _status('VmHWM') - before


def _taker(subject, step):
  """A function that takes our step and keeps nothing but its state."""
  if step == 'importance':
    loss = lambda p, batch: descend(subject.model.forward, p, None, batch)
    batches = rows_learning.batches(subject, 'forget')
    one = lambda: saliency.importance(loss, subject.params, batches)
    return lambda: jax.block_until_ready(one()) and None
  made = rows_learning.splits(subject, packed=False)
  take = rows_learning.round_of(
    subject, step, made, rows_learning.some_mask(subject)
  )
  return lambda: float(take())


def _torch_taker(subject, step):
  """A function that takes torch's step."""
  import in_torch

  if step == 'importance':
    batches = rows_learning.batches(subject, 'forget')
    one = in_torch.importance(subject.torch, batches)
    return lambda: one() and None
  made = rows_learning.splits(subject, packed=False)
  bits = None
  if step == 'mmunlearner':
    bits = [p > 0 for p in subject.torch.parameters()]
  given = rows_learning.given(subject, made)
  return in_torch.rounds(subject.torch, step, given, bits)


def _held_ours() -> int:
  """Bytes of all arrays that are alive."""
  return sum(x.nbytes for x in jax.live_arrays())


def _held_torch() -> int:
  """Bytes of all tensors that are alive, and of their gradients."""
  import torch

  found = {}
  for x in gc.get_objects():
    if isinstance(x, torch.Tensor):
      for one in (x, x.grad if x.is_leaf else None):
        if one is not None:
          storage = one.untyped_storage()
          found[storage.data_ptr()] = storage.nbytes()
  return sum(found.values())


def _status(field: str) -> int:
  """Bytes that the system counts for this process."""
  text = pathlib.Path('/proc/self/status').read_text()
  return 1024 * int(re.search(rf'{field}:\s+(\d+) kB', text).group(1))


if __name__ == '__main__':
  print(measure(*sys.argv[1:]))
