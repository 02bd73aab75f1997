"""What XLA says of the memory of a real step, compiled from shapes alone.

As a program, ``python -m mmu_jax.planning.compiled``, it does what ``check``
asks of another process.
"""

from collections.abc import Mapping
import json
import os
import subprocess
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections

from mmu_jax import gradients
from mmu_jax import masks
from mmu_jax import sharding
from mmu_jax.errors import UserError
from mmu_jax.methods import answer_weight
from mmu_jax.methods import descend
from mmu_jax.methods import Turn
from mmu_jax.models import Model
from mmu_jax.planning import inputs as inputs_lib
from mmu_jax.planning import layout
from mmu_jax.planning import memory as memory_lib
from mmu_jax.planning import programs
from mmu_jax.planning import shapes
from mmu_jax.planning.shapes import Rows
from mmu_jax.training import optimizer
from mmu_jax.training import step


class Memory(NamedTuple):
  """XLA's account of a program, bytes on one device."""

  arguments: int
  outputs: int
  aliased: int
  temporaries: int

  @property
  def peak(self) -> int:
    """What must fit: donated arguments become outputs in their place."""
    return self.arguments + self.outputs - self.aliased + self.temporaries


def turn(
  model: Model,
  turn: Turn,
  rows: Rows,
  mesh: jax.sharding.Mesh,
  options: Mapping[str, Any],
  micro_batches: int = 1,
) -> jax.stages.Compiled:
  """Compiles one turn; nothing is allocated but the program.

  Args:
    model: what is trained.
    turn: of a method.
    rows: of the whole batch.
    mesh: of this machine's devices, simulated or not.
    options: of ``optimizer.build``.
    micro_batches: parts that are computed one after the other.
  """
  rules, params = model.partition_rules, model.abstract_params
  tx = optimizer.build(**options)
  state = step.TrainState(params, jax.eval_shape(tx.init, params))
  mask = jax.eval_shape(
    lambda p: masks.pack(jax.tree.map(lambda x: x > 0, p)), params
  )
  here = lambda tree: sharding.placed(tree, rules, mesh)
  with jax.set_mesh(mesh):
    return step.take_turn.lower(
      here(state),
      _batch(model, rows, mesh, micro_batches),
      jnp.float32(1e-5),
      here(mask) if turn.masked else None,
      here(params) if turn.needs_reference else None,
      _batch(model, rows, mesh, micro_batches) if turn.project else None,
      jnp.float32(1.0),
      forward=model.forward,
      turn=turn,
      tx=tx,
      rules=rules,
      micro_batches=micro_batches,
    ).compile()


def importance(
  model: Model, rows: Rows, mesh: jax.sharding.Mesh, micro_batches: int = 1
) -> jax.stages.Compiled:
  """Compiles one batch of an importance.

  Args:
    model: what it is measured at.
    rows: of the whole batch.
    mesh: of this machine's devices.
    micro_batches: parts that are computed one after the other.
  """
  rules = model.partition_rules
  loss = lambda params, batch: descend(model.forward, params, None, batch)
  params = sharding.placed(model.abstract_params, rules, mesh)
  with jax.set_mesh(mesh):
    return gradients.add_batch.lower(  # what `importance` runs for a batch
      loss,
      gradients.abstract_sums(model.abstract_params, rules, mesh),
      params,
      _batch(model, rows, mesh, micro_batches),
      rules=rules,
      parts=micro_batches,
      measure=answer_weight,
    ).compile()


def memory(compiled: jax.stages.Compiled) -> Memory:
  """Returns XLA's account of a program."""
  found = compiled.memory_analysis()
  return Memory(
    found.argument_size_in_bytes,
    found.output_size_in_bytes,
    found.alias_size_in_bytes,
    found.temp_size_in_bytes,
  )


def _batch(model, rows, mesh, micro_batches=1):
  """An abstract batch on a mesh, with rows of padding where it needs them."""
  total = sharding.row_count(rows.rows, mesh, micro_batches)
  where = sharding.batch_sharding(mesh)
  return jax.tree.map(
    lambda x: x.update(sharding=where),
    shapes.batch(model, rows._replace(rows=total)),
  )


def check(
  config: Any, *, model: str = '', mesh: str, devices: int, length: int = 0
) -> list['Checked']:
  """Compiles the steps of a config in a process of its own.

  The number of simulated devices must be known before JAX looks for any, so
  this process cannot do it.

  Args:
    config: the whole config.
    model: as of ``plan``.
    mesh: with its sizes.
    devices: of the mesh.
    length: as of ``plan``.

  Raises:
    ValueError: if it fails, with the last line of what it says.
  """
  given = dict(config=config.to_dict(), model=model, mesh=mesh, length=length)
  flag = f'--xla_force_host_platform_device_count={devices}'
  ran = subprocess.run(
    [sys.executable, '-m', __spec__.name],
    input=json.dumps(given),
    env=os.environ | {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': flag},
    capture_output=True,
    text=True,
    check=False,
  )
  if ran.returncode:
    last = (ran.stderr.strip().splitlines() or ['no message'])[-1]
    raise UserError(
      f'compiling for {devices} simulated devices failed: {last}. Try a '
      'smaller mesh, or leave --compile out.'
    )
  rows = json.loads(ran.stdout.splitlines()[-1])
  return [
    Checked(name, step, *numbers, Memory(*found))
    for name, step, *numbers, found in rows
  ]


class Checked(NamedTuple):
  """An estimate beside what XLA says, bytes on one simulated device.

  The estimate is for XLA's compiler for CPUs, which computes bfloat16 in
  float32 and sums whole gradients before it cuts them.

  Attributes:
    name: of the stage or run.
    step: its split.
    arguments: as estimated.
    temporaries: as estimated.
    memory: what XLA says.
  """

  name: str
  step: str
  arguments: int
  temporaries: int
  memory: Memory

  @property
  def error(self) -> float:
    """Of the estimated peak, as a share of XLA's."""
    return (self.arguments + self.temporaries) / self.memory.peak - 1


def checked(config: Any, model: str, mesh: str, length: int) -> list[Checked]:
  """Compiles the steps of a config on the devices of this process.

  Args:
    config: the whole config.
    model: as of ``plan``.
    mesh: for the devices of this process.
    length: as of ``plan``.
  """
  found = inputs_lib.read(config, model, length)
  here = sharding.make_mesh(mesh)
  micro = config.micro_batches
  setting = memory_lib.Setting(
    layout.parse(mesh), micro, compiler=memory_lib.CPU
  )
  rows, seen = [], set()
  for p in programs.of_config(config, found):
    key = p.turn, p.rows, str(p.options), p.stage == 'importance'
    if key in seen or not (p.turn or p.stage == 'importance'):
      continue
    seen.add(key)
    p = p._replace(mask=False, reference=False, others=0)
    if p.turn:
      made = turn(found.model, p.turn, p.rows, here, p.options, micro)
    else:
      made = importance(found.model, p.rows, here, micro)
    need = programs.need(p, found.model, setting)
    rows.append(
      Checked(p.stage, p.step, need.arguments, need.temporaries, memory(made))
    )
  return rows


def main() -> None:
  """Reads what to compile as JSON, and writes what XLA says as JSON."""
  given = json.loads(sys.stdin.read())
  config = ml_collections.ConfigDict(given.pop('config'))
  print(json.dumps(checked(config, **given)))


if __name__ == '__main__':
  main()
