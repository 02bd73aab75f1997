"""The command line: ``mmu COMMAND --config=NAME --workdir=DIR``."""

import argparse
from collections.abc import Sequence
import os
import sys
import traceback
from typing import NoReturn

from mmu_jax import __version__
from mmu_jax.commands import command as command_lib
from mmu_jax.commands import COMMANDS
from mmu_jax.commands import jobs
from mmu_jax.errors import Collapse
from mmu_jax.errors import UserError

FAILED = 1  # exit code: the same command would fail again


def main(argv: Sequence[str] | None = None) -> int:
  """Runs a command.

  Errors that say what to do are printed as one message, without a traceback
  unless ``--debug`` asks for it; any other exception is a fault of this
  program and is raised.

  Args:
    argv: words after ``mmu``; None for the words of this process.

  Returns:
    The exit code: 0 done; 1 failed, and the same command would fail again; 75
    asked to stop, everything is saved, and the same command goes on.
  """
  parser = _parser()
  args, overrides = parser.parse_known_args(argv)
  if not args.command:
    parser.print_help()
    return 0
  command = COMMANDS[args.command]
  if overrides and not (getattr(args, 'config', None) or command.begun):
    names = ' '.join(word.partition('=')[0] for word in overrides)
    parser.error(
      f'unexpected arguments: {names}'
      + ('; fields need --config' if 'config' in args else '')
    )
  try:
    config = getattr(args, 'config', None)
    if command.begun and not config:
      config = jobs.stored(args)
    if config:
      from mmu_jax.commands import fields  # slow to import, as most libraries

      options = [f'--{name}' for name in vars(args) if name != 'command']
      args.config = fields.read(config, overrides, options)
    if command.begun:
      return jobs.run(command, args)
    return command.run(args) or 0
  except BrokenPipeError:  # of `mmu config | head`
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
  except (UserError, FloatingPointError, Collapse, OSError) as error:
    if isinstance(error, OSError) and not _says_where(error):
      raise
    return _fail(error, args)


class _Parser(argparse.ArgumentParser):
  """A parser whose errors have the exit code of every other failure."""

  def error(self, message: str) -> NoReturn:
    self.print_usage(sys.stderr)
    self.exit(FAILED, f'mmu: {message}\n')


def _parser() -> argparse.ArgumentParser:
  """The commands and their arguments; each explains itself by examples."""
  parser = _Parser(
    prog='mmu',
    description='Machine unlearning for multimodal LLMs, in JAX.',
    epilog='mmu COMMAND --help shows examples.',
    allow_abbrev=False,
  )
  parser.add_argument(
    '--version', action='version', version=f'mmu {__version__}'
  )
  command_lib.add_debug(parser)
  added = parser.add_subparsers(dest='command', metavar='COMMAND')
  for command in COMMANDS.values():
    one = added.add_parser(
      command.name,
      help=command.title,
      description=command.title[0].upper() + command.title[1:] + '.',
      epilog='examples:' + command.examples,
      formatter_class=argparse.RawDescriptionHelpFormatter,
      allow_abbrev=False,
    )
    command.add_arguments(one)
    command_lib.add_debug(one)
  return parser


def _says_where(error: OSError) -> bool:
  """Whether the message of an error names a file, or is one of ours."""
  return isinstance(error, UserError) or error.filename is not None


def _fail(error: Exception, args: argparse.Namespace) -> int:
  """Prints an error as one message; with ``--debug`` after its traceback."""
  if 'debug' in args or os.environ.get(command_lib.DEBUG) == '1':
    traceback.print_exception(error)
  print(f'mmu: {error}', file=sys.stderr)
  return FAILED


if __name__ == '__main__':
  sys.exit(main())
