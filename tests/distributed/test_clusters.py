"""A cluster is found where there are others, and only there."""

import re

from process_group import MPI
from process_group import SLURM
import pytest

from mmu_jax.distributed import clusters


@pytest.mark.parametrize(
  'change',
  [
    {'SLURM_STEP_NODELIST': None},  # sbatch or salloc, without srun
    {'SLURM_NTASKS': '1'},
    {'SLURM_STEP_NUM_TASKS': '1'},  # a shell in an allocation for two
    {'SLURM_STEP_ID': '4294967290'},  # of salloc
    {'SLURM_STEP_ID': '4294967291'},  # of sbatch
  ],
  ids=str,
)
def test_a_slurm_shell_or_a_job_of_one_task_is_alone(change):
  assert clusters.find(SLURM)[0] == 'SLURM'
  environ = {k: v for k, v in (SLURM | change).items() if v is not None}
  assert clusters.find(environ) == ('', None)


@pytest.mark.parametrize(
  'environ, all_devices',
  [
    (SLURM, False),
    (SLURM | {'CUDA_VISIBLE_DEVICES': '3'}, True),  # --gpus-per-task=1
    (SLURM | {'CUDA_VISIBLE_DEVICES': '0,1'}, False),
    (SLURM | {'SLURM_STEP_NUM_NODES': '2'}, True),  # a task per machine
    (MPI, False),
    (MPI | {'OMPI_COMM_WORLD_LOCAL_SIZE': '1'}, True),
  ],
)
def test_a_task_with_its_own_gpus_takes_all_it_sees(environ, all_devices):
  _, options = clusters.find(environ)
  assert ('local_device_ids' in options) == all_devices


@pytest.mark.parametrize(
  'environ, name',
  [
    ({}, ''),
    ({'KUBERNETES_SERVICE_HOST': '10.0.0.1'}, ''),  # any pod
    ({'TPU_ML_PLATFORM': 'JAX'}, 'Cloud TPU'),
    ({'TPU_ML_PLATFORM': 'JAX', 'JAX_PLATFORMS': 'cpu'}, ''),
    ({'TPU_ML_PLATFORM': 'JAX', 'COLAB_RELEASE_TAG': 'r'}, ''),
    ({'TPU_ML_PLATFORM': 'JAX', 'TPU_SKIP_MDS_QUERY': '1'}, ''),
    ({'TPU_ML_PLATFORM': 'JAX', 'TPU_WORKER_HOSTNAMES': 'localhost'}, ''),
    ({'TPU_ML_PLATFORM': 'JAX', 'TPU_WORKER_HOSTNAMES': 'a,b'}, 'Cloud TPU'),
    (MPI, 'Open MPI'),
    (MPI | {'OMPI_COMM_WORLD_SIZE': '1'}, ''),
    (MPI | SLURM, 'Open MPI'),  # mpirun within an allocation
  ],
)
def test_a_cluster_is_one_only_where_there_are_others(environ, name):
  assert clusters.find(environ)[0] == name


def test_open_mpi_5_says_how_to_start():
  environ = {k: v for k, v in MPI.items() if 'hnp_uri' not in k}
  with pytest.raises(ValueError, match='--process_id=.OMPI_COMM_WORLD_RANK'):
    clusters.find(environ)


def test_a_pod_without_the_package_says_what_to_set(monkeypatch):
  environ = {'KUBERNETES_SERVICE_HOST': 'x', 'JOB_COMPLETION_INDEX': '1'}
  monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
  with pytest.raises(ValueError, match='pod 1 .* MMU_COORDINATOR'):
    clusters.find(environ)
  monkeypatch.setattr('importlib.util.find_spec', lambda name: name)
  assert clusters.find(environ) == ('Kubernetes', {})


@pytest.mark.parametrize(
  'arguments, told',
  [
    (('a:1', None, None), '--num_processes and --process_id is missing'),
    (('a:1', 2, None), '--process_id is missing'),
    (('a:1', 2, 2), 'process_id=2'),
    (('a:1', 0, 0), 'num_processes=0'),
    (('a:1', 'two', 0), 'num_processes=two'),
    (('a', 2, 0), "HOST:PORT, as in node1:8476; got 'a'"),
  ],
)
def test_what_is_given_is_checked(arguments, told):
  with pytest.raises(ValueError, match=re.escape(told)):
    clusters.options(arguments, {})


def test_arguments_go_before_variables_and_variables_before_a_cluster():
  environ = SLURM | dict(zip(clusters.VARIABLES, ('a:1', '2', '1')))
  options = clusters.options((None, None, None), environ)[1]
  assert options['coordinator_address'] == 'a:1'
  assert options['process_id'] == 1
  options = clusters.options((None, None, 0), environ)[1]
  assert options['process_id'] == 0
  assert clusters.options((None, 1, None), SLURM) == ('', None)
  assert clusters.options((None, None, None), SLURM)[0] == 'SLURM'
