"""The command that puts workdirs beside each other."""

import argparse
import sys

from mmu_jax.commands.command import Command
from mmu_jax.commands.command import filled


def _add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the workdirs."""
  parser.add_argument(
    'workdirs',
    nargs='+',
    type=filled,
    metavar='DIR',
    help='workdirs of jobs with different seeds, or files of --to',
  )
  parser.add_argument(
    '--to',
    type=filled,
    metavar='DIR',
    help='folder that gets a small file of each workdir, as seed0.json.gz; '
    'with --run, of those models alone',
  )
  parser.add_argument(
    '--run',
    action='append',
    type=filled,
    metavar='NAME',
    help='model to show beside vanilla and retrained; may be given again. '
    'Default: all',
  )


def _compare(args: argparse.Namespace) -> None:
  """Prints the tables."""
  from mmu_jax.stages.across import seeds as seeds_lib
  from mmu_jax.stages.across import tables

  seeds = [seeds_lib.read_seed(path) for path in args.workdirs]
  if args.run:
    seeds = [seeds_lib.select_runs(seed, args.run) for seed in seeds]
  made = tables.seed_tables(seeds)
  for seed in seeds if args.to else ():
    print(f'kept {seeds_lib.keep_seed(seed, args.to)}', file=sys.stderr)
  for title, lines in made.items():
    print(f'## {title}\n\n{lines}\n')


COMMANDS = (
  Command(
    'compare',
    'tables over several seeds: scores, costs, attacks, in Markdown',
    """
  mmu compare runs/seed0 runs/seed1 runs/seed2 > results.md
  mmu compare runs/seed0 --to=kept
  mmu compare kept/seed0.json.gz kept/seed1.json.gz --run=mmunlearner

Means over the workdirs, with the lowest and the highest value in brackets, of
all scores, rounds, seconds and attacks; and which scores put the models in the
same order as their distance to the retrained model and as relearning do. It
reads files alone: `mmu evaluate` and `mmu attack` make them.""",
    _add_arguments,
    _compare,
  ),
)
