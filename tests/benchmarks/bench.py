"""Measures how fast this package is: one table, and the same as JSON.

  make bench                                     # quick, some minutes
  python tests/benchmarks/bench.py --full        # larger models, an hour
  python tests/benchmarks/bench.py --only=round  # some rows alone
  python tests/benchmarks/bench.py --only=device --layers=1  # on a CPU

Whatever is compared is found equal first, then timed in turns within this
process: medians, and in brackets the least and the most. Where torch is
installed (`make parity`), it does the same work with the same weights,
as the published scripts do it: the last column has its seconds over ours.

On a GPU or TPU the default is another list: LLaVA-1.5 7B and Qwen2-VL 7B with
random weights, in under ten minutes.

Rows: importance (and the mask made of it), round, evaluation, decode, memory,
qwen (rounds of a small Qwen2-VL, where torch is installed), start, costs,
device.
"""

import argparse
import gc
import os
import pathlib

# An allocator that takes what a 7B round needs, before JAX is imported.
os.environ.setdefault('XLA_PYTHON_CLIENT_MEM_FRACTION', '.97')

import jax
import measuring
import rows_asking
import rows_costs
import rows_device
import rows_learning
import rows_memory
import rows_qwen
import subjects

# Rows of one model: (subject, repeats) -> lines.
ON_MODELS = {
  'importance': rows_learning.importance,
  'round': rows_learning.rounds,
  'evaluation': rows_asking.evaluation,
  'decode': rows_asking.decoding,
  'memory': rows_memory.memory,
}
ROWS = (*ON_MODELS, 'qwen', 'start', 'costs')


def main(argv=None) -> None:
  """Parses the command line; prints a line as soon as it is measured."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--full', action='store_true')
  parser.add_argument('--only', default='', help='names of rows, by commas')
  parser.add_argument('--models', default='', help=', '.join(subjects.SIZES))
  parser.add_argument('--repeats', type=int, default=3)
  parser.add_argument('--json', default='runs/bench.json')
  parser.add_argument('--threads', type=int, default=0, help='of torch')
  parser.add_argument('--layers', type=int, default=0, help='of 7B models')
  args = parser.parse_args(argv)
  here = ROWS if jax.default_backend() == 'cpu' else ('device',)
  rows = [name for name in args.only.split(',') if name] or here
  known = (*ROWS, 'device')
  if not set(rows) <= set(known):
    parser.error(f'rows are {", ".join(known)}; got {args.only}')
  torch = _torch(args.threads)
  print(f'{jax.devices()[0].device_kind}, {os.cpu_count()} cores; {torch}')
  print(measuring.heading(), flush=True)
  lines = []
  for line in _lines(rows, args):
    print(measuring.shown(line), flush=True)
    lines.append(line)
    measuring.write(pathlib.Path(args.json), lines, full=args.full, torch=torch)


def _torch(threads: int) -> str:
  """Sets torch up, and says which it is."""
  if not subjects.HAS_TORCH:
    return 'torch is not installed: its column is empty'
  import parity_reference

  found = parity_reference.torch
  found.set_num_threads(threads or os.cpu_count())
  return f'torch {found.__version__}, {found.get_num_threads()} threads'


def _lines(rows, args):
  """The lines of every row; small models first."""
  chosen = [name for name in args.models.split(',') if name]
  names = chosen or ['demo', '30m', *['107m'] * args.full]
  for row in rows:
    for name in names if row in ON_MODELS else ():
      yield from ON_MODELS[row](_load(name), args.repeats)
    if row == 'qwen':
      yield from rows_qwen.rounds(args.repeats)
    elif row == 'start':
      yield from rows_costs.start(args.repeats)
    elif row == 'costs':
      yield from rows_costs.costs(args.full, args.repeats)
    elif row == 'device':
      yield from rows_device.lines(args.layers, args.repeats)


def _load(name: str) -> subjects.Subject:
  """A model; the one before is forgotten if it is another."""
  jax.clear_caches()
  gc.collect()
  return subjects.load(name)


if __name__ == '__main__':
  main()
