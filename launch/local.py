#!/usr/bin/env python3
"""Starts a command in several processes on this machine, as one job.

  python launch/local.py --processes=2 --devices=4 -- \\
      mmu pipeline --config=people --workdir=runs/people
  python launch/local.py --processes=8 --gpus -- mmu pipeline ...

With --devices every process gets so many simulated CPU devices: a rehearsal of
a cluster job on a laptop. With --gpus every process gets one GPU, 95 % of its
memory, and sends while it computes, unless you set these yourself; the variable
MMU_EXACT=1 asks for kernels that repeat every bit. The processes find each
other by MMU_COORDINATOR, MMU_NUM_PROCESSES and MMU_PROCESS_ID.

The output of process 0 is shown. When a process fails, the others are ended,
the last lines of the failed process are shown, and the launcher ends with its
exit code. SIGTERM and Ctrl-C go to all processes; after SIGTERM they save and
end with 75, and so does the launcher: the same command then goes on. Processes
that take more than two minutes after the first are ended.
"""

import argparse
from collections.abc import Callable, Sequence
import ctypes
import os
import pathlib
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

SHOWN = 30  # lines of a failed process
GRACE = 5  # seconds that the others have to end by themselves
SAVING = 120  # seconds that they have once one has saved
PREEMPTED = 75  # of a process that saved and wants to be started again
COUNT = '--xla_force_host_platform_device_count'
SENDING = '--xla_gpu_enable_latency_hiding_scheduler=true'
EXACT = '--xla_gpu_deterministic_ops=true'  # a run that goes on is the same one
MEMORY = 'XLA_CLIENT_MEM_FRACTION'
MEMORY_NAMES = (MEMORY, 'XLA_PYTHON_CLIENT_MEM_FRACTION')  # the old one, too


def main(argv: Sequence[str] | None = None) -> int:
  """Starts the processes; returns the exit code of the first that failed."""
  args = _arguments(argv)
  environs = [
    variables(i, args.processes, args.port, args.devices, args.gpus)
    for i in range(args.processes)
  ]
  if args.dry_run:
    for environ in environs:
      given = ' '.join(f'{k}={shlex.quote(v)}' for k, v in environ.items())
      print(given, shlex.join(args.command))
    return 0
  # Python and mmu of one environment, whether it is activated or not.
  here = os.path.dirname(os.path.abspath(sys.executable))
  os.environ['PATH'] = os.pathsep.join([here, os.environ.get('PATH', '')])
  if not shutil.which(args.command[0]):
    print(f'local.py: there is no command {args.command[0]!r}', file=sys.stderr)
    return 127
  if args.logs:
    return run(args.command, environs, args.logs)
  with tempfile.TemporaryDirectory(prefix='mmu_') as folder:
    return run(args.command, environs, pathlib.Path(folder))


def variables(
  process_id: int, processes: int, port: int, devices: int, gpus: bool
) -> dict[str, str]:
  """Returns the variables that make a process part of the job.

  Args:
    process_id: number of the process, from 0.
    processes: number of processes.
    port: port where process 0 listens.
    devices: simulated CPU devices of each process; 0 for the real devices.
    gpus: whether each gets the GPU of its number.
  """
  found = {
    'MMU_COORDINATOR': f'localhost:{port}',
    'MMU_NUM_PROCESSES': str(processes),
    'MMU_PROCESS_ID': str(process_id),
  }
  if devices:
    flags = re.sub(rf'{COUNT}=\d+', '', os.environ.get('XLA_FLAGS', ''))
    found['JAX_PLATFORMS'] = 'cpu'
    found['XLA_FLAGS'] = ' '.join([*flags.split(), f'{COUNT}={devices}'])
  if gpus:
    found['CUDA_VISIBLE_DEVICES'] = _gpus(processes)[process_id]
    if not any(os.environ.get(name) for name in MEMORY_NAMES):
      found[MEMORY] = '0.95'  # JAX takes 75 % by default
    exact = os.environ.get('MMU_EXACT') not in (None, '', '0')
    flags = [SENDING, EXACT] if exact else [SENDING]
    given = os.environ.get('XLA_FLAGS', '').split()
    found['XLA_FLAGS'] = ' '.join([*flags, *given])  # the last one counts
  return found


def run(
  command: Sequence[str], environs: Sequence[dict[str, str]], logs: pathlib.Path
) -> int:
  """Runs a command once for each environment, until all have ended.

  Args:
    command: program and its arguments.
    environs: variables of each process, besides the present environment.
    logs: folder for the output of processes 1, 2, ....

  Returns:
    0 if all succeeded, else the exit code of the first that did not; 75
    (saved) only if none failed otherwise.
  """
  logs.mkdir(parents=True, exist_ok=True)
  paths = [None, *(logs / f'{i}.log' for i in range(1, len(environs)))]
  processes = [
    _start(command, environ, path) for environ, path in zip(environs, paths)
  ]
  for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, _passed_on(processes))
  try:
    failed = _wait(processes)
  finally:
    for process in processes:  # none is left, unless this process fails
      process.kill()
  if failed is None:
    return 0
  code = processes[failed].returncode
  if code != PREEMPTED:
    _explain(failed, processes, paths)
  return code if code > 0 else 128 - code  # as shells say that of a signal


