"""XLA's account of the memory of real steps, compiled from shapes alone.

As a program, ``python -m mmu_jax.planning.compiled``, it compiles the steps
that ``check`` asks another process for.
"""

import json
import os
import pickle
import subprocess
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections

from mmu_jax import gradients
from mmu_jax import sharding
from mmu_jax.errors import UserError
from mmu_jax.methods import answer_weight
from mmu_jax.methods import descend
from mmu_jax.models import Model
from mmu_jax.models import MODELS
from mmu_jax.planning import memory
from mmu_jax.planning import programs
from mmu_jax.training import step as step_lib


class Checked(NamedTuple):
  """An estimate beside XLA's numbers, bytes on one simulated device.

  Attributes:
    name: stage and step.
    arguments: estimate of the arguments.
    peak: estimate of the peak.
    xla_arguments: arguments, as XLA says.
    xla_peak: arguments + outputs - aliased + temporaries, as XLA says.
  """

  name: str
  arguments: int
  peak: int
  xla_arguments: int
  xla_peak: int


def check(config: Any, length: int = 0) -> list[Checked]:
  """Compiles the training steps of a config in a process of its own.

  The number of simulated devices must be known before JAX looks for any, so
  this process cannot do it.

  Args:
    config: the whole config.
    length: tokens of every row; 0 for the data's.

  Raises:
    ValueError: if it fails, with the last line of its messages.
  """
  devices = programs.read_machine(config)[0].mesh.size
  flag = f'--xla_force_host_platform_device_count={devices}'
  ran = subprocess.run(
    [sys.executable, '-m', __spec__.name],
    input=pickle.dumps((config.to_dict(), length)),
    env=os.environ | {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': flag},
    capture_output=True,
    check=False,
  )
  if ran.returncode:
    last = (ran.stderr.decode().strip().splitlines() or ['no message'])[-1]
    raise UserError(
      f'compiling for {devices} simulated devices failed: {last}. Try a '
      'smaller mesh, or leave --compile out.'
    )
  return [Checked(*row) for row in json.loads(ran.stdout.splitlines()[-1])]


def compare(
  program: memory.Program, model: Model, machine: memory.Machine
) -> Checked:
  """Compiles a program with a gradient and puts the estimate beside it.

  Args:
    program: a turn, or a batch of an importance.
    model: model that it trains, or measures.
    machine: mesh with as many devices as this process simulates.
  """
  alone = program._replace(mask=False, reference=False)
  need = memory.need(alone, model, machine._replace(simulated=True))
  mesh = sharding.make_mesh(memory.mesh_line(machine.mesh))
  lower = _lower_turn if program.turn else _lower_importance
  with jax.set_mesh(mesh):
    xla = lower(program, model, mesh, machine.micro_batches).compile()
  found = xla.memory_analysis()
  held = found.argument_size_in_bytes
  made = found.output_size_in_bytes - found.alias_size_in_bytes
  name = f'{program.stage} {program.step}'
  estimated = need.arguments, need.arguments + sum(need.largest.values())
  return Checked(name, *estimated, held, held + made + found.temp_size_in_bytes)


def _lower_turn(program, model, mesh, parts: int) -> jax.stages.Lowered:
  """One turn, lowered from shapes."""
  turn, tx = program.turn, program.tx
  rules, params = model.partition_rules, model.abstract_params
  here = lambda tree: sharding.placed(tree, rules, mesh)
  batch = _batch(program, model, mesh, parts)
  return step_lib.take_turn.lower(
    step_lib.abstract_state(params, tx, rules, mesh),
    batch,
    jnp.float32(1e-5),
    here(memory.shapes(memory.packed_mask, model)) if turn.masked else None,
    here(params) if turn.needs_reference else None,
    batch if turn.project else None,
    jnp.float32(1.0),
    forward=model.forward,
    turn=turn,
    tx=tx,
    rules=rules,
    micro_batches=parts,
  )


def _lower_importance(program, model, mesh, parts: int) -> jax.stages.Lowered:
  """A batch of an importance, lowered from shapes."""
  rules, params = model.partition_rules, model.abstract_params
  return gradients.add_batch.lower(
    lambda params, batch: descend(model.forward, params, None, batch),
    gradients.abstract_sums(params, rules, mesh),
    sharding.placed(params, rules, mesh),
    _batch(program, model, mesh, parts),
    rules=rules,
    parts=parts,
    measure=answer_weight,
  )


def _batch(program, model, mesh, parts: int) -> Any:
  """The program's batch on a mesh, with its rows of padding."""
  count, length, room = program.rows
  total = sharding.row_count(count, mesh, parts)
  made = MODELS[model.family].abstract_batch(model.config, total, length, room)
  where = sharding.batch_sharding(mesh)
  return jax.tree.map(lambda x: x.update(sharding=where), made)


def _compare_all(plain: dict[str, Any], length: int) -> list[Checked]:
  """Compares each different training step of a config."""
  config = ml_collections.ConfigDict(plain)
  machine, _ = programs.read_machine(config)
  model, jobs, _ = programs.read_programs(config, length)
  plain_turn = lambda t: t and t._replace(split='', every=1)
  same = lambda p: (p.rows, plain_turn(p.turn), p.tx)
  different = {same(p): p for p in reversed(jobs) if p.has_gradient}
  return [compare(p, model, machine) for p in reversed(different.values())]


if __name__ == '__main__':
  print(json.dumps(_compare_all(*pickle.load(sys.stdin.buffer))))
