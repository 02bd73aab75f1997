"""How tests compile: XLA's flags for simulated devices."""

from importlib import metadata

COUNT = '--xla_force_host_platform_device_count'
# The emitters of before compile a step of training in a fifth of the time. What
# is compiled is the same. XLA ends a process at a flag that it does not know.
EMITTERS = '--xla_cpu_use_fusion_emitters=false'
# One module of LLVM for a program: a fifth less work than several in threads.
WHOLE = '--xla_cpu_parallel_codegen_split_count=1'


def flags(devices: int) -> str:
  """XLA_FLAGS of a process with so many CPU devices."""
  known = metadata.version('jaxlib').startswith('0.10.')
  ways = [EMITTERS, WHOLE] if known else []
  return ' '.join([f'{COUNT}={devices}', *ways])
