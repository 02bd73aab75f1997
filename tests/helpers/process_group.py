"""Runs a program in several real processes with simulated CPU devices.

The processes find each other by MMU_COORDINATOR, MMU_NUM_PROCESSES and
MMU_PROCESS_ID, so that a program begins with

  from mmu_jax import distributed
  distributed.initialize()

NUMBER is the id too, for programs that emulate a cluster. Collectives go
through gloo, whose threads write on stdout, one into the line of another: what
a program prints goes to stderr, and stdout is discarded. Two processes take
some five seconds on two cores.
"""

from collections.abc import Mapping, Sequence
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from typing import NamedTuple

import compiling
import paths

ROOT = paths.TESTS
# What launchers set for the first of two tasks.
SLURM = {
  'SLURM_JOB_ID': '4711',
  'SLURM_STEP_NODELIST': 'localhost',
  'SLURM_NTASKS': '2',
  'SLURM_PROCID': '0',
  'SLURM_LOCALID': '0',
  'SLURM_STEP_NUM_NODES': '1',
}
MPI = {
  'OMPI_MCA_orte_hnp_uri': '1531576320.0;tcp://127.0.0.1:34911',
  'OMPI_COMM_WORLD_SIZE': '2',
  'OMPI_COMM_WORLD_RANK': '0',
  'OMPI_COMM_WORLD_LOCAL_RANK': '0',
}


# The first line of each program.
PRINT_ON_STDERR = 'import sys; sys.stdout = sys.stderr\n'


class Done(NamedTuple):
  """What became of a process."""

  returncode: int
  output: str  # the program's stdout and stderr together


def free_port() -> int:
  """A port that nobody listens on now."""
  with socket.socket() as probe:
    probe.bind(('localhost', 0))
    return probe.getsockname()[1]


def run(
  program: str,
  processes: int = 2,
  devices: int = 1,
  arguments: Sequence[str] = (),
  environ: Mapping[str, str] | None = None,
  timeout: float = 120,
) -> list[Done]:
  """Runs a program in every process and waits for all of them.

  Args:
    program: Python source, indented as you like; ``sys.argv[1:]`` are the
      arguments.
    processes: how many.
    devices: simulated CPU devices of each.
    arguments: the same for all.
    environ: more variables; an empty value removes one.
    timeout: seconds; processes that are left are killed, with a code of -9.

  Returns:
    What became of each, by process id.
  """
  port = free_port()
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / 'program.py'
    path.write_text(PRINT_ON_STDERR + textwrap.dedent(program))
    logs = [pathlib.Path(folder) / f'{i}.log' for i in range(processes)]
    started = []
    for i, log in enumerate(logs):
      with log.open('wb') as out:
        started.append(
          subprocess.Popen(  # pylint: disable=consider-using-with
            [sys.executable, str(path), *arguments],
            env=environment(
              port, processes, i, devices, {'NUMBER': str(i), **(environ or {})}
            ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=out,
          )
        )
    _wait(started, timeout)
    return [
      Done(p.returncode, log.read_text(errors='replace'))
      for p, log in zip(started, logs)
    ]


def results(program: str, **options) -> list[str]:
  """As ``run``, for programs that must end well: returns their outputs."""
  done = run(program, **options)
  shown = '\n'.join(f'process {i}: {x}' for i, x in enumerate(done))
  assert all(x.returncode == 0 for x in done), shown
  return [x.output for x in done]


def environment(port, processes, process_id, devices, more):
  """The variables of one process."""
  here = os.environ | {
    'JAX_PLATFORMS': 'cpu',
    'XLA_FLAGS': compiling.flags(devices),
    'PYTHONPATH': f'{ROOT}{os.pathsep}{os.environ.get("PYTHONPATH", "")}',
    'MMU_COORDINATOR': f'localhost:{port}',
    'MMU_NUM_PROCESSES': str(processes),
    'MMU_PROCESS_ID': str(process_id),
  }
  return {k: v for k, v in (here | dict(more)).items() if v != ''}


def _wait(started, timeout):
  """Waits for all; kills those that are left when the time is over."""
  end = time.monotonic() + timeout
  try:
    for process in started:
      process.wait(max(0.1, end - time.monotonic()))
  except subprocess.TimeoutExpired:
    pass
  finally:
    for process in started:
      if process.poll() is None:
        process.kill()
      process.wait()
