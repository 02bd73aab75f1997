"""Launchers start the same command, pass signals on, and end together."""

import os
import pathlib
import shlex
import signal
import subprocess
import sys
import textwrap
import time

import pytest
import yaml

from mmu_jax import preemption

ROOT = pathlib.Path(__file__).parents[2]
LAUNCH = ROOT / 'launch'
JOB = ['mmu', 'pipeline', '--config=configs/people.py', '--workdir=runs/a b']
SHELL = sorted([*LAUNCH.glob('*.sh'), *LAUNCH.glob('*.sbatch')])
PSUM = """
  import os, sys, time
  import jax
  from mmu_jax import distributed
  distributed.initialize()
  who = jax.process_index()
"""


def _run(*command, **options):
  return subprocess.run(
      [str(word) for word in command],
      capture_output=True, text=True, check=False, cwd=ROOT, **options,
  )  # fmt: skip


def _local(*options):
  return [sys.executable, str(LAUNCH / 'local.py'), *options]


def _program(folder, text):
  path = folder / 'program.py'
  path.write_text(textwrap.dedent(text))
  return [sys.executable, str(path)]


@pytest.mark.parametrize('path', SHELL, ids=lambda path: path.name)
def test_shell_scripts_parse_and_run_by_themselves(path):
  assert _run('bash', '-n', path).returncode == 0
  assert os.access(path, os.X_OK)
  done = _run('bash', path)  # nothing given: it says how it is used
  assert done.returncode == 2 and 'usage: ' in done.stderr


def test_the_readme_names_every_launcher():
  text = (LAUNCH / 'README.md').read_text()
  for path in LAUNCH.iterdir():
    assert path.name in text or path.name in ('README.md', '__pycache__')


@pytest.mark.parametrize('how', ['option', 'variable'])
def test_slurm_runs_the_command_by_srun(how):
  option = ['--dry_run'] if how == 'option' else []
  variable = {} if how == 'option' else {'DRY_RUN': '1'}
  script = LAUNCH / 'slurm.sbatch'
  environ = os.environ | variable | {'SLURM_CPUS_PER_TASK': '12'}
  done = _run('bash', script, *option, *JOB, env=environ)
  words = shlex.split(done.stdout)
  assert words[0] == 'srun' and words[-len(JOB) :] == JOB
  assert '--cpus-per-task=12' in words
  # One task per machine, time to save, and back into the queue.
  options = [
      line.split()[1]
      for line in script.read_text().splitlines()
      if line.startswith('#SBATCH')
  ]
  assert {'--ntasks-per-node=1', '--signal=TERM@120', '--requeue'} <= set(
      options
  )


@pytest.mark.parametrize('code, requeued', [(75, True), (1, False), (0, False)])
def test_slurm_puts_a_job_that_saved_back_into_the_queue(
    tmp_path, code, requeued
):
  # srun and scontrol are stood in for: no SLURM is needed.
  for name, text in (
      ('srun', f'exit {code}'), ('scontrol', 'echo "scontrol $*"')
  ):  # fmt: skip
    (tmp_path / name).write_text(f'#!/bin/bash\n{text}\n')
    (tmp_path / name).chmod(0o755)
  path = f'{tmp_path}{os.pathsep}{os.environ["PATH"]}'
  environ = os.environ | {'PATH': path, 'SLURM_JOB_ID': '17'}
  done = _run('bash', LAUNCH / 'slurm.sbatch', *JOB, env=environ)
  assert done.returncode == code
  assert ('scontrol requeue 17' in done.stdout) == requeued
  assert preemption.EXIT_CODE == 75


