"""Checks of devices, versions, and the speed between processes."""

from collections.abc import Sequence
import ctypes
import importlib.metadata
import os
import pathlib
import platform
import re
import socket
import statistics
import time
from typing import Any, NamedTuple

import jax
from jax.sharding import AxisType
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
import numpy as np

from mmu_jax import __version__
from mmu_jax import distributed
from mmu_jax import sharding
from mmu_jax.errors import FAIL
from mmu_jax.errors import Finding
from mmu_jax.errors import OK
from mmu_jax.errors import WARN

_PACKAGES = (
  'jax',
  'jaxlib',
  'flax',
  'optax',
  'orbax-checkpoint',
  'transformers',
  'safetensors',
  'numpy',
)
SIZES = (4 << 10, 1 << 20, 16 << 20)  # bytes on each device
_REPEATS = 5
_SLOW = 1.0  # GB/s between machines with accelerators
_SHARE = 0.9  # of a GPU's memory that JAX should have
# A flag and, after a '=', its value; the last one counts.
_EXACT = re.compile(r'--xla_gpu_deterministic_ops(?:=(\S*)|(?=\s|$))')


class Speed(NamedTuple):
  """Time of a sum over all devices.

  Attributes:
    size: bytes on each device.
    seconds: median of some repeats.
    rate: GB/s that each device sends, and receives, in a ring.
  """

  size: int
  seconds: float
  rate: float


def about() -> dict[str, Any]:
  """Returns host, devices, versions and settings of this process, as JSON."""
  device = jax.local_devices()[0]
  memory = (device.memory_stats() or {}).get('bytes_limit', 0)
  return {
    'host': socket.gethostname(),
    'platform': device.platform,
    'kind': device.device_kind,
    'devices': jax.local_device_count(),
    'memory': memory,
    'total': _gpu_bytes(device) if device.platform == 'gpu' else 0,
    'exact': _is_exact(os.environ.get('XLA_FLAGS', '')),
    'nvidia': pathlib.Path('/dev/nvidia0').exists(),
    'python': platform.python_version(),
    'packages': {
      'mmu_jax': __version__,
      **{name: _version(name) for name in _PACKAGES},
    },
    'untried': _untried(),
    'proxies': sorted(n for n in os.environ if n.lower().endswith('_proxy')),
  }


def devices(everyone: Sequence[dict[str, Any]]) -> list[Finding]:
  """Looks at the devices of every process.

  Args:
    everyone: result of ``about`` in each process.
  """
  found = [f'{x["devices"]} x {x["kind"]}' for x in everyone]
  total = sum(x['devices'] for x in everyone)
  if len(set(found)) > 1:
    return [
      Finding(
        FAIL,
        'devices',
        f'processes have different devices: {found}',
        'Give every process as many devices of one kind.',
      )
    ]
  shown = f'{total} devices: {len(everyone)} processes with {found[0]} each'
  if len(everyone) == 1:
    shown = f'{found[0]}, one process'
  here = everyone[0]
  if here['platform'] == 'cpu' and here['nvidia']:
    return [
      Finding(
        WARN,
        'devices',
        f'{shown}; this machine has a GPU',
        "Install JAX for it: pip install 'jax[cuda13]' (or cuda12).",
      )
    ]
  return [Finding(OK, 'devices', shown)]


def gpu_settings(everyone: Sequence[dict[str, Any]]) -> list[Finding]:
  """Looks at the settings of JAX for GPUs; other devices need none.

  Args:
    everyone: result of ``about`` in each process.
  """
  gpus = {i: x for i, x in enumerate(everyone) if x['platform'] == 'gpu'}
  short = [i for i, x in gpus.items() if 0 < x['memory'] < _SHARE * x['total']]
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
        OK,
        'resume',
        'a job that was killed goes on, but not bit for bit: the sums of a '
        'GPU come in any order. --xla_gpu_deterministic_ops=true in XLA_FLAGS '
        '(MMU_EXACT=1 for the launchers) repeats every bit; it may be slower.',
      )
    )
  return found


def versions(everyone: Sequence[dict[str, Any]]) -> list[Finding]:
  """Looks at Python and packages; flax and jax were checked on import.

  Args:
    everyone: result of ``about`` in each process.
  """
  here = everyone[0]
  differ = [
    f'{name}: {", ".join(sorted({x["packages"][name] for x in everyone}))}'
    for name in here['packages']
    if len({x['packages'][name] for x in everyone}) > 1
  ]
  if len({x['python'] for x in everyone}) > 1:
    differ.append(f'python: {", ".join({x["python"] for x in everyone})}')
  shown = [f'{name} {number}' for name, number in here['packages'].items()]
  shown = ', '.join([f'python {here["python"]}', *shown])
  if here['python'].startswith('3.11.'):
    shown += '; no JAX after 0.10.2 is for Python 3.11'
  if differ:
    return [
      Finding(
        FAIL,
        'versions',
        f'processes differ in {"; ".join(differ)}',
        'Install the same environment on every machine.',
      )
    ]
  found = [Finding(OK, 'versions', shown)]
  missing = [name for name, v in here['packages'].items() if v == 'missing']
  if missing:
    found = [
      Finding(
        FAIL,
        'versions',
        f'{", ".join(missing)} missing; {shown}',
        'pip install -r requirements.txt',
      )
    ]
  if here['untried']:
    found.append(
      Finding(
        WARN,
        'versions',
        f'not tried: {", ".join(here["untried"])}',
        'pip install -r requirements.txt',
      )
    )
  if len(everyone) > 1 and any(x['proxies'] for x in everyone):
    names = sorted({name for x in everyone for name in x['proxies']})
    found.append(
      Finding(
        WARN,
        'network',
        f'{", ".join(names)} set: JAX may not reach the '
        'other processes through a proxy',
        'If a job hangs at its start, unset them.',
      )
    )
  return found


