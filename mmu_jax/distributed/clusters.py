"""Whether a process was started together with others, and by whom."""

from collections.abc import Mapping, Sequence
import importlib.util
from typing import Any

from mmu_jax.errors import UserError

VARIABLES = ('MMU_COORDINATOR', 'MMU_NUM_PROCESSES', 'MMU_PROCESS_ID')
FLAGS = ('--coordinator', '--num_processes', '--process_id')
_SHELLS = ('4294967290', '4294967291', '4294967292')  # SLURM steps of no srun


def options(
  arguments: Sequence[Any], environ: Mapping[str, str]
) -> tuple[str, dict[str, Any] | None]:
  """Returns how this process joins the others.

  Args:
    arguments: coordinator, number of processes and id of this one; None means
      the value of the variables ``MMU_...``. A number of 1 needs no others.
    environ: the environment variables, after JAX was imported; ``find`` looks
      through them if none of the three is given.

  Returns:
    ``(name, options)``: the cluster, or '' if the three were given, and the
    arguments for ``jax.distributed.initialize``; None for a single process.

  Raises:
    ValueError: if one of the three is missing or is not such a number, or if
      there are other processes that cannot be found.

  Example:
    >>> options((None, None, None), {})
    ('', None)
    >>> options((None, 1, None), {'SLURM_JOB_ID': '7'})
    ('', None)
    >>> options(('node1:8476', 4, 0), {})[1]['coordinator_address']
    'node1:8476'
  """
  given = _given(arguments, environ)
  return find(environ) if given is None else ('', _checked(*given))


def find(environ: Mapping[str, str]) -> tuple[str, dict[str, Any] | None]:
  """Looks for a cluster that started this process together with others.

  Under SLURM, Open MPI 4, Cloud TPU and Kubernetes, JAX finds the addresses by
  itself. This function decides whether it shall: the shell of an allocation, a
  cluster job of one task, or a lone machine would wait for others who never
  come.

  Args:
    environ: the environment variables, after JAX was imported.

  Returns:
    ``(name, options)``: which cluster, and the arguments for
    ``jax.distributed.initialize``; ``('', None)`` for a single process.

  Raises:
    ValueError: if there are other processes that JAX cannot find.

  Example:
    >>> find({'SLURM_JOB_ID': '7', 'SLURM_NTASKS': '4'})  # no srun
    ('', None)
    >>> step = {'SLURM_JOB_ID': '7', 'SLURM_STEP_NODELIST': 'n[1-4]',
    ...         'SLURM_NTASKS': '4', 'SLURM_STEP_NUM_NODES': '4',
    ...         'SLURM_PROCID': '2', 'SLURM_LOCALID': '0'}
    >>> find(step)
    ('SLURM', {'cluster_detection_method': 'slurm', 'local_device_ids': []})
  """
  for look in (_find_open_mpi, _find_slurm, _find_tpu, _find_kubernetes):
    found = look(environ)
    if found is not None:
      return found
  return '', None


def found_by(where):
  """How processes were found: 'found by SLURM', 'as given'."""
  return f'found by {where}' if where else 'as given'


def advice():
  """Says what to do where processes are not found."""
  return (
    'Give --coordinator=HOST:PORT --num_processes=N --process_id=I to every '
    f'process, or set {", ".join(VARIABLES)}; --num_processes=1 runs alone.'
  )


def _given(arguments, environ):
  """The three values of the arguments or the variables; None for none."""
  values = [
    (environ.get(name) or None) if value is None else value
    for name, value in zip(VARIABLES, arguments)
  ]
  if str(values[1]) == '1' and values[2] in (None, 0, '0'):
    return None, 1, 0
  missing = [f for f, value in zip(FLAGS, values) if value is None]
  if missing and len(missing) < len(values):
    raise UserError(
      f'several processes need {", ".join(FLAGS)} together; '
      f'{" and ".join(missing)} is missing. {advice()}'
    )
  return None if missing else values


