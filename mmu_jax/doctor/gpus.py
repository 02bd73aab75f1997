"""What JAX is told about GPUs: their memory, and whether every bit repeats."""

from collections.abc import Sequence
import ctypes
import re
from typing import Any

import jax

from mmu_jax.errors import Finding
from mmu_jax.errors import WARN

SHARE = 0.9  # of a GPU's memory that JAX should have
# A flag and, after a '=', its value; the last one counts.
EXACT = re.compile(r'--xla_gpu_deterministic_ops(?:=(\S*)|(?=\s|$))')


def settings(everyone: Sequence[dict[str, Any]]) -> list[Finding]:
  """Looks at what JAX is told about GPUs; elsewhere there is nothing to say.

  Args:
    everyone: ``about`` of each process.
  """
  gpus = {i: x for i, x in enumerate(everyone) if x['platform'] == 'gpu'}
  short = [i for i, x in gpus.items() if 0 < x['memory'] < SHARE * x['total']]
  found = []
  if short:
    x = gpus[short[0]]
    found.append(
      Finding(
        WARN,
        'memory',
        f'JAX takes {x["memory"] / 2**30:.1f} GiB of '
        f'{x["total"] / 2**30:.1f} GiB of a GPU in process {short[0]}',
        'Set XLA_CLIENT_MEM_FRACTION=0.95, and see that nothing else runs '
        'there.',
      )
    )
  if not all(x['exact'] for x in gpus.values()):
    found.append(
      Finding(
        WARN,
        'resume',
        'a job that was killed goes on, but not bit for '
        'bit: the sums of a GPU come in any order',
        'Add --xla_gpu_deterministic_ops=true to XLA_FLAGS for that; it '
        'may be slower.',
      )
    )
  return found


def total(device: jax.Device) -> int:
  """Returns the bytes of a GPU that NVIDIA's driver says; 0 if it does not."""
  try:
    driver = ctypes.CDLL('libcuda.so.1')
    size, handle = ctypes.c_size_t(), ctypes.c_int()
    number = device.local_hardware_id or 0
    wrong = (
      driver.cuInit(0)
      or driver.cuDeviceGet(ctypes.byref(handle), number)
      or driver.cuDeviceTotalMem_v2(ctypes.byref(size), handle)
    )
  except (OSError, AttributeError):  # another driver
    return 0
  return 0 if wrong else size.value


def is_exact(flags: str) -> bool:
  """Returns whether XLA is told to take only kernels that repeat every bit.

  Args:
    flags: as in ``XLA_FLAGS``.

  Example:
    >>> is_exact('--a=1 --xla_gpu_deterministic_ops=true')
    True
  """
  values = [x.group(1) for x in EXACT.finditer(flags)]
  return bool(values) and values[-1] in (None, 'true', 'True', '1')