def _arguments(argv) -> argparse.Namespace:
  """Reads the command line."""
  about, usage = (__doc__ or '').split('\n', 1)
  parser = argparse.ArgumentParser(
    description=about,
    epilog=usage,
    usage='local.py [options] -- COMMAND ...',
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  add = parser.add_argument
  add('--processes', type=int, default=2, help='how many (2)')
  add('--devices', type=int, default=0, help='simulated CPU devices of each')
  add('--gpus', action='store_true', help='one GPU for each process')
  add('--port', type=int, default=0, help='of process 0; else a free one')
  add('--logs', type=pathlib.Path, help='keep the output of the others there')
  add('--dry_run', action='store_true', help='print the commands, run nothing')
  add('command', nargs=argparse.REMAINDER, help='command to run, after --')
  args = parser.parse_args(argv)
  args.command = args.command[args.command[:1] == ['--'] :]
  if not args.command:
    parser.error('give the command after --, as in: local.py -- mmu pipeline')
  if args.processes < 1 or args.devices < 0:
    parser.error('--processes is at least 1, and --devices is not negative')
  if args.gpus and args.devices:
    parser.error('--gpus and --devices exclude each other')
  if args.gpus and len(_gpus(args.processes)) < args.processes:
    parser.error('CUDA_VISIBLE_DEVICES has fewer GPUs than there are processes')
  args.port = args.port or _free_port()
  return args


def _start(command, environ, log) -> subprocess.Popen:
  """Starts a process; its output goes to a file, or is shown."""
  out = log.open('wb') if log else None
  try:
    return subprocess.Popen(  # pylint: disable=consider-using-with
      command,
      env=os.environ | environ,
      stdin=subprocess.DEVNULL,
      stdout=out,
      stderr=subprocess.STDOUT if out else None,
      process_group=0,  # Ctrl-C reaches it once, from here
      preexec_fn=_ending_with_parent(),
    )
  finally:
    if out:
      out.close()


def _ending_with_parent() -> Callable[[], object] | None:
  """Linux: nothing is left running when the launcher is killed."""
  if sys.platform != 'linux':
    return None
  prctl, set_signal = ctypes.CDLL(None).prctl, 1  # PR_SET_PDEATHSIG
  return lambda: prctl(set_signal, signal.SIGKILL)


def _passed_on(processes):
  """A handler that hands a signal on; the third time it kills."""
  seen = []

  def handle(number, frame):
    del frame
    seen.append(number)
    for process in processes:
      process.send_signal(number if len(seen) < 3 else signal.SIGKILL)

  return handle


def _wait(processes) -> int | None:
  """Waits for all; returns which failed first, if one did.

  Who failed leaves the others waiting, and they are ended soon. Who saved is
  followed by the others, unless one of them hangs.
  """
  failed, end = None, float('inf')
  while True:
    ended = None not in [process.poll() for process in processes]
    before, failed = failed, _failed(processes, failed)
    if ended:
      return failed
    if failed != before:
      saved = processes[failed].returncode == PREEMPTED
      end = min(end, time.monotonic() + (SAVING if saved else GRACE))
    if time.monotonic() > end:
      for process in processes:
        process.kill()
        process.wait()
      return failed
    time.sleep(0.1)


def _failed(processes, known: int | None) -> int | None:
  """Which process failed; rather one that said why than one that crashed.

  The one that is known to have failed stays it, unless it had only saved.
  """
  codes = [process.returncode for process in processes]
  if known is not None and codes[known] != PREEMPTED:
    return known
  failed = [i for i, code in enumerate(codes) if code]
  order = lambda i: (codes[i] == PREEMPTED, codes[i] < 0, i)
  return min(failed, key=order, default=None)


def _explain(failed, processes, logs):
  """Says on stderr which process ended first, and shows the likely cause."""
  code = processes[failed].returncode
  how = f'exit code {code}' if code > 0 else signal.Signals(-code).name
  print(f'local.py: process {failed} ended with {how}.', file=sys.stderr)
  # The output of process 0 was seen. Of the others the one that failed fell
  # silent first; the others could only say that it was gone.
  others = [
    i
    for i, process in enumerate(processes)
    if i and process.returncode > 0 and process.returncode != PREEMPTED
  ] or [failed][: failed > 0]
  if others:
    cause = min(others, key=lambda i: logs[i].stat().st_mtime)
    lines = logs[cause].read_text(errors='replace').splitlines()[-SHOWN:]
    print(f'Last lines of process {cause}:', *lines, sep='\n', file=sys.stderr)


def _gpus(processes) -> list[str]:
  """The numbers of the GPUs to give away."""
  visible = os.environ.get('CUDA_VISIBLE_DEVICES')
  return visible.split(',') if visible else [str(i) for i in range(processes)]


def _free_port() -> int:
  """A port that nobody listens on now."""
  with socket.socket() as probe:
    probe.bind(('localhost', 0))
    return probe.getsockname()[1]


if __name__ == '__main__':
  sys.exit(main())
