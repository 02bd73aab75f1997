"""Kills a whole job again and again, and compares it with one left alone.

  python tests/kill/kill_pipeline.py --kills=20
  python tests/kill/kill_pipeline.py --kills=20 --processes=2

A job of every stage (base, vanilla, retrained, importances, masks, unlearning,
evaluation, report) runs once undisturbed. The same job in another workdir gets
a SIGKILL at a random moment, is started again, and so on; then it may finish.
Final parameters, importances, masks, metrics, predictions and results must be
the same bytes. Moments are drawn from the stages in turn, so that each is hit.
Between the kills the job is asked to stop once (SIGTERM): then it must save and
end with 75.
"""

import argparse
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / 'tests' / name) for name in ('scale', 'helpers')]
CONFIG = ROOT / 'tests' / 'scale' / 'small_job.py'
# Stage -> a file or folder whose presence says that it has begun.
STAGES = {
  'start': '',
  'base': 'base/metrics.jsonl',
  'vanilla': 'vanilla/metrics.jsonl',
  'retrained': 'retrained/metrics.jsonl',
  'importance': 'importance/forget/config.json',
  'preserve importance': 'importance/text/config.json',
  'mask': 'mask/random/config.json',
  'kl_min': 'unlearned/kl_min/metrics.jsonl',
  'masked run': 'unlearned/mmunlearner_random/metrics.jsonl',
  'evaluation': 'predictions/vanilla/config.json',
  'later evaluation': 'predictions/kl_min/config.json',
  'report': 'results.jsonl',
}
# What no finished workdir holds.
LEFT_OVER = (
  '*.part*',
  'checkpoints',
  '*.deleting',
  '*.damaged',
  '*checkpoint-tmp*',
)


def main(argv=None) -> int:
  """Runs both jobs; returns 1 if they differ."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--kills', type=int, default=20)
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--variant', default='long')
  parser.add_argument('--processes', type=int, default=1)
  parser.add_argument('--devices', type=int, default=1, help='of a process')
  args = parser.parse_args(argv)
  with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    started = time.time()
    run(args, folder, 'whole').check_returncode()
    print(f'left alone: {time.time() - started:.0f} s', flush=True)
    hit = kill_often(args, folder)
    code = run(args, folder, 'killed').returncode
    if code:
      return code
    print(f'killed in: {", ".join(hit)}', flush=True)
    return report(folder / 'whole', folder / 'killed', hit, args.kills)


def run(args, folder: pathlib.Path, name: str) -> subprocess.CompletedProcess:
  """Runs the job to its end."""
  with open(folder / f'{name}.log', 'a', encoding='utf-8') as log:
    done = subprocess.run(
      **call(args, folder, name),
      stdout=log,
      stderr=subprocess.STDOUT,
      check=False,
    )
  if done.returncode:
    print((folder / f'{name}.log').read_text()[-3000:])
  return done


def kill_often(args, folder: pathlib.Path) -> list[str]:
  """Starts the job and kills it, so many times; returns the stages hit."""
  rng = random.Random(args.seed)
  stages = list(STAGES)
  targets = [stages[i * len(stages) // args.kills] for i in range(args.kills)]
  hit, asked = [], stages[rng.randrange(2, len(stages) - 2)]
  for target in sorted([*targets, asked], key=stages.index):
    signum = signal.SIGKILL
    if target == asked:  # the first of them
      asked, signum = '', signal.SIGTERM
    started = time.time()
    with open(folder / 'killed.log', 'a', encoding='utf-8') as log:
      process = subprocess.Popen(
        **call(args, folder, 'killed'),
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
      )
      if target != 'start':
        wait_for(process, folder / 'killed', target, started)
      time.sleep(rng.uniform(0, 9 if target == 'start' else 3))
      if process.poll() is None:
        stop(process, signum, stage_of(folder / 'killed'), hit)
  return hit


def stop(process, signum: int, stage: str, hit: list[str]) -> None:
  """Sends a signal; raises where a process that was asked does not save."""
  if signum == signal.SIGKILL:
    os.killpg(process.pid, signum)  # with the processes that it has started
    hit.append(stage)
  else:
    process.send_signal(signum)
  code = process.wait()
  name = signal.Signals(signum).name
  print(f'{name} in {stage}: exit code {code}', flush=True)
  if signum == signal.SIGTERM and code not in (0, 75):  # 0: all but done
    raise RuntimeError(f'after SIGTERM a job ends with 75, not with {code}')


def wait_for(
  process: subprocess.Popen, workdir: pathlib.Path, stage: str, started: float
) -> None:
  """Waits until a stage has begun and this start of the job has written.

  Else a kill would hit the import of JAX where an earlier start had begun it.
  """
  written = lambda: any(
    path.stat().st_mtime > started
    for path in workdir.rglob('*')
    if path.exists()
  )
  order = list(STAGES)
  while process.poll() is None:
    begun = order.index(stage_of(workdir)) >= order.index(stage)
    if begun and written():
      return
    time.sleep(0.1)


def stage_of(workdir: pathlib.Path) -> str:
  """The last stage that has begun."""
  begun = [name for name, file in STAGES.items() if (workdir / file).exists()]
  return begun[-1] if begun else 'start'


def call(args, folder: pathlib.Path, name: str) -> dict:
  """The command of the job, and its environment."""
  import compiling

  job = [
    sys.executable,
    '-m',
    'mmu_jax',
    'pipeline',
    f'--config={CONFIG}:{args.variant}',
    f'--workdir={folder / name}',
  ]
  if args.processes > 1:
    job = [
      sys.executable,
      str(ROOT / 'launch' / 'local.py'),
      f'--processes={args.processes}',
      f'--devices={args.devices}',
      '--',
      *job,
    ]
  environment = os.environ | {
    'JAX_PLATFORMS': 'cpu',
    'XLA_FLAGS': compiling.flags(args.devices),
  }
  if args.processes * args.devices == 1:
    # Restarts find what was compiled before: the kills hit the work. Programs
    # of several CPU devices hang when they come from this cache (jax 0.10.2).
    environment['JAX_COMPILATION_CACHE_DIR'] = str(folder / 'compiled')
    environment['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'
  return {'args': job, 'env': environment, 'cwd': ROOT}


def report(
  whole: pathlib.Path, killed: pathlib.Path, hit: list[str], wanted: int
) -> int:
  """Prints what differs; returns 1 if anything does, or too little was hit."""
  import numpy as np
  import workdirs

  a, b = workdirs.trees(whole), workdirs.trees(killed)
  bad = sorted(a.keys() ^ b.keys())
  for name in a.keys() & b.keys():
    same = a[name].keys() == b[name].keys() and all(
      x.dtype == b[name][k].dtype
      and np.array_equal(x.view(np.uint8), b[name][k].view(np.uint8))
      for k, x in a[name].items()
    )
    bad += [] if same else [name]
  texts = workdirs.texts(whole), workdirs.texts(killed)
  bad += sorted(
    name
    for name in texts[0].keys() | texts[1].keys()
    if texts[0].get(name) != texts[1].get(name)
  )
  left = [str(p) for name in LEFT_OVER for p in killed.rglob(name)]
  print(
    f'{len(hit)} of {wanted} kills hit a running job, in {len(set(hit))} '
    f'stages; {len(a)} trees and {len(texts[0])} files compared; different: '
    f'{bad or "none"}; left over: {left or "nothing"}'
  )
  few = len(hit) < wanted or len(set(hit)) < min(wanted, len(STAGES)) // 2
  return int(bool(bad or left or few))


if __name__ == '__main__':
  sys.exit(main())
