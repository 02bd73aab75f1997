"""What some chips can do, as their vendors publish it.

None of it is reached in full: the numbers are for asking which of computing
and moving bounds a step, with both at their best.
"""

from typing import NamedTuple


class Chip(NamedTuple):
  """One accelerator.

  Attributes:
    flops: bfloat16 operations a second, dense.
    hbm: bytes of memory.
    hbm_speed: bytes a second from it.
    link: bytes a second that it sends to its neighbours, while it receives as
      much.
    domain: devices that these links join; 0 for as many as a pod has.
    network: bytes a second that its own adapter sends beyond them.
  """

  flops: float
  hbm: int
  hbm_speed: float
  link: float
  domain: int = 0
  network: float = 0.0


GIB = 2**30
# TPU: https://cloud.google.com/tpu/docs/system-architecture-tpu-vm, a page for
# each version; interchip bandwidth is published for a chip and one direction.
# GPU: NVIDIA's data sheets of the SXM modules; NVLink is published for both
# directions together. The network is that of the DGX systems: one adapter for
# each GPU, of 200 Gb/s (A100) or 400 Gb/s.
CHIPS = {
  'v4': Chip(275e12, 32 * GIB, 1.228e12, 300e9),  # 2,400 Gb/s
  'v5e': Chip(197e12, 16 * GIB, 0.819e12, 200e9),  # 1,600 Gb/s
  'v5p': Chip(459e12, 95 * GIB, 2.765e12, 600e9),  # 4,800 Gb/s
  'v6e': Chip(918e12, 32 * GIB, 1.640e12, 400e9),  # 3,200 Gb/s
  'a100': Chip(312e12, 80 * GIB, 2.039e12, 300e9, 8, 25e9),
  'h100': Chip(989e12, 80 * GIB, 3.350e12, 450e9, 8, 50e9),
  'h200': Chip(989e12, 141 * GIB, 4.800e12, 450e9, 8, 50e9),
}


def speed(chip: Chip, devices: int, beside: int = 1) -> float:
  """Returns bytes a second of a device on a ring: the slowest link counts.

  A ring that goes through every device of a node can leave it by all of the
  node's adapters. Where several rings leave a node side by side, they share
  them.

  Args:
    chip: of ``CHIPS``.
    devices: that the ring spans, those of axes within it included.
    beside: devices of the axes within it, each on a ring of its own.

  Example:
    >>> [speed(CHIPS['h100'], 64, beside) / 1e9 for beside in (1, 2, 8)]
    [400.0, 200.0, 50.0]
  """
  if not chip.domain or devices <= chip.domain:
    return chip.link
  rings = min(beside, chip.domain)
  return min(chip.link, chip.network * chip.domain / rings)
