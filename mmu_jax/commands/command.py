"""A command of ``mmu``, and the arguments that several commands share."""

import argparse
from collections.abc import Callable
import os
from typing import NamedTuple

DEBUG = 'MMU_DEBUG'  # environment variable: '1' is --debug


class Command(NamedTuple):
  """A command; ``mmu NAME --help`` shows title, arguments and examples.

  Attributes:
    name: word after ``mmu``.
    title: sentence for the list of commands.
    examples: calls, each on a line that starts with two spaces, and a few
      sentences about them.
    add_arguments: function that adds its arguments to a parser.
    run: function of the parsed arguments; it returns the exit code, None for
      0. ``args.config`` is the whole config then, not its name.
    begun: function of the arguments that returns the path in the workdir where
      an earlier call has left something; None for a command that is no job.
      Jobs join the processes of a cluster, may be stopped by SIGTERM, and
      take ``--resume``.
  """

  name: str
  title: str
  examples: str
  add_arguments: Callable[[argparse.ArgumentParser], None]
  run: Callable[[argparse.Namespace], int | None]
  begun: Callable[[argparse.Namespace], str] | None = None


def filled(text: str) -> str:
  """Returns the text of an option, not empty, with a ``~`` expanded.

  Raises:
    ArgumentTypeError: if it is; an empty folder would be the current one.
  """
  if not text.strip():
    raise argparse.ArgumentTypeError(
      'it is empty (is a variable of your shell not set?). Give a name or a '
      'path after the =.'
    )
  return os.path.expanduser(text)


def add_config(
  parser: argparse.ArgumentParser, *, required: bool = True
) -> None:
  """Adds ``--config``; any of its fields is an option too.

  Args:
    parser: parser of the command.
    required: whether the command fails without it.
  """
  parser.add_argument(
    '--config',
    required=required,
    type=filled,
    metavar='NAME[:VARIANT]',
    help='name of a config, as people (a wrong one lists them all), or a '
    'Python file with get_config(); any of its fields can be set, as in '
    '--config.seed=1',
  )


def add_workdir(
  parser: argparse.ArgumentParser, *, required: bool = True
) -> None:
  """Adds ``--workdir``.

  Args:
    parser: parser of the command.
    required: whether the command fails without it.
  """
  parser.add_argument(
    '--workdir',
    required=required,
    type=filled,
    metavar='DIR',
    help='folder of the job, for everything that it makes',
  )


def add_processes(parser: argparse.ArgumentParser) -> None:
  """Adds the three options by which processes find each other."""
  group = parser.add_argument_group(
    'several processes',
    'SLURM, Open MPI, Cloud TPU and Kubernetes JobSet need none of these; '
    'elsewhere give all three (or MMU_COORDINATOR, MMU_NUM_PROCESSES and '
    'MMU_PROCESS_ID)',
  )
  group.add_argument(
    '--coordinator', metavar='HOST:PORT', help='address of process 0'
  )
  group.add_argument(
    '--num_processes', type=int, metavar='N', help='number of processes'
  )
  group.add_argument(
    '--process_id', type=int, metavar='I', help='number of this one, from 0'
  )


def add_debug(parser: argparse.ArgumentParser) -> None:
  """Adds ``--debug``, which is known before and after the command's name."""
  parser.add_argument(
    '--debug',
    action='store_true',
    default=argparse.SUPPRESS,
    help=f'show the traceback of an error ({DEBUG}=1 does, too)',
  )
