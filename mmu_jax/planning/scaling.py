"""How a step scales on paper: weak and strong, and where it stops."""

from typing import NamedTuple

from mmu_jax.methods import Turn
from mmu_jax.models import Model
from mmu_jax.planning import chips
from mmu_jax.planning import layout
from mmu_jax.planning import traffic as traffic_lib
from mmu_jax.planning.memory import Setting
from mmu_jax.planning.shapes import Rows
from mmu_jax.planning.traffic import Times
from mmu_jax.planning.traffic import Traffic

DEVICES = (8, 16, 32, 64, 128, 256, 512, 1024)
COPY = 8  # devices of a copy of the model, in data x fsdp


class Point(NamedTuple):
  """A step on a number of devices.

  Attributes:
    mesh: as a config has it.
    devices: of the mesh.
    rows: of the whole batch.
    traffic: bytes and operations of a device.
    times: seconds of both, at the chip's best.
  """

  mesh: str
  devices: int
  rows: int
  traffic: Traffic
  times: Times


def points(
  model: Model,
  turn: Turn,
  rows: Rows,
  chip: chips.Chip,
  *,
  weak: bool = True,
  copies: bool = False,
  micro_batches: int = 1,
) -> list[Point]:
  """Returns a step on 8 to 1,024 devices.

  Args:
    model: what is trained.
    turn: of a method.
    rows: of the batch: of one device if ``weak``, else of all together.
    chip: of ``chips.CHIPS``.
    weak: whether the batch grows with the devices.
    copies: whether there is a copy of the model for every 8 devices, data x
      fsdp, instead of one for all.
    micro_batches: parts of a batch, one after the other.
  """
  found = []
  for devices in DEVICES:
    fsdp = COPY if copies else devices
    on = layout.mesh(data=devices // fsdp, fsdp=fsdp)
    count = rows.rows * devices if weak else rows.rows
    setting = Setting(on, micro_batches)
    made = rows._replace(rows=count)
    found.append(_point(model, turn, made, chip, setting))
  return found


def crossing(found: list[Point]) -> Point | None:
  """Returns the first point where moving takes longer than computing."""
  return next((p for p in found if p.times.bound == 'communication'), None)


def least_tokens(point: Point, rows: Rows) -> float:
  """Returns tokens a device from which on computing takes longer.

  Operations grow with the tokens, and what fsdp and data move does not.

  Args:
    point: of a mesh without tensor parallelism.
    rows: of one device at that point.
  """
  tokens = rows.rows * rows.length
  return tokens * point.times.move / point.times.compute


def _point(
  model: Model, turn: Turn, rows: Rows, chip: chips.Chip, setting: Setting
) -> Point:
  """A step on one mesh."""
  on = setting.mesh
  found = traffic_lib.of_turn(model, turn, rows, setting)
  times = traffic_lib.times(found, chip, on)
  return Point(layout.line(on), on.size, rows.rows, found, times)
