"""Lines about 7B models with random weights on one accelerator.

Each program runs alone, compiled from shapes first: its peak by XLA stands
beside the planner's, its seconds beside the operations of the loss at the
measured matmul ceiling (a share of 1 is as fast as a product of matrices).
"""

from collections.abc import Iterator
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from measuring import Line
from measuring import take_turns
import rows_costs
import subjects

from mmu_jax import gradients
from mmu_jax import methods
from mmu_jax import models
from mmu_jax.evaluation.asking import decoding
from mmu_jax.models import MODELS
from mmu_jax.models.attention import ATTENTION
from mmu_jax.objectives import answer_weight
from mmu_jax.objectives import descend
from mmu_jax.planning import memory
from mmu_jax.planning import programs
from mmu_jax.planning import roofline
from mmu_jax.training import optimizer
from mmu_jax.training import step as step_lib

NAMES = ('llava-1.5-7b', 'qwen2-vl-7b')
TEXT, ANSWER, NEW_TOKENS = 128, 64, 32  # tokens of a row beside its picture's
WIDE = 8192  # of the matrices whose product is the ceiling
RATE = 1e-5


def lines(layers: int, repeats: int) -> Iterator[Line]:
  """Forward, backward, importance, round and decoding of both models.

  Args:
    layers: layers of tower and decoder; 0 for all of them.
    repeats: number of timed calls.
  """
  on_chip = jax.default_backend() != 'cpu'
  rows, wide = (4, WIDE) if on_chip else (1, 1024)
  best = _ceiling(wide, repeats)
  yield Line('ceiling', '', f'{wide} x {wide}', best, 'TFLOP/s')
  for name in NAMES:
    model = build(name, layers)
    yield from _of_model(name, model, rows, max(best), repeats)
  others = [way for way in ATTENTION if way not in ('auto', 'xla')]
  for name in NAMES if on_chip else ():
    for way in others:
      config = dataclasses.replace(build(name, layers).config, attention=way)
      yield from _backward(name, models.build(config), rows, max(best), repeats)


def build(name: str, layers: int = 0, remat: str = 'full') -> models.Model:
  """A published model with float32 parameters; it computes in bfloat16.

  On CPUs, which are slow at that, in float32.
  """
  config = programs.PUBLISHED[name]
  if layers:
    vision = 'depth' if 'qwen' in name else 'num_hidden_layers'
    config = dataclasses.replace(
      config,
      text_config=dataclasses.replace(
        config.text_config, num_hidden_layers=layers
      ),
      vision_config=dataclasses.replace(
        config.vision_config, **{vision: layers + 1}
      ),
    )
  return models.build(dataclasses.replace(config, dtype=_dtype(), remat=remat))


def _dtype() -> str:
  return 'float32' if jax.default_backend() == 'cpu' else 'bfloat16'


def _ceiling(width: int, repeats: int) -> list[float]:
  """10^12 operations a second of a product of matrices."""
  product, operations = rows_costs.ceiling(width, jnp.dtype(_dtype()))
  seconds = take_turns({'it': product}, repeats)['it']
  return [operations / s / 1e12 for s in seconds]


def _of_model(name, model, rows, best, repeats) -> Iterator[Line]:
  """Each program after the other, so that only one holds its trees."""
  shape = _shape(model, rows)
  batch = subjects.random_batch(model, rows, shape.length, shape.room, ANSWER)
  batch = jax.device_put(batch)
  params = random_params(model)
  forward = jax.jit(lambda p, b: jnp.sum(descend(model.forward, p, None, b)))
  flops = _flops(model, shape)
  report = functools.partial(_lines, name, shape, best, repeats)
  yield from report('forward', lambda: forward(params, batch), flops / 3)
  yield from _backward(name, model, rows, best, repeats, params, batch)
  yield from _importance(model, params, batch, shape, report, flops)
  answer = lambda: decoding.greedy(
    params,
    batch,
    model=model,
    max_new_tokens=NEW_TOKENS,
    stop_ids=(model.config.text_config.vocab_size,),
  )
  seconds = take_turns({'it': answer}, repeats)['it']
  speed = [rows * NEW_TOKENS / s for s in seconds]
  yield Line('decode', name, f'{rows} rows, prompts read', speed, 'tokens/s')
  yield from _round(model, params, batch, shape, report, flops)