def mesh(spec: str) -> Finding:
  """Looks whether a mesh fits the devices.

  Args:
    spec: mesh as in ``config.mesh``.

  Example:
    >>> mesh('fsdp=3,tensor=-2').state
    'FAIL'
  """
  try:
    sizes = dict(sharding.make_mesh(spec).shape)
  except ValueError as error:
    return Finding(FAIL, 'mesh', str(error), 'Set --config.mesh.')
  shown = ', '.join(f'{name}={size}' for name, size in sizes.items())
  return Finding(OK, 'mesh', f'{spec}: {shown}')


def sums(sizes: Sequence[int] = SIZES) -> tuple[list[Speed], Finding]:
  """Sums arrays over all devices of all processes, and takes the time.

  Args:
    sizes: sizes of the arrays on each device, bytes; multiples of 4.
  """
  number = jax.device_count()
  if number == 1:
    return [], Finding(OK, 'sum', 'one device: there is nothing to sum')
  speeds, wrong = [], []
  # Every process takes the times of the first.
  measured = distributed.gather([_timed_sum(size) for size in sizes])[0]
  for size, (seconds, total) in zip(sizes, measured):
    rate = 2 * (number - 1) / number * size / seconds / 1e9
    speeds.append(Speed(size, seconds, rate))
    if total != number * (number + 1) / 2:
      wrong.append(f'{total:g} instead of {number * (number + 1) / 2:g}')
  last = speeds[-1]
  shown = (
    f'over {number} devices of {jax.process_count()} processes: '
    f'{last.size / 2**20:g} MiB in {last.seconds * 1e3:.1f} ms, '
    f'{last.rate:.2f} GB/s'
  )
  if wrong:
    return speeds, Finding(
      FAIL,
      'sum',
      f'a sum over all devices gives {wrong[0]}',
      'A device or a link is broken: leave machines out until it is right.',
    )
  fast = jax.devices()[0].platform != 'cpu' and jax.process_count() > 1
  if fast and last.rate < _SLOW:
    return speeds, Finding(
      WARN,
      'sum',
      f'{shown}: the network is slow',
      'For GPUs set NCCL_DEBUG=INFO and see which network it takes.',
    )
  return speeds, Finding(OK, 'sum', shown)


def _timed_sum(size):
  """Median seconds of a sum over all devices, and its first entry."""
  number = jax.device_count()
  everywhere = jax.make_mesh(
    (number,), ('all',), axis_types=(AxisType.Auto,), devices=jax.devices()
  )
  spec = PartitionSpec('all')
  part = lambda index: np.full(
    (1, size // 4), (index[0].start or 0) + 1, np.float32
  )
  x = jax.make_array_from_callback(
    (number, size // 4), NamedSharding(everywhere, spec), part
  )
  add = jax.jit(
    jax.shard_map(
      lambda x: jax.lax.psum(x, 'all'),
      mesh=everywhere,
      in_specs=spec,
      out_specs=PartitionSpec(),
    )
  )
  total = float(add(x).addressable_data(0)[0, 0])  # compiles
  times = []
  for _ in range(_REPEATS):
    started = time.perf_counter()
    add(x).block_until_ready()
    times.append(time.perf_counter() - started)
  return statistics.median(times), total


def _gpu_bytes(device):
  """Memory of a GPU by NVIDIA's driver, in bytes; 0 if that does not say."""
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


def _is_exact(flags):
  """Whether XLA is told to take only kernels that repeat every bit."""
  values = [x.group(1) for x in _EXACT.finditer(flags)]
  return bool(values) and values[-1] in (None, 'true', 'True', '1')


def _untried() -> list[str]:
  """Installed packages whose versions are outside of our requirements."""
  from packaging import requirements  # comes with transformers

  try:
    wanted = importlib.metadata.requires('mmu_jax') or ()
  except importlib.metadata.PackageNotFoundError:  # run from a checkout
    return []
  found = []
  for line in map(requirements.Requirement, wanted):
    number = _version(line.name)
    ours = line.marker is None or line.marker.evaluate({'extra': ''})
    if ours and number != 'missing' and number not in line.specifier:
      found.append(f'{line.name} {number} (it needs {line.specifier})')
  return found


def _version(name):
  """The version of a package, 'missing' without it."""
  try:
    return importlib.metadata.version(name)
  except importlib.metadata.PackageNotFoundError:
    return 'missing'