def _checked(coordinator, num_processes, process_id):
  """Arguments for JAX of three values that were given; None for one process."""
  number = lambda x: int(x) if str(x).isdecimal() else -1
  total, mine = number(num_processes), number(process_id)
  if not 0 <= mine < total:
    raise UserError(
      'the number of processes is >= 1, and the id of a process lies between '
      f'0 and that number - 1; got num_processes={num_processes} and '
      f'process_id={process_id}.'
    )
  if total == 1:
    return None
  host, _, port = coordinator.rpartition(':')
  if not host or not port.isdecimal():
    raise UserError(
      'the coordinator is written HOST:PORT, as in node1:8476; got '
      f'{coordinator!r}.'
    )
  return {
    'coordinator_address': coordinator,
    'num_processes': total,
    'process_id': mine,
    'cluster_detection_method': 'deactivate',
  }


def _find_open_mpi(environ):
  """Open MPI; version 5 has no address that JAX could take."""
  size = environ.get('OMPI_COMM_WORLD_SIZE') or '1'
  if int(size) == 1:
    return None
  if 'OMPI_MCA_orte_hnp_uri' not in environ:
    raise UserError(
      f'mpirun started {size} processes, and this version of Open MPI (5) '
      "names no coordinator. Start them as mpirun ... sh -c 'mmu ... "
      '--coordinator=HOST:8476 --num_processes=$OMPI_COMM_WORLD_SIZE '
      "--process_id=$OMPI_COMM_WORLD_RANK', HOST being the machine of rank 0."
    )
  alone = environ.get('OMPI_COMM_WORLD_LOCAL_SIZE') == '1'
  return 'Open MPI', _cluster('ompi', alone or _has_one_gpu(environ))


def _find_slurm(environ):
  """SLURM: a step of several tasks, and no shell of sbatch or salloc."""
  needed = ('JOB_ID', 'STEP_NODELIST', 'NTASKS', 'PROCID', 'LOCALID')
  if any(f'SLURM_{name}' not in environ for name in needed):
    return None
  tasks = environ.get('SLURM_STEP_NUM_TASKS') or environ['SLURM_NTASKS']
  if environ.get('SLURM_STEP_ID') in _SHELLS or int(tasks) == 1:
    return None
  alone = environ.get('SLURM_STEP_NUM_NODES') == tasks
  return 'SLURM', _cluster('slurm', alone or _has_one_gpu(environ))


def _find_tpu(environ):
  """Cloud TPU: JAX asks the machine itself how many there are."""
  # JAX sets the first variable where it sees TPU chips when it is imported.
  if 'TPU_ML_PLATFORM' not in environ or 'COLAB_RELEASE_TAG' in environ:
    return None
  if 'tpu' not in (environ.get('JAX_PLATFORMS') or 'tpu'):
    return None
  hosts = environ.get('TPU_PROCESS_ADDRESSES')
  hosts = hosts or environ.get('TPU_WORKER_HOSTNAMES') or ''
  slices = int(environ.get('MEGASCALE_NUM_SLICES') or 1)
  if not hosts and 'TPU_SKIP_MDS_QUERY' in environ:
    return None  # the machine has nobody to ask
  if hosts and ',' not in hosts and slices == 1:
    return None
  return 'Cloud TPU', {}


def _find_kubernetes(environ):
  """Kubernetes: a job with numbered pods, as in a JobSet."""
  needed = ('KUBERNETES_SERVICE_HOST', 'JOB_COMPLETION_INDEX')
  if any(name not in environ for name in needed):
    return None
  if importlib.util.find_spec('kubernetes') is None:
    raise UserError(
      f'this is pod {environ["JOB_COMPLETION_INDEX"]} of a Kubernetes job, '
      'and JAX needs the package kubernetes to find the other pods. Install '
      f'it, or set {", ".join(VARIABLES)} as launch/gke_jobset.yaml does; '
      'MMU_NUM_PROCESSES=1 says that there is only this pod.'
    )
  return 'Kubernetes', {}


def _cluster(method, all_devices):
  """Arguments for JAX, which else takes the one GPU of the task's number.

  That is too few for the only task of a machine, and the wrong number where
  the launcher shows every task a GPU of its own.
  """
  options = {'cluster_detection_method': method}
  return options | ({'local_device_ids': []} if all_devices else {})


def _has_one_gpu(environ):
  """Whether the launcher gave this process a GPU of its own."""
  visible = environ.get('CUDA_VISIBLE_DEVICES')
  return bool(visible) and ',' not in visible
