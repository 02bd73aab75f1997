"""Runs all checks in a row, and prints them."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax

from mmu_jax import distributed
from mmu_jax.doctor import files
from mmu_jax.doctor import machines
from mmu_jax.errors import FAIL
from mmu_jax.errors import Finding
from mmu_jax.errors import UserError


class Examination(NamedTuple):
  """Findings about the machines and files of a job.

  Attributes:
    processes: result of ``machines.about`` in each process.
    speeds: times of sums over all devices.
    findings: all findings, in the order of the checks.
  """

  processes: Sequence[dict[str, Any]]
  speeds: Sequence[machines.Speed]
  findings: Sequence[Finding]

  @property
  def failed(self) -> bool:
    """Whether a job would fail."""
    return any(finding.state == FAIL for finding in self.findings)


def examine(
  config: Any = None, workdir: str = '', sizes: Sequence[int] = machines.SIZES
) -> Examination:
  """Looks over machines and files as a job would find them.

  Every process of the job calls it, and all get the same findings.

  Args:
    config: config of the job, a dict or ConfigDict; without one, paths and the
      size of checkpoints are not looked at.
    workdir: workdir of the job; '' for none.
    sizes: sizes of the arrays that are summed, bytes on each device.

  Example:
    >>> found = examine({'mesh': 'fsdp=-1'}, sizes=[4096])
    >>> found.failed, [f.what for f in found.findings][:3]
    (False, ['devices', 'versions', 'mesh'])
  """
  plain = config.to_dict() if hasattr(config, 'to_dict') else config
  processes = distributed.gather(machines.about())
  findings = [
    *machines.devices(processes),
    *machines.gpu_settings(processes),
    *machines.versions(processes),
    machines.mesh((plain or {}).get('mesh', 'fsdp=-1')),
  ]
  speeds, finding = machines.sums(sizes)
  findings.append(finding)
  if plain:
    findings += _of_config(plain, processes[0]['packages']['jax'])
  if workdir:
    findings.append(files.look_at_workdir(workdir))
    findings.append(_room(workdir, plain))
  return Examination(processes, speeds, tuple(findings))


def printed(found: Examination) -> list[Any]:
  """Returns an examination as tables and lines for ``rich.print``.

  Args:
    found: result of ``examine``.
  """
  from rich import box
  from rich.markup import escape
  from rich.table import Table

  who = Table(box=box.SIMPLE_HEAD)
  for title in ('process', 'host', 'devices', 'memory of each'):
    who.add_column(title)
  for i, x in enumerate(found.processes):
    memory = f'{x["memory"] / 2**30:.1f} GiB' if x['memory'] else 'unknown'
    who.add_row(
      str(i), escape(x['host']), f'{x["devices"]} x {x["kind"]}', memory
    )
  sums = Table(box=box.SIMPLE_HEAD, title='sum over all devices')
  for title in ('KiB on each', 'ms', 'GB/s'):
    sums.add_column(title, justify='right')
  for speed in found.speeds:
    sums.add_row(
      f'{speed.size / 1024:,.0f}',
      f'{speed.seconds * 1e3:.2f}',
      f'{speed.rate:.3f}',
    )
  lines = [finding.line() for finding in found.findings]
  return [who, *([sums] if found.speeds else []), *lines]


def _of_config(config, jax_version) -> list[Finding]:
  """Looks at the paths of a config, and at its kernels for attention."""
  fields = files.paths(config)
  found = files.missing_paths(config)
  found += [files.look_at_path(field, path) for field, path in fields.items()]
  batch = config.get('saliency', {}).get('granularity', 'batch') == 'batch'
  if config.get('model', {}).get('attention') == 'cudnn':
    if jax.devices()[0].platform != 'gpu':
      found.append(
        Finding(
          FAIL,
          'attention',
          'cudnn needs an NVIDIA GPU',
          "Set config.model.attention='xla'.",
        )
      )
    elif not batch and jax_version == '0.10.2':
      found.append(
        Finding(
          FAIL,
          'attention',
          'jax 0.10.2 cannot take the gradient of every example through cudnn',
          "Set config.model.attention='xla', or config.saliency."
          "granularity='batch'.",
        )
      )
  return found


def _room(workdir, config: Mapping[str, Any] | None) -> Finding:
  """Looks at the disk; a model that cannot be read is a finding too."""
  try:
    return files.look_at_disk(workdir, config)
  except (UserError, OSError) as error:
    return Finding(FAIL, 'size of the job', str(error), 'See config.model.')