@pytest.mark.parametrize(
    'command, words',
    [
        (['create'], ['queued-resources', 'create', '--node-id=tpu7',
                      '--accelerator-type=v6e-32', '--spot']),
        (['state'], ['queued-resources', 'describe', 'tpu7']),
        (['install'], ['--worker=all', 'ssh', 'scp']),
        (['run', *JOB], ['ssh', 'tpu7', '--worker=all']),
        (['logs'], ['ssh', '--worker=0']),
        (['stop'], ['--worker=all', '--command=kill -TERM $(cat mmu.pid)']),
        (['delete'], ['queued-resources', 'delete', 'tpu7', '--force']),
    ],
    ids=lambda x: x[0],
)  # fmt: skip
def test_tpu_vm_prints_its_gcloud_commands(command, words):
  environ = os.environ | {
      'TPU_NAME': 'tpu7', 'TPU_TYPE': 'v6e-32', 'TPU_SPOT': '1'
  }  # fmt: skip
  done = _run(LAUNCH / 'tpu_vm.sh', '--dry_run', *command, env=environ)
  assert done.returncode == 0, done.stderr
  # What is printed is good shell, with every word as it was.
  shown = "gcloud() { printf '%s\\0' gcloud \"$@\"; }; git() { :; }\n"
  found = _run('bash', '-euc', shown + done.stdout).stdout.split('\0')
  assert 'gcloud' in found and set(words) <= set(found)
  if command[0] == 'run':  # the line for the hosts, too
    line = next(w for w in found if w.startswith('--command='))
    assert _run('bash', '-n', '-c', line[10:]).returncode == 0
    job = line.partition('nohup ')[2].partition(' > ')[0]
    assert shlex.split(job) == JOB


def _pod(manifest):
  job = manifest['spec']['replicatedJobs'][0]
  spec = job['template']['spec']
  (container,) = spec['template']['spec']['containers']
  return job, spec, container


def _variables(container):
  return {x['name']: x.get('value') for x in container['env']}


def test_the_jobset_starts_all_pods_again_after_a_save_and_fails_otherwise():
  manifest = yaml.safe_load((LAUNCH / 'gke_jobset.yaml').read_text())
  assert manifest['apiVersion'] == 'jobset.x-k8s.io/v1alpha2'
  job, spec, container = _pod(manifest)
  # A rule for 75 fails the job for a reason that starts the set again.
  saved, evicted = spec['podFailurePolicy']['rules']
  assert saved['action'] == evicted['action'] == 'FailJob'
  assert saved['onExitCodes'] == {
      'containerName': container['name'],
      'operator': 'In',
      'values': [preemption.EXIT_CODE],
  }
  assert evicted['onPodConditions'] == [
      {'type': 'DisruptionTarget', 'status': 'True'}
  ]
  rules = {
      reason: rule['action']
      for rule in manifest['spec']['failurePolicy']['rules']
      for reason in rule['onJobFailureReasons']
  }
  assert rules == {
      'PodFailurePolicy': 'RestartJobSetAndIgnoreMaxRestarts',
      'BackoffLimitExceeded': 'FailJobSet',
  }
  # Needed by podFailurePolicy; and one pod alone is never started again.
  assert spec['template']['spec']['restartPolicy'] == 'Never'
  assert spec['backoffLimit'] == 0
  # The processes find each other.
  variables = _variables(container)
  name = manifest['metadata']['name']
  host = f'{name}-{job["name"]}-0-0.{name}'
  assert variables['MMU_COORDINATOR'] == f'{host}:8476'
  assert variables['MMU_NUM_PROCESSES'] == str(spec['parallelism'])
  assert spec['parallelism'] == spec['completions']
  assert 'MMU_PROCESS_ID' in variables
  assert container['command'][:2] == ['mmu', 'pipeline']


def test_gke_fills_in_the_manifest():
  command = [*JOB, '--config.note=a "b" & \\c|d']
  environ = os.environ | {
      'NAME': 'people', 'NODES': '4', 'GPUS': '1', 'IMAGE': 'here/mmu:2'
  }  # fmt: skip
  done = _run(LAUNCH / 'gke.sh', '--dry_run', *command, env=environ)
  manifest = yaml.safe_load(done.stdout)
  _, spec, container = _pod(manifest)
  assert container['command'] == command
  assert container['image'] == 'here/mmu:2'
  assert container['resources']['limits'] == {'nvidia.com/gpu': 1}
  assert spec['parallelism'] == spec['completions'] == 4
  variables = _variables(container)
  assert variables['MMU_NUM_PROCESSES'] == '4'
  assert variables['MMU_COORDINATOR'] == 'people-workers-0-0.people:8476'
  assert 'gke.sh: ' not in done.stdout.split('apiVersion')[1]
  done = _run(LAUNCH / 'gke.sh', *JOB, env=os.environ | {'NODES': 'two'})
  assert done.returncode == 2 and "got 'two'" in done.stderr


