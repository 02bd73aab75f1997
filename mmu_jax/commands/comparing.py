"""The command that puts workdirs beside each other."""

import argparse

from mmu_jax.commands.command import Command
from mmu_jax.commands.command import filled


def _add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the workdirs."""
  parser.add_argument(
    'workdirs',
    nargs='+',
    type=filled,
    metavar='DIR',
    help='workdirs of jobs with different seeds, each with its scores',
  )


def _compare(args: argparse.Namespace) -> None:
  """Prints the tables."""
  from mmu_jax.stages import across

  made = across.seed_tables([across.read_seed(path) for path in args.workdirs])
  for title, lines in made.items():
    print(f'## {title}\n\n{lines}\n')


COMMANDS = (
  Command(
    'compare',
    'tables over several seeds: scores, costs, attacks, in Markdown',
    """
  mmu compare runs/seed0 runs/seed1 runs/seed2 > results.md

Means over the workdirs, with the lowest and the highest value in brackets, of
all scores, rounds, seconds and attacks; and which scores put the models in the
same order as their distance to the retrained model and as relearning do. It
reads files alone: `mmu evaluate` and `mmu attack` make them.""",
    _add_arguments,
    _compare,
  ),
)
