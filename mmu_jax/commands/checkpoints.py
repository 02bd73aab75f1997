"""The commands on checkpoints: they need no config."""

import argparse
import time

from mmu_jax.commands.command import Command
from mmu_jax.commands.command import filled


def _add_convert(parser: argparse.ArgumentParser) -> None:
  """Adds the arguments of ``convert``."""
  parser.add_argument(
    '--from',
    required=True,
    dest='source',
    type=filled,
    metavar='DIR',
    help='a checkpoint, Hugging Face or Orbax',
  )
  parser.add_argument(
    '--to',
    required=True,
    dest='target',
    type=filled,
    metavar='DIR',
    help='a new folder for the other form',
  )
  parser.add_argument(
    '--like',
    type=filled,
    metavar='DIR',
    help='for the way back: the Hugging Face checkpoint that the model came '
    'from. Default: the source of `mmu convert`, if it made the Orbax folder',
  )
  parser.add_argument(
    '--dtype',
    choices=('float32', 'bfloat16', 'float16'),
    help="dtype of the result. Default: the source's, and on the way back the "
    "Hugging Face checkpoint's",
  )


def _convert(args: argparse.Namespace) -> None:
  """Converts a checkpoint and names the folder that was written."""
  from mmu_jax.models.hub import convert

  started = time.time()
  print(
    convert.convert(args.source, args.target, like=args.like, dtype=args.dtype)
  )
  print(f'mmu convert: {time.time() - started:.0f} s')


def _add_inspect(parser: argparse.ArgumentParser) -> None:
  """Adds the arguments of ``inspect``."""
  parser.add_argument(
    'path', type=filled, metavar='DIR', help='folder of a checkpoint'
  )


def _inspect(args: argparse.Namespace) -> None:
  """Prints the tables of a checkpoint."""
  import rich

  from mmu_jax.models.hub import inspection

  for part in inspection.content_tables(inspection.inspect(args.path)):
    rich.print(part)


COMMANDS = (
  Command(
    'convert',
    'convert a checkpoint: Hugging Face to Orbax, or back',
    """
  mmu convert --from=llava-1.5-7b-hf --to=llava-orbax
  mmu convert --from=llava-orbax --to=llava-again
  mmu convert --from=runs/people/unlearned/mmunlearner/params \\
      --to=unlearned-hf --like=llava-1.5-7b-hf

A folder with config.json is Hugging Face; a folder with numbered steps is
Orbax. The way back writes the files that serving software loads, in the names
and with the tokenizer of the source checkpoint.""",
    _add_convert,
    _convert,
  ),
  Command(
    'inspect',
    'show what a checkpoint holds: components, shapes, dtypes, memory',
    """
  mmu inspect llava-1.5-7b-hf
  mmu inspect runs/people/vanilla/params

Reads headers alone, so it takes a second for a model of any size.""",
    _add_inspect,
    _inspect,
  ),
)
