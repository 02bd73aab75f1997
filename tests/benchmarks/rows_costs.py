"""Lines about start-up, and cost against parameters, tokens and vocabulary."""

from collections.abc import Iterator
import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
from measuring import compare
from measuring import Line
from measuring import take_turns
import subjects

from mmu_jax import tree as tree_lib
from mmu_jax.objectives import descend
from mmu_jax.planning import roofline

PROGRAMS = {
  'python': ['-c', 'pass'],
  'import mmu_jax': ['-c', 'import mmu_jax'],
  'mmu --help': ['-m', 'mmu_jax', '--help'],
  'mmu plan --config=people': ['-m', 'mmu_jax', 'plan', '--config=people'],
}
WIDE = 1536  # of the square matrices whose product is the ceiling, on CPUs
ANSWER = 16


def start(repeats: int) -> Iterator[Line]:
  """Seconds of commands, each a process of its own, beside an empty one."""
  run = lambda words: subprocess.run(
    [sys.executable, *words], check=True, capture_output=True
  )
  ways = {k: functools.partial(run, x) for k, x in PROGRAMS.items()}
  over = {name: 'python' for name in ways if name != 'python'}
  # A process has nothing that JAX could wait for.
  ways = {k: lambda call=call: call() and None for k, call in ways.items()}
  yield from compare('start', '', ways, repeats, over)


def costs(full: bool, repeats: int) -> Iterator[Line]:
  """Gradients of rising size, as shares of the measured matmul ceiling."""
  tokens = (128, 512, 1024, 2048) if full else (128, 512)
  words = (8_000, 32_000, 152_000) if full else (2_000, 8_000, 32_000)
  names = ('5m', '12m', '30m', '107m', '300m') if full else ('5m', '12m')
  basis = names[1]
  cases = [('parameters', f'{n}, 320 tokens', (n, 2000, 2, 320)) for n in names]
  # As many tokens in all.
  cases += [
    ('tokens', f'{basis}, {n} tokens', (basis, 2000, max(tokens) // n, n))
    for n in tokens
  ]
  cases += [
    ('vocabulary', f'{basis}, V {n}', (basis, n, 2, 320)) for n in words
  ]
  for what, way, case in cases:
    yield _cost(what, way, *case, repeats)


def _cost(what, way, name, words, rows, length, repeats) -> Line:
  """A gradient beside a product of matrices, in turns."""
  model = subjects.build(name, words)
  params = model.init(jax.random.key(0))
  picture = int(what == 'parameters')
  batch = subjects.random_batch(model, rows, length, picture, ANSWER)
  gradient = jax.jit(jax.grad(lambda p, b: descend(model.forward, p, None, b)))
  flops = rows * roofline.row_flops(
    model.config, descend, length, picture, ANSWER
  )
  product, operations = ceiling(WIDE, jnp.float32)
  ways = {'it': lambda: gradient(params, batch), 'product': product}
  seconds = take_turns(ways, repeats)
  share = [
    (flops / it) / (operations / best)
    for it, best in zip(seconds['it'], seconds['product'])
  ]
  way = f'{way}, {tree_lib.count(params) / 1e6:.3g} M'
  return Line(
    f'cost by {what}', name, way, seconds['it'], 's', 'matmul ceiling', share
  )


def ceiling(width: int, dtype) -> tuple:
  """A product of square matrices as a function, and its operations."""
  x = jax.random.normal(jax.random.key(0), (width, width), dtype)
  product = jax.jit(lambda x: x @ x)
  return (lambda: product(x)), 2 * width**3
