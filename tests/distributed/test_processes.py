"""Several real processes find each other, agree, and fail together."""

import time

import process_group
from process_group import MPI
from process_group import SLURM
import pytest

from mmu_jax import distributed
from mmu_jax.distributed import clusters

START = """
  import json, os, sys, time
  import jax
  from mmu_jax import distributed
"""
WITHOUT = dict.fromkeys(clusters.VARIABLES, '')  # removes ours


def test_a_single_process_gives_the_values_that_several_would():
  made = lambda: {1: (2, 3), 'a': float('inf')}
  assert distributed.first(made) == {'1': [2, 3], 'a': float('inf')}
  with pytest.raises(TypeError, match='made_set .* as JSON'):
    distributed.first(made_set)


def made_set():
  """Returns what JSON has no word for."""
  return {1}


def test_within_first_it_is_a_plain_call_and_a_barrier_is_an_error():
  assert distributed.first(distributed.first, max, 3, 4) == 4
  with pytest.raises(RuntimeError, match='written'):
    distributed.first(distributed.barrier, 'written')
  distributed.barrier('and afterwards it is none')


def test_two_processes_see_all_devices_and_get_what_the_first_found():
  first, second = process_group.results(
    START
    + """
  distributed.initialize()
  distributed.initialize()  # once more does nothing
  who = jax.process_index()
  for size in (0, 5, 4080, 4090, 5000, 300_000):
    made = distributed.first(lambda: [who, 'x' * size])
    assert made == [0, 'x' * size], (who, size, made[0], len(made[1]))
  distributed.barrier('end')
  print(json.dumps([who, jax.device_count(), distributed.is_first()]))
  """,
    devices=2,
  )
  assert first.splitlines() == [
    'process 0 of 2, as given; 2 devices here, 4 in all',
    '[0, 4, true]',
  ]
  assert second.splitlines() == ['[1, 4, false]']


def test_what_every_process_has_is_gathered_in_order():
  outputs = process_group.results(
    START
    + """
  distributed.initialize()
  mine = ['é' * 10 ** (3 * jax.process_index()), None]
  found = distributed.gather(mine)
  print([len(x[0]) for x in found], found[jax.process_index()] == mine)
  """
  )
  assert [text.splitlines()[-1] for text in outputs] == ['[1, 1000] True'] * 2


def test_processes_with_other_numbers_of_devices_are_refused():
  done = process_group.run("""
  import os
  count = 2 + int(os.environ['NUMBER'])
  os.environ['XLA_FLAGS'] = f'--xla_force_host_platform_device_count={count}'
  from mmu_jax import distributed
  distributed.initialize()
  """)
  assert [process.returncode for process in done] == [1, 1]
  assert all('0 to 1 have [2, 3]' in process.output for process in done)


def test_an_error_of_the_first_process_is_raised_by_all():
  outputs = process_group.results(
    START
    + """
  distributed.initialize()
  class Ours(FloatingPointError): pass
  class Strange(Exception): pass
  def fail(error): raise error
  for error in (
      ValueError('bad é'), FileNotFoundError(2, 'No such file', '/x'),
      OSError(28, 'No space left on device'), KeyError('k'),
      FloatingPointError('nan'), Ours('nan'), Strange('why'),
      UnicodeDecodeError('utf-8', b'x', 0, 1, 'r'),
  ):
    try:
      distributed.first(fail, error)
    except Exception as e:
      kind = type(e).__name__
      print(json.dumps([kind, str(e), getattr(e, 'errno', None)]))
  try:
    distributed.first(set)
  except TypeError as e:
    print(e)
  print(distributed.first(max, 1, 2))
  """
  )
  first, second = (text.splitlines() for text in outputs)
  for ours, builtin in (
    ('Ours', 'FloatingPointError'),
    ('Strange', 'RuntimeError'),
    ('UnicodeDecodeError', 'ValueError'),
  ):
    first = [line.replace(f'"{ours}"', f'"{builtin}"') for line in first]
  assert first[1:] == second
  assert second[1] == (
    '["FileNotFoundError", "[Errno 2] No such file: \'/x\'", 2]'
  )
  assert len(second) == 10 and second[-1] == '2'


@pytest.mark.parametrize('who', [0, 1])
def test_a_process_that_fails_alone_does_not_leave_the_others_waiting(who):
  started = time.monotonic()
  done = process_group.run(
    START
    + """
  from mmu_jax.distributed import processes
  processes.ENDING = 3
  distributed.initialize()
  if jax.process_index() == int(sys.argv[1]):
    raise ValueError('only here')
  distributed.barrier('where the others never come')
  """,
    arguments=[str(who)],
  )
  assert all(process.returncode for process in done)
  assert 'ValueError: only here' in done[who].output
  assert time.monotonic() - started < 60


def test_it_says_that_it_waits_for_the_others():
  # A single process of two: what a person sees who forgot to start the other.
  done = process_group.run(
    START
    + """
  from mmu_jax.distributed import processes
  processes.PATIENCE = 0.5
  distributed.initialize(sys.argv[1], 2, 0)
  """,
    processes=1,
    arguments=[f'localhost:{process_group.free_port()}'],
    environ=WITHOUT,
    timeout=20,
  )
  assert 'still waiting for the other processes, as given' in done[0].output


def test_it_must_come_before_any_device():
  done = process_group.run(
    START
    + """
  jax.devices()
  distributed.initialize()
  """
  )
  assert [process.returncode for process in done] == [1, 1]
  assert 'must be called before' in done[0].output


@pytest.mark.parametrize('cluster', ['SLURM', 'Open MPI'])
def test_a_cluster_is_found_by_its_variables_alone(cluster):
  # Real processes; the numbers that srun and mpirun would give are set here.
  base = SLURM if cluster == 'SLURM' else MPI
  names = {
    'SLURM': ('SLURM_PROCID', 'SLURM_LOCALID'),
    'Open MPI': ('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_LOCAL_RANK'),
  }[cluster]
  outputs = process_group.results(
    START
    + f"""
  for name in {names}:
    os.environ[name] = os.environ['NUMBER']
  distributed.initialize()
  print(jax.process_index(), jax.process_count())
  """,
    environ=WITHOUT
    | base
    | {'JAX_COORDINATOR_PORT': str(process_group.free_port())},
  )
  assert f'process 0 of 2, found by {cluster}' in outputs[0]
  assert [text.splitlines()[-1] for text in outputs] == ['0 2', '1 2']


def test_a_slurm_task_alone_stays_alone():
  (output,) = process_group.results(
    START
    + """
  distributed.initialize()
  print(jax.process_count(), jax.distributed.is_initialized())
  """,
    processes=1,
    environ=WITHOUT | SLURM | {'SLURM_NTASKS': '1'},
  )
  assert output.split() == ['1', 'False']
