"""Launchers start the same command, pass signals on, and end together."""

import importlib.util
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

from mmu_jax.distributed import preemption

ROOT = pathlib.Path(__file__).parents[2]
LAUNCH = ROOT / 'launch'
JOB = ['mmu', 'pipeline', '--config=people', '--workdir=runs/a b']
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
    capture_output=True,
    text=True,
    check=False,
    cwd=ROOT,
    **options,
  )


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
  assert words[0].startswith('XLA_FLAGS=')
  assert words[1] == 'srun' and words[-len(JOB) :] == JOB
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
    ('srun', f'exit {code}'),
    ('scontrol', 'echo "scontrol $*"'),
  ):
    (tmp_path / name).write_text(f'#!/bin/bash\n{text}\n')
    (tmp_path / name).chmod(0o755)
  path = f'{tmp_path}{os.pathsep}{os.environ["PATH"]}'
  environ = os.environ | {'PATH': path, 'SLURM_JOB_ID': '17'}
  done = _run('bash', LAUNCH / 'slurm.sbatch', *JOB, env=environ)
  assert done.returncode == code
  assert ('scontrol requeue 17' in done.stdout) == requeued
  assert preemption.EXIT_CODE == 75


GPU = ('XLA_FLAGS', 'XLA_CLIENT_MEM_FRACTION', 'XLA_PYTHON_CLIENT_MEM_FRACTION')
SENDING = '--xla_gpu_enable_latency_hiding_scheduler=true'
EXACT = '--xla_gpu_deterministic_ops'
SHOWN = f'printenv {" ".join(GPU)}; true'


def _without(names):
  left = {k: v for k, v in os.environ.items() if k not in names}
  return left | {'MMU_EXACT': ''}


def _gpu_settings(where, tmp_path, given):
  """What a launcher gives a process, and what the user has set."""
  environ = _without(GPU) | given
  if where == 'slurm.sbatch':
    (tmp_path / 'srun').write_text('#!/bin/bash\nshift 3\nexec "$@"\n')
    (tmp_path / 'srun').chmod(0o755)
    environ['PATH'] = f'{tmp_path}{os.pathsep}{environ["PATH"]}'
    job = ['bash', '-c', SHOWN]
    return _run('bash', LAUNCH / where, *job, env=environ).stdout
  if where == 'skypilot.yaml':
    task = yaml.safe_load((LAUNCH / where).read_text())
    environ |= {
      'SKYPILOT_NUM_NODES': '1',
      'SKYPILOT_NODE_RANK': '0',
      'SKYPILOT_NODE_IPS': '::1',
      'COMMAND': f'bash -c {shlex.quote(SHOWN)}',
    }
    return _run('bash', '-euc', task['run'], env=environ).stdout
  job = _local('--processes=1', '--gpus', '--', 'bash', '-c', SHOWN)
  return _run(*job, env=environ).stdout


@pytest.mark.parametrize('where', ['slurm.sbatch', 'skypilot.yaml', 'local.py'])
def test_gpus_are_used_whole_and_repeat_every_bit_where_asked(where, tmp_path):
  for said in ('', '0'):
    given = {'MMU_EXACT': said}
    flags, memory = _gpu_settings(where, tmp_path, given).splitlines()
    assert (flags.split(), memory) == ([SENDING], '0.95')
  asked = {'MMU_EXACT': '1'}
  flags = _gpu_settings(where, tmp_path, asked).splitlines()[0]
  assert flags.split() == [SENDING, f'{EXACT}=true']
  given = {'XLA_FLAGS': f'--xla_a=1 {EXACT}=false', GPU[1]: '0.5'}
  flags, memory = _gpu_settings(where, tmp_path, asked | given).splitlines()
  assert '--xla_a=1' in flags and memory == '0.5'
  assert flags.split()[-1] == f'{EXACT}=false'  # the last one counts
  # JAX refuses to start where both names are set.
  assert _gpu_settings(where, tmp_path, {GPU[2]: '0.4'}).splitlines()[1:] == [
    '0.4'
  ]