def _shape(model, rows) -> memory.Rows:
  """Rows with one picture."""
  family, config = MODELS[model.family], model.config
  room = family.widths(config)['picture']
  length = family.image_tokens(config, room) + TEXT
  return memory.Rows(rows, -(-length // 64) * 64, room, ANSWER)


def _flops(model, shape) -> float:
  """Operations of a loss and its gradient; nothing is computed again.

  The last layer counts with every token, and runs where answers count alone:
  of 32 layers 3 % too much, of one layer two thirds.
  """
  config = dataclasses.replace(model.config, remat='none', attention='xla')
  return shape.count * roofline.row_flops(config, descend, *shape[1:])


def random_params(model: models.Model) -> Any:
  """Float32 parameters, made on the device leaf by leaf."""
  leaves, structure = jax.tree.flatten(model.abstract_params)
  draw = jax.jit(
    lambda key, shape: 0.02 * jax.random.normal(key, shape), static_argnums=1
  )
  keys = jax.random.split(jax.random.key(0), len(leaves))
  return structure.unflatten(
    [draw(key, leaf.shape) for key, leaf in zip(keys, leaves)]
  )


def _lines(
  name, shape, best, repeats, what, call, flops, compiled=None, need=0
):
  """Seconds and share of the ceiling; the peak by XLA over the planner's."""
  seconds = take_turns({'it': call}, repeats)['it']
  share = [flops / s / (best * 1e12) for s in seconds]
  way = f'{shape.count} x {shape.length} tokens'
  yield Line(what, name, way, seconds, 's', 'matmul ceiling (MFU)', share)
  if compiled is not None:
    m = compiled.memory_analysis()
    peak = m.argument_size_in_bytes + m.temp_size_in_bytes
    peak += m.output_size_in_bytes - m.alias_size_in_bytes
    gib = [peak / 2**30]
    yield Line(what, name, 'peak', gib, 'GiB', 'planner', [peak / need])


def _backward(name, model, rows, best, repeats, params=None, batch=None):
  """Loss and gradient; only the gradient of one leaf is kept."""
  shape = _shape(model, rows)
  if params is None:
    params = random_params(model)
    batch = jax.device_put(
      subjects.random_batch(model, rows, shape.length, shape.room, ANSWER)
    )
  grad = jax.jit(jax.grad(lambda p, b: descend(model.forward, p, None, b)))
  norm = lambda: jax.tree.leaves(grad(params, batch))[0]
  what = f'backward, {model.config.attention}'
  yield from _lines(
    name, shape, best, repeats, what, norm, _flops(model, shape)
  )


def _setting(model) -> memory.Setting:
  return memory.Setting(
    model, memory.abstract_mesh(), simulated=jax.default_backend() == 'cpu'
  )


def _importance(model, params, batch, shape, report, flops) -> Iterator[Line]:
  """One batch of an importance, whose sums go from batch to batch."""
  loss = lambda p, b: descend(model.forward, p, None, b)
  how = dict(rules=(), parts=1, measure=answer_weight)
  sums = [gradients.zero_sums(params, ())]
  compiled = gradients.add_batch.lower(loss, sums[0], params, batch, **how)
  compiled = compiled.compile()

  def add():
    sums[0] = compiled(sums[0], params, batch)
    return sums[0].count

  program = memory.Program('importance', '', shape)
  need = memory.need(program, _setting(model)).peak
  yield from report('importance', add, flops, compiled, need)


def _round(model, params, batch, shape, report, flops) -> Iterator[Line]:
  """A round of mmunlearner on one batch; takes the parameters' buffers."""
  tx = optimizer.build()
  mask = jax.jit(memory.packed_mask)(params)
  turns = methods.make('mmunlearner')
  state = step_lib.init(params, tx)
  how = dict(forward=model.forward, tx=tx)
  rest = lambda turn: (batch, RATE, mask if turn.masked else None)
  compiled = [
    step_lib.take_turn.lower(state, *rest(t), turn=t, **how).compile()
    for t in turns
  ]
  held = [state]

  def take():
    for turn, program in zip(turns, compiled):
      held[0], measured = program(held[0], *rest(turn))
    return measured

  del state
  program = memory.Program(
    'mmunlearner', 'forget', shape, turns[0], tx, mask=True
  )
  need = memory.need(program, _setting(model)).peak
  yield from report('round, mmunlearner', take, 2 * flops, compiled[0], need)