def test_the_image_has_mmu_as_its_first_process():
  lines = (LAUNCH / 'Dockerfile').read_text().splitlines()
  (last,) = [line for line in lines if line.startswith('CMD')]
  assert last == 'CMD ["mmu", "--help"]'
  assert not any(line.startswith('ENTRYPOINT') for line in lines)
  copied = {
      name
      for line in lines
      if line.startswith('COPY')
      for name in line.split()[1:-1]
  }
  assert all((ROOT / name).exists() for name in copied)


def test_skypilot_runs_the_command_on_every_machine(tmp_path):
  task = yaml.safe_load((LAUNCH / 'skypilot.yaml').read_text())
  recovery = task['resources']['job_recovery']
  assert recovery['recover_on_exit_codes'] == [preemption.EXIT_CODE]
  assert task['envs']['COMMAND'].startswith('mmu pipeline ')
  assert task['num_nodes'] > 1
  # Its shell lines are run with the variables that SkyPilot sets.
  shown = 'printenv MMU_COORDINATOR MMU_NUM_PROCESSES MMU_PROCESS_ID'
  done = _run('bash', '-euc', task['run'], env=os.environ | {
      'SKYPILOT_NODE_IPS': '10.0.0.5\n10.0.0.6', 'SKYPILOT_NUM_NODES': '2',
      'SKYPILOT_NODE_RANK': '1', 'COMMAND': shown,
  })  # fmt: skip
  assert done.stdout.split() == ['10.0.0.5:8476', '2', '1']
  assert _run('bash', '-n', '-c', task['setup']).returncode == 0


def test_the_local_dry_run_prints_every_process():
  flags = '--xla_a=1 --xla_force_host_platform_device_count=8'
  environ = os.environ | {'XLA_FLAGS': flags}
  done = _run(
      *_local('--processes=3', '--devices=4', '--port=123', '--dry_run', '--'),
      *JOB, env=environ,
  )  # fmt: skip
  lines = [shlex.split(line) for line in done.stdout.splitlines()]
  assert [line[-len(JOB) :] for line in lines] == [JOB] * 3
  for i, line in enumerate(lines):
    given = dict(word.split('=', 1) for word in line[: -len(JOB)])
    assert given == {
        'MMU_COORDINATOR': 'localhost:123',
        'MMU_NUM_PROCESSES': '3',
        'MMU_PROCESS_ID': str(i),
        'JAX_PLATFORMS': 'cpu',
        'XLA_FLAGS': '--xla_a=1 --xla_force_host_platform_device_count=4',
    }


def test_the_local_launcher_gives_every_process_a_gpu():
  environ = {k: v for k, v in os.environ.items() if k != 'CUDA_VISIBLE_DEVICES'}
  dry = _local('--processes=2', '--gpus', '--dry_run', '--', 'mmu')
  text = _run(*dry, env=environ).stdout
  assert 'CUDA_VISIBLE_DEVICES=0 ' in text and '_DEVICES=1 ' in text
  text = _run(*dry, env=environ | {'CUDA_VISIBLE_DEVICES': '6,4'}).stdout
  assert 'CUDA_VISIBLE_DEVICES=6 ' in text and '_DEVICES=4 ' in text
  done = _run(*dry, env=environ | {'CUDA_VISIBLE_DEVICES': '6'})
  assert done.returncode == 2 and 'fewer GPUs' in done.stderr