def test_images_and_pods_have_the_same_settings():
  lines = (LAUNCH / 'Dockerfile').read_text().splitlines()
  manifest = yaml.safe_load((LAUNCH / 'gke_jobset.yaml').read_text())
  variables = _variables(_pod(manifest)[2])
  for name, value in zip(GPU, (SENDING, '0.95')):
    assert f'ENV {name}={value}' in lines
    assert variables[name] == value


def test_a_host_on_which_mmu_runs_does_not_start_another(tmp_path):
  # The line for the hosts is run here, in a home of its own.
  (tmp_path / 'mmu').mkdir()
  done = _run(LAUNCH / 'tpu_vm.sh', '--dry_run', 'run', 'sleep', '60')
  shown = 'gcloud() { printf %s "${@: -1}"; }\n' + done.stdout
  line = _run('bash', '-c', shown).stdout.removeprefix('--command=')
  host = lambda: subprocess.run(
    ['bash', '-c', line],
    cwd=tmp_path,
    capture_output=True,
    text=True,
    check=False,
    env=os.environ | {'HOME': str(tmp_path)},
  )
  pid = tmp_path / 'mmu.pid'
  started = []
  try:
    assert host().returncode == 0
    started.append(int(pid.read_text()))
    refused = host()
    assert refused.returncode == 1
    assert f'already, as process {started[0]}: end it by' in refused.stderr
    assert int(pid.read_text()) == started[0]
    os.kill(started[0], signal.SIGKILL)
    end = time.monotonic() + 10
    while _runs(started[0]) and time.monotonic() < end:
      time.sleep(0.05)
    pid.write_text('999999999')  # of a process that has ended
    assert host().returncode == 0
    started.append(int(pid.read_text()))
  finally:
    for number in started:
      try:
        os.kill(number, signal.SIGKILL)
      except ProcessLookupError:
        pass


@pytest.mark.parametrize(
  'command, words',
  [
    (
      ['create'],
      [
        'queued-resources',
        'create',
        '--node-id=tpu7',
        '--accelerator-type=v6e-32',
        '--spot',
      ],
    ),
    (['state'], ['queued-resources', 'describe', 'tpu7']),
    (['install'], ['--worker=all', 'ssh', 'scp']),
    (['run', *JOB], ['ssh', 'tpu7', '--worker=all']),
    (['logs'], ['ssh', '--worker=0']),
    (['stop'], ['--worker=all', '--command=kill -TERM $(cat mmu.pid)']),
    (['delete'], ['queued-resources', 'delete', 'tpu7', '--force']),
  ],
  ids=lambda x: x[0],
)
def test_tpu_vm_prints_its_gcloud_commands(command, words):
  environ = os.environ | {
    'TPU_NAME': 'tpu7',
    'TPU_TYPE': 'v6e-32',
    'TPU_SPOT': '1',
  }
  done = _run(LAUNCH / 'tpu_vm.sh', '--dry_run', *command, env=environ)
  assert done.returncode == 0, done.stderr
  # What is printed is good shell, with every word as it was.
  shown = 'gcloud() { printf \'%s\\0\' gcloud "$@"; }; git() { :; }\n'
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
  command = [*JOB[:-1], '--workdir=/runs/a b', '--config.note=a "b" & \\c|d']
  environ = os.environ | {
    'NAME': 'people',
    'NODES': '4',
    'GPUS': '1',
    'IMAGE': 'here/mmu:2',
    'MMU_EXACT': '1',
  }
  done = _run(LAUNCH / 'gke.sh', '--dry_run', *command, env=environ)
  manifest = yaml.safe_load(done.stdout)
  _, spec, container = _pod(manifest)
  assert container['command'] == command
  assert container['image'] == 'here/mmu:2'
  assert container['resources']['limits'] == {'nvidia.com/gpu': 1}
  assert spec['parallelism'] == spec['completions'] == 4
  variables = _variables(container)
  assert variables['MMU_NUM_PROCESSES'] == '4'
  assert variables['XLA_FLAGS'].split() == [SENDING, f'{EXACT}=true']
  assert variables['MMU_COORDINATOR'] == 'people-workers-0-0.people:8476'
  assert 'gke.sh: ' not in done.stdout.split('apiVersion')[1]


