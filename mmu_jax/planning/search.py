"""What fits: the smallest mesh, and the levers that help."""

from collections.abc import Iterator, Sequence
import dataclasses
from typing import NamedTuple

from jax.sharding import AbstractMesh

from mmu_jax import models
from mmu_jax import sharding
from mmu_jax.models import Model
from mmu_jax.models.layers import REMAT
from mmu_jax.planning import layout
from mmu_jax.planning import programs
from mmu_jax.planning.memory import Setting
from mmu_jax.planning.programs import Program

MOST = 1024  # devices
TENSOR = (2, 4, 8)


class Worst(NamedTuple):
  """The program that needs most.

  Attributes:
    peak: bytes on one device.
    stage: of the program.
    step: of the stage.
  """

  peak: int
  stage: str
  step: str


class Lever(NamedTuple):
  """A way to need less, or several at once.

  Attributes:
    name: what to set, as in a config.
    worst: what then needs most.
  """

  name: str
  worst: Worst


def worst(
    found: Sequence[Program], model: Model, setting: Setting
) -> Worst:
  """Returns the program that needs most, and how much.

  Args:
    found: the programs of a job.
    model: with its dtype and remat policy.
    setting: mesh and levers.
  """
  needs = [(programs.need(p, model, setting).peak, p) for p in found]
  peak, program = max(needs, key=lambda pair: pair[0])
  return Worst(peak, program.stage, program.step)


def smallest_mesh(
    found: Sequence[Program], model: Model, setting: Setting, hbm: int
) -> AbstractMesh | None:
  """Returns the mesh of fewest devices on which every program fits.

  Args:
    found: the programs of a job.
    model: with its dtype and remat policy.
    setting: its levers stay; its mesh is not read.
    hbm: bytes of a device.

  Returns:
    fsdp alone if that can, else with tensor; None if 1,024 devices cannot.
  """
  for on in _meshes():
    if worst(found, model, setting._replace(mesh=on)).peak <= hbm:
      return on
  return None


def levers(
    found: Sequence[Program], model: Model, setting: Setting
) -> list[Lever]:
  """Returns what each lever does to the program that needs most, and all.

  Args:
    found: the programs of a job.
    model: with its dtype and remat policy.
    setting: the mesh, and what is set already.
  """
  tried = []
  policy = model.config.remat
  stronger = list(REMAT)[list(REMAT).index(policy) + 1 :]
  for remat in stronger:
    made = _with(model, remat)
    tried.append((f'model.remat={remat}', made, setting))
  micro = _most_micro_batches(found, setting)
  if micro > setting.micro_batches:
    split = setting._replace(micro_batches=micro)
    tried.append((f'micro_batches={micro}', model, split))
  if any(p.reference for p in found) and not setting.offload:
    waits = setting._replace(offload=('reference',))
    tried.append(("offload=('reference',)", model, waits))
  if len(tried) > 1:
    made = _with(model, 'full')
    everything = setting._replace(
        micro_batches=max(micro, setting.micro_batches),
        offload=('reference',),
    )
    tried.append(('all of them', made, everything))
  return [Lever(name, worst(found, m, s)) for name, m, s in tried]


def _with(model: Model, remat: str) -> Model:
  """The same model with another policy."""
  return models.build(dataclasses.replace(model.config, remat=remat))


def _most_micro_batches(found: Sequence[Program], setting: Setting) -> int:
  """So many that a device computes one row of the largest batch at a time."""
  rows = max(p.rows.rows for p in found if p.turn is not None)
  parts = sharding.row_parts(setting.mesh)
  return max(-(-rows // parts), 1)


def _meshes() -> Iterator[AbstractMesh]:
  """Meshes to try: fsdp alone, then with tensor, each from few devices on."""
  sizes = [2**i for i in range(MOST.bit_length())]
  for fsdp in sizes:
    yield layout.mesh(fsdp=fsdp)
  for devices in sizes:
    for tensor in TENSOR:
      if devices // tensor:
        yield layout.mesh(fsdp=devices // tensor, tensor=tensor)