def test_two_local_processes_sum_over_their_devices(tmp_path):
  command = _program(tmp_path, PSUM + """
  from jax.experimental import multihost_utils
  total = multihost_utils.process_allgather(jax.numpy.ones(3) * (who + 1))
  print(f'{who}: {float(total.sum())} on {jax.device_count()}')
  """)  # fmt: skip
  logs = tmp_path / 'logs'
  done = _run(
      *_local('--processes=2', '--devices=3', f'--logs={logs}', '--'), *command,
      env=os.environ | {'PYTHONPATH': str(ROOT)},
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  assert '0: 9.0 on 6' in done.stdout and '1: 9.0' not in done.stdout
  assert '1: 9.0 on 6' in (logs / '1.log').read_text()


def test_a_process_that_fails_ends_the_others_and_is_shown(tmp_path):
  command = _program(tmp_path, """
  import os, sys, time
  if os.environ['MMU_PROCESS_ID'] == '2':
    sys.exit('the disk is full')
  time.sleep(60)
  """)
  started = time.monotonic()
  done = _run(*_local('--processes=3', '--'), *command)
  assert time.monotonic() - started < 20
  assert done.returncode == 1
  assert done.stderr.splitlines() == [
      'local.py: process 2 ended with exit code 1.',
      'Last lines of process 2:',
      'the disk is full',
  ]


def test_a_signal_that_kills_a_process_gives_the_code_of_a_shell(tmp_path):
  command = _program(tmp_path, """
  import os, signal
  os.kill(os.getpid(), signal.SIGKILL)
  """)
  done = _run(*_local('--processes=1', '--'), *command)
  assert done.returncode == 128 + signal.SIGKILL
  assert 'process 0 ended with SIGKILL' in done.stderr


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_all_processes_and_75_comes_back(tmp_path, number):
  command = _program(tmp_path, f"""
  import os, pathlib, signal, sys, time
  folder = pathlib.Path({str(tmp_path)!r})
  def save(number, frame):
    time.sleep(0.3 * int(os.environ['MMU_PROCESS_ID']))
    (folder / ('saved' + os.environ['MMU_PROCESS_ID'])).touch()
    sys.exit(75)
  signal.signal({int(number)}, save)
  (folder / ('ready' + os.environ['MMU_PROCESS_ID'])).touch()
  time.sleep(60)
  """)
  with subprocess.Popen(
      [*_local('--processes=3', '--'), *command], stderr=subprocess.PIPE
  ) as launcher:
    while len(list(tmp_path.glob('ready*'))) < 3:
      time.sleep(0.05)
    launcher.send_signal(number)
    assert launcher.wait(20) == 75
    assert launcher.stderr.read() == b''  # nothing failed
  assert len(list(tmp_path.glob('saved*'))) == 3


def test_a_launcher_that_is_killed_leaves_nothing_running(tmp_path):
  if sys.platform != 'linux':
    pytest.skip('only Linux tells a process that its parent has ended')
  command = _program(tmp_path, f"""
  import os, pathlib, time
  path = pathlib.Path({str(tmp_path)!r}, 'pid' + os.environ['MMU_PROCESS_ID'])
  path.with_suffix('.part').write_text(str(os.getpid()))
  path.with_suffix('.part').rename(path)
  time.sleep(60)
  """)
  with subprocess.Popen([*_local('--processes=2', '--'), *command]) as launcher:
    while len(list(tmp_path.glob('pid?'))) < 2:
      time.sleep(0.05)
    launcher.kill()
  pids = [int(path.read_text()) for path in tmp_path.glob('pid?')]
  end = time.monotonic() + 10
  while any(_runs(pid) for pid in pids) and time.monotonic() < end:
    time.sleep(0.05)
  assert not any(_runs(pid) for pid in pids)


def _runs(pid):
  """Whether a process has not ended (a zombie has)."""
  try:
    stat = pathlib.Path(f'/proc/{pid}/stat').read_text()
  except FileNotFoundError:
    return False
  return stat.rpartition(')')[2].split()[0] != 'Z'


@pytest.mark.parametrize(
    'options, told',
    [
        (['--processes=0', '--', 'mmu'], '--processes is at least 1'),
        (['--processes=2', '--'], 'give the command after --'),
        (['--gpus', '--devices=2', '--', 'mmu'], 'exclude each other'),
    ],
)
def test_the_local_launcher_says_what_is_wrong(options, told):
  done = _run(*_local(*options))
  assert done.returncode == 2 and told in done.stderr
  assert _run(*_local('--', 'no_such_command')).returncode == 127