def test_gke_refuses_a_lost_workdir_no_image_and_a_wrong_number(tmp_path):
  called = tmp_path / 'called'
  kubectl = tmp_path / 'kubectl'
  kubectl.write_text(f'#!/bin/sh\ntouch {called}\n')
  kubectl.chmod(0o755)
  path = {'PATH': f'{tmp_path}:{os.environ["PATH"]}', 'IMAGE': 'here/mmu:2'}

  def wrong(*words, **environ):
    done = _run(LAUNCH / 'gke.sh', *words, env=os.environ | path | environ)
    assert done.returncode == 2 and not called.exists()
    return done.stderr

  assert "got 'two'" in wrong(*JOB, NODES='two')
  job = JOB[:-1]
  assert 'set IMAGE to an image' in wrong(*job, IMAGE='')
  done = _run(
    *(LAUNCH / 'gke.sh', '--dry_run', *job), env=os.environ | {'IMAGE': ''}
  )
  assert done.returncode == 0 and 'image: mmu:latest' in done.stdout
  assert "got '--workdir=/a'" in wrong('--dry_run', *job, '--workdir=/a')
  assert "got '--workdir=/runs/../a'" in wrong(*job, '--workdir=/runs/../a')
  assert "got '--workdir=/tmp/runs/a'" in wrong(*job, '--workdir=/tmp/runs/a')
  assert "got '--workdir=runs/a'" in wrong(*job, '--workdir', 'runs/a')
  for words in ('--workdir=/runs/a',), ('--workdir', '/runs/a'):
    called.unlink(missing_ok=True)
    done = _run(LAUNCH / 'gke.sh', *job, *words, env=os.environ | path)
    assert done.returncode == 0 and called.exists(), done.stderr


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
  done = _run(
    'bash',
    '-euc',
    task['run'],
    env=os.environ
    | {
      'SKYPILOT_NODE_IPS': '10.0.0.5\n10.0.0.6',
      'SKYPILOT_NUM_NODES': '2',
      'SKYPILOT_NODE_RANK': '1',
      'COMMAND': shown,
    },
  )
  assert done.stdout.split() == ['10.0.0.5:8476', '2', '1']
  assert _run('bash', '-n', '-c', task['setup']).returncode == 0
  # An argument with a space and one with a quote come out as they were.
  words = ['--workdir=/runs/a b', '--config.note=it\'s "c"']
  done = _run(
    'bash',
    '-euc',
    task['run'],
    env=os.environ
    | {
      'SKYPILOT_NODE_IPS': '::1',
      'SKYPILOT_NUM_NODES': '1',
      'SKYPILOT_NODE_RANK': '0',
      'COMMAND': shlex.join(['printf', '%s\\n', *words]),
    },
  )
  assert done.stdout.splitlines() == words


def test_the_local_dry_run_prints_every_process():
  flags = '--xla_a=1 --xla_force_host_platform_device_count=8'
  environ = os.environ | {'XLA_FLAGS': flags}
  done = _run(
    *_local('--processes=3', '--devices=4', '--port=123', '--dry_run', '--'),
    *JOB,
    env=environ,
  )
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
  command = _program(
    tmp_path,
    PSUM
    + """
  from jax.experimental import multihost_utils
  total = multihost_utils.process_allgather(jax.numpy.ones(3) * (who + 1))
  print(f'{who}: {float(total.sum())} on {jax.device_count()}')
  """,
  )
  logs = tmp_path / 'logs'
  done = _run(
    *_local('--processes=2', '--devices=3', f'--logs={logs}', '--'),
    *command,
    env=os.environ | {'PYTHONPATH': str(ROOT)},
  )
  assert done.returncode == 0, done.stderr
  assert '0: 9.0 on 6' in done.stdout and '1: 9.0' not in done.stdout
  assert '1: 9.0 on 6' in (logs / '1.log').read_text()


