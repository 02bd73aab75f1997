"""XLA's account of the memory of real steps, compiled from shapes alone.

As a program, ``python -m mmu_jax.planning.compiled``, it compiles the steps
that ``compile_job`` asks another process for.
"""

import dataclasses
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
from mmu_jax.objectives import answer_weight
from mmu_jax.objectives import descend
from mmu_jax.planning import activations
from mmu_jax.planning import memory
from mmu_jax.planning import programs
from mmu_jax.training import step as step_lib


class Checked(NamedTuple):
  """Bytes of a step on one simulated device: estimates, and XLA's numbers."""

  name: str
  arguments: int
  peak: int
  xla_arguments: int
  xla_peak: int  # arguments + outputs - aliased + temporaries


def compile_job(config: Any, devices: int, length: int = 0) -> list[Checked]:
  """Compiles the training steps of a config in a process of its own.

  The number of simulated devices must be known before JAX looks for any, so
  this process cannot do it.

  Args:
    config: the whole config.
    devices: devices of its mesh.
    length: tokens of every row; 0 for the lengths of the data.

  Raises:
    ValueError: if it fails, with the last line of its messages.
  """
  count = f'--xla_force_host_platform_device_count={devices}'
  flags = f'{os.environ.get("XLA_FLAGS", "")} {count}'  # the last one counts
  ran = subprocess.run(
    [sys.executable, '-m', __spec__.name],
    input=pickle.dumps((config.to_dict(), length)),
    env=os.environ | {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': flags},
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


def compare(program: memory.Program, on: memory.Setting) -> Checked:
  """Compiles a turn, or a batch of an importance, beside its estimate.

  Args:
    program: program with a gradient.
    on: setting with as many devices as this process simulates.
  """
  alone = program._replace(mask=False, reference=False)
  need = memory.need(alone, dataclasses.replace(on, simulated=True))
  # A program leaves out arguments that it does not read.
  unread = 0 if program.turn or program.rows.room else on.unread
  xla = lower(program, on).compile().memory_analysis()
  held = xla.argument_size_in_bytes
  made = xla.output_size_in_bytes - xla.alias_size_in_bytes
  return Checked(
    program.name,
    sum(need.held.values()) - unread,
    need.peak - unread,
    held,
    held + made + xla.temp_size_in_bytes,
  )


def lower(program: memory.Program, on: memory.Setting) -> jax.stages.Lowered:
  """Lowers a program with a gradient from shapes, for simulated devices."""
  model, turn, parts = on.model, program.turn, on.micro_batches
  mesh = sharding.make_mesh(memory.mesh_line(on.mesh))
  rules, params = model.partition_rules, model.abstract_params
  trees = on.trees(program)
  here = lambda tree: sharding.placed(tree, rules, mesh)
  batch = _batch(program, on, mesh)
  if turn and turn.beside:
    batch['beside'] = _batch(program._replace(rows=program.beside), on, mesh)
  with jax.set_mesh(mesh):
    if not turn:
      return gradients.add_batch.lower(
        lambda params, batch: descend(model.forward, params, None, batch),
        gradients.abstract_sums(params, rules, mesh),
        here(params),
        batch,
        rules=rules,
        parts=parts,
        measure=answer_weight,
      )
    made = memory.shapes(memory.packed_mask, model)
    rules = on.rules if program.lora else rules
    return step_lib.take_turn.lower(
      step_lib.abstract_state(trees.trained, program.tx, rules, mesh),
      batch,
      jnp.float32(1e-5),
      here(made) if program.reads_mask else None,
      here(params) if program.reads_reference else None,
      batch if turn.project else None,
      jnp.float32(1.0),
      here(trees.base) if program.lora else None,
      program.lora.scale if program.lora else 1.0,
      forward=model.forward,
      turn=turn,
      tx=program.tx,
      rules=rules,
      micro_batches=parts,
    )


def _batch(program, on, mesh) -> Any:
  """The shapes of a batch, and its place."""
  rows = on.total_rows(program), *program.rows[1:]
  made = activations.abstract_batch(on.model.config, *rows)
  where = sharding.batch_sharding(mesh)
  return jax.tree.map(lambda x: x.update(sharding=where), made)


def _compare_all(plain: dict[str, Any], length: int) -> list[Checked]:
  """Compares each different training step of a config."""
  on, jobs, _ = programs.read_job(ml_collections.ConfigDict(plain), length)
  plain_turn = lambda t: t and t._replace(split='', every=1)
  same = lambda p: (p.rows, p.beside, plain_turn(p.turn), p.tx, p.lora, p.kinds)
  different = {same(p): p for p in reversed(jobs) if p.has_gradient}
  return [compare(p, on) for p in reversed(different.values())]


if __name__ == '__main__':
  print(json.dumps(_compare_all(*pickle.load(sys.stdin.buffer))))
