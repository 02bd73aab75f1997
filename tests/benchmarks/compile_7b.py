"""Compiles a training step of a 7B model from abstract shapes, on 8 devices.

  python tests/benchmarks/compile_7b.py llava
  python tests/benchmarks/compile_7b.py qwen2_vl --layers=2 --layers=28

Nothing is allocated but the program. Prints the seconds of lowering and
compiling, and what XLA says of the memory of one device, for the sizes of
LLaVA-1.5 7B and Qwen2-VL 7B (the defaults of our configs) with parameters split
over eight simulated devices.
"""

import argparse
import dataclasses
import os
import time

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('XLA_FLAGS', '--xla_force_host_platform_device_count=8')

import jax  # pylint: disable=wrong-import-position

from mmu_jax import masks  # pylint: disable=wrong-import-position
from mmu_jax import methods  # pylint: disable=wrong-import-position
from mmu_jax import models  # pylint: disable=wrong-import-position
from mmu_jax import sharding  # pylint: disable=wrong-import-position
from mmu_jax import tree as tree_lib  # pylint: disable=wrong-import-position
from mmu_jax.training import optimizer  # pylint: disable=wrong-import-position
from mmu_jax.training import step  # pylint: disable=wrong-import-position

LENGTH, TEXT, ROWS = 768, 192, 8  # least tokens of a row, those but a picture's


def main():
  """Parses the command line and prints a row for each depth."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('family', choices=sorted(models.MODELS))
  parser.add_argument('--layers', type=int, action='append')
  parser.add_argument('--mesh', default='fsdp=8')
  args = parser.parse_args()
  full = models.MODELS[args.family].config().text_config.num_hidden_layers
  for layers in args.layers or [full]:
    print(measure(args.family, layers, args.mesh), flush=True)


def measure(family: str, layers: int, mesh_spec: str) -> dict[str, float]:
  """Lowers and compiles one masked turn; returns seconds and GiB a device."""
  model = models.build(config(family, layers))
  started = time.perf_counter()
  lowered = lower(model, mesh_spec)
  lowered_at = time.perf_counter()
  compiled = lowered.compile()
  done = time.perf_counter()
  memory = compiled.memory_analysis()
  gib = lambda n: round(n / 2**30, 2)
  logits = f'[{ROWS},{length(model)},{model.config.text_config.vocab_size}]'
  return {
    'family': family,
    'layers': layers,
    'billions': round(tree_lib.count(model.abstract_params) / 1e9, 3),
    'lower_s': round(lowered_at - started, 1),
    'compile_s': round(done - lowered_at, 1),
    'arguments_gib': gib(memory.argument_size_in_bytes),
    'donated_gib': gib(memory.alias_size_in_bytes),
    'temporaries_gib': gib(memory.temp_size_in_bytes),
    'logits_of_all_rows': compiled.as_text().count(logits),
  }


def lower(model: models.Model, mesh_spec: str) -> jax.stages.Lowered:
  """Lowers one masked turn on a mesh; nothing is allocated."""
  mesh, rules = sharding.make_mesh(mesh_spec), model.partition_rules
  params = model.abstract_params
  tx = optimizer.build('hf_adamw')
  state = step.TrainState(params, jax.eval_shape(tx.init, params))
  mask = jax.eval_shape(
    lambda p: masks.pack(jax.tree.map(lambda x: x > 0, p)), params
  )
  with jax.set_mesh(mesh):
    return step.take_turn.lower(
      _placed(state, rules, mesh),
      abstract_batch(model, mesh),
      1e-5,
      _placed(mask, rules, mesh),
      forward=model.forward,
      turn=methods.make('mmunlearner')[0],
      tx=tx,
    )


def config(family: str, layers: int):
  """The 7B config of a family with another depth, computed in bfloat16."""
  made = models.MODELS[family].config(dtype='bfloat16', remat='full')
  text = dataclasses.replace(made.text_config, num_hidden_layers=layers)
  return dataclasses.replace(made, text_config=text)


def length(model: models.Model) -> int:
  """The tokens of a row with one picture."""
  family, config = models.MODELS[model.family], model.config
  room = family.widths(config)['picture']
  return max(LENGTH, family.image_tokens(config, room) + TEXT)


def abstract_batch(model: models.Model, mesh):
  """The shapes of a batch with one picture a row."""
  family, config = models.MODELS[model.family], model.config
  room = family.widths(config)['picture']
  batch = family.abstract_batch(config, ROWS, length(model), room)
  rows = sharding.batch_sharding(mesh)
  return jax.tree.map(lambda x: x.update(sharding=rows), batch)


def _placed(tree, rules, mesh):
  """Abstract arrays with their shardings."""
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    tree,
    sharding.shardings(tree, rules, mesh),
  )


if __name__ == '__main__':
  main()