def test_a_process_that_fails_ends_the_others_and_is_shown(tmp_path):
  command = _program(
    tmp_path,
    """
  import os, sys, time
  if os.environ['MMU_PROCESS_ID'] == '2':
    sys.exit('the disk is full')
  time.sleep(60)
  """,
  )
  started = time.monotonic()
  done = _run(*_local('--processes=3', '--'), *command)
  assert time.monotonic() - started < 20
  assert done.returncode == 1
  assert done.stderr.splitlines() == [
    'local.py: process 2 ended with exit code 1.',
    'Last lines of process 2:',
    'the disk is full',
  ]


def test_a_failure_goes_before_a_process_that_saved(tmp_path):
  command = _program(
    tmp_path,
    """
  import os, sys, time
  who = os.environ['MMU_PROCESS_ID']
  if who == '0':
    sys.exit(75)
  time.sleep(1)
  sys.exit('the disk is full' if who == '1' else 75)
  """,
  )
  done = _run(*_local('--processes=3', '--'), *command)
  assert done.returncode == 1
  assert 'process 1 ended with exit code 1' in done.stderr
  assert done.stderr.splitlines()[-1] == 'the disk is full'


def test_who_does_not_end_after_the_first_has_saved_is_ended(
  tmp_path, monkeypatch, capfd
):
  spec = importlib.util.spec_from_file_location('local', LAUNCH / 'local.py')
  local = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(local)
  assert local.SAVING == 120
  monkeypatch.setattr(local, 'SAVING', 1)
  monkeypatch.setattr(local.signal, 'signal', lambda *_: None)
  text = 'test $MMU_PROCESS_ID = 0 && exit 75; exec sleep 60'
  environs = [local.variables(i, 2, 1, 0, False) for i in range(2)]
  started = time.monotonic()
  assert local.run(['bash', '-c', text], environs, tmp_path) == 75
  assert 1 <= time.monotonic() - started < 20
  assert capfd.readouterr().err == ''


def test_commands_beside_python_are_found_first(tmp_path):
  # As in an environment that is not activated.
  (tmp_path / 'python').symlink_to(sys.executable)
  (tmp_path / 'mmu_here').write_text('#!/bin/bash\nprintenv PATH\n')
  (tmp_path / 'mmu_here').chmod(0o755)
  done = _run(
    tmp_path / 'python', LAUNCH / 'local.py', '--processes=1', '--', 'mmu_here'
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.split(os.pathsep)[0] == str(tmp_path)


def test_a_signal_that_kills_a_process_gives_the_code_of_a_shell(tmp_path):
  command = _program(
    tmp_path,
    """
  import os, signal
  os.kill(os.getpid(), signal.SIGKILL)
  """,
  )
  done = _run(*_local('--processes=1', '--'), *command)
  assert done.returncode == 128 + signal.SIGKILL
  assert 'process 0 ended with SIGKILL' in done.stderr


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_all_processes_and_75_comes_back(tmp_path, number):
  command = _program(
    tmp_path,
    f"""
  import os, pathlib, signal, sys, time
  folder = pathlib.Path({str(tmp_path)!r})
  def save(number, frame):
    time.sleep(0.3 * int(os.environ['MMU_PROCESS_ID']))
    (folder / ('saved' + os.environ['MMU_PROCESS_ID'])).touch()
    sys.exit(75)
  signal.signal({int(number)}, save)
  (folder / ('ready' + os.environ['MMU_PROCESS_ID'])).touch()
  time.sleep(60)
  """,
  )
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
  command = _program(
    tmp_path,
    f"""
  import os, pathlib, time
  path = pathlib.Path({str(tmp_path)!r}, 'pid' + os.environ['MMU_PROCESS_ID'])
  path.with_suffix('.part').write_text(str(os.getpid()))
  path.with_suffix('.part').rename(path)
  time.sleep(60)
  """,
  )
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
