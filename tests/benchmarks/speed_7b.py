"""Times a random LLaVA-1.5 on one accelerator: forward, a turn, decoding.

  python tests/benchmarks/speed_7b.py                  # 7B in bfloat16, a GPU
  python tests/benchmarks/speed_7b.py --layers=2 --rows=1 --length=640

Parameters are random and bfloat16, so that 7 B of them with their gradients
fit one device of 80 GiB; the step is plain gradient ascent without moments.
Prints tokens per second (median over repeats) and the peak memory.
"""

import argparse
import dataclasses
import functools
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from mmu_jax import models
from mmu_jax import objectives
from mmu_jax.evaluation.asking import decoding

NEW_TOKENS = 32


def main():
  """Parses the command line and prints one row a measurement."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--layers', type=int, default=32)
  parser.add_argument('--rows', type=int, default=8)
  parser.add_argument('--length', type=int, default=704)
  parser.add_argument('--repeats', type=int, default=5)
  parser.add_argument('--attention', default='xla', choices=('xla', 'cudnn'))
  args = parser.parse_args()
  config = models.LlavaConfig(
    dtype='bfloat16', remat='full', attention=args.attention
  )
  text = dataclasses.replace(config.text_config, num_hidden_layers=args.layers)
  model = models.build(dataclasses.replace(config, text_config=text))
  params = random_params(model)
  batch = random_batch(model, args.rows, args.length)
  tokens = args.rows * args.length
  print(jax.devices()[0].device_kind, jax.__version__)
  forward = jax.jit(lambda p, b: jnp.sum(model.forward(p, b)[:, -1]))
  report('forward', tokens, args.repeats, lambda: forward(params, batch))
  loss = functools.partial(objectives.ascend, model.forward)
  gradient = jax.jit(lambda p, b: jax.grad(loss)(p, None, b))
  # Only the gradient of one leaf is kept, or two copies would be alive.
  norm = lambda p, b: gradient(p, b)['language_model']['lm_head']['kernel'][0]
  report('backward', tokens, args.repeats, lambda: norm(params, batch))
  decode = lambda: decoding.greedy(
    params,
    batch,
    model=model,
    max_new_tokens=NEW_TOKENS,
    stop_ids=(text.vocab_size,),
  )
  report('decode', args.rows * NEW_TOKENS, args.repeats, decode)


def report(name: str, tokens: int, repeats: int, call) -> None:
  """Times a call after its first, and prints the device's peak memory."""
  started = time.perf_counter()
  jax.block_until_ready(call())
  first = time.perf_counter() - started
  seconds = []
  for _ in range(repeats):
    started = time.perf_counter()
    jax.block_until_ready(call())
    seconds.append(time.perf_counter() - started)
  median = statistics.median(seconds)
  stats = jax.devices()[0].memory_stats() or {}
  peak = stats.get('peak_bytes_in_use', 0) / 2**30
  print(
    f'{name:9} {median:8.3f} s  {tokens / median:10,.0f} tokens/s  first '
    f'{first:6.1f} s  peak {peak:6.1f} GiB',
    flush=True,
  )


def random_params(model: models.Model):
  """Bfloat16 parameters, made on the device leaf by leaf."""
  leaves, structure = jax.tree.flatten(model.abstract_params)

  @functools.partial(jax.jit, static_argnums=1)
  def draw(key, shape):
    return 0.02 * jax.random.normal(key, shape, jnp.bfloat16)

  keys = jax.random.split(jax.random.key(0), len(leaves))
  return structure.unflatten(
    [draw(key, leaf.shape) for key, leaf in zip(keys, leaves)]
  )


def random_batch(model: models.Model, rows: int, length: int):
  """Prompts with one picture a row."""
  rng = np.random.default_rng(0)
  n = model.config.num_image_tokens
  size = model.config.vision_config.image_size
  tokens = rng.integers(3, model.config.text_config.vocab_size, (rows, length))
  slots = np.full((rows, length), -1)
  slots[:, 5 : 5 + n] = np.arange(n)
  return {
    'tokens': tokens.astype(np.int32),
    'positions': np.tile(np.arange(length), (rows, 1)).astype(np.int32),
    'documents': np.ones((rows, length), np.int32),
    'branches': np.zeros((rows, length), np.int32),
    'image_slots': slots.astype(np.int32),
    'pixel_values': rng.normal(size=(rows, 1, 3, size, size)).astype(
      np.float32
    ),
    'targets': np.roll(tokens, -1, 1).astype(np.int32),
    'weights': np.ones((rows, length), np.float32),
  }


if __name__ == '__main__':
  main()
