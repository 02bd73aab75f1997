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
TIGHT = 0.9  # of the memory: the estimate is good to ten per cent
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
    note: what else it does, '' for nothing.
  """

  name: str
  worst: Worst
  note: str = ''


def worst(found: Sequence[Program], model: Model, setting: Setting) -> Worst:
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

  What fits leaves a tenth of the memory free, as estimates are good to that.

  Args:
    found: the programs of a job.
    model: with its dtype and remat policy.
    setting: its levers stay; its mesh is not read.
    hbm: bytes of a device.

  Returns:
    fsdp alone if that can, else with tensor; None if 1,024 devices cannot.
  """
  for on in _meshes():
    if worst(found, model, setting._replace(mesh=on)).peak <= TIGHT * hbm:
      return on
  return None


def levers(
  found: Sequence[Program], model: Model, setting: Setting
) -> list[Lever]:
  """Returns the levers that lower the peak, and all of those together.

  Args:
    found: the programs of a job.
    model: with its dtype and remat policy.
    setting: the mesh, and what is set already.
  """
  now = worst(found, model, setting).peak
  made, everything, kinds, helping = model, setting, set(), []
  for name, changed, where in _tried(found, model, setting):
    then = worst(found, changed, where)
    if then.peak >= now:
      continue
    helping.append(Lever(name, then, _padded(found, setting, where)))
    kinds.add(name.partition('=')[0])
    if changed is not model:
      made = changed  # the strongest comes last
    else:
      everything = everything._replace(
        **{k: v for k, v in where._asdict().items() if v != getattr(setting, k)}
      )
  if len(kinds) > 1:
    then = worst(found, made, everything)
    note = _padded(found, setting, everything)
    helping.append(Lever('all of them', then, note))
  return helping


def _tried(
  found: Sequence[Program], model: Model, setting: Setting
) -> Iterator[tuple[str, Model, Setting]]:
  """What could be set, and the model and setting that it makes."""
  for remat in list(REMAT)[list(REMAT).index(model.config.remat) + 1 :]:
    yield f'model.remat={remat}', _with(model, remat), setting
  micro = _most_micro_batches(found, setting)
  if micro > setting.micro_batches:
    split = setting._replace(micro_batches=micro)
    yield f'micro_batches={micro}', model, split
  if any(p.reference for p in found) and not setting.offload:
    waits = setting._replace(offload=('reference',))
    yield "offload=('reference',)", model, waits


def _padded(found: Sequence[Program], now: Setting, then: Setting) -> str:
  """Which batches of training get more rows of padding than they have now."""
  sizes = sorted({p.rows.rows for p in found if p.trains})
  count = lambda n, on: sharding.row_count(n, on.mesh, on.micro_batches)
  grown = [
    f'{n} rows are computed as {count(n, then)}'
    for n in sizes
    if count(n, then) > count(n, now)
  ]
  return '; '.join(grown)


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
