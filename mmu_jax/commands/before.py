"""The commands before a job: its settings, size, machines and data."""

import argparse

from mmu_jax.commands.command import add_config
from mmu_jax.commands.command import add_processes
from mmu_jax.commands.command import add_workdir
from mmu_jax.commands.command import Command
from mmu_jax.commands.command import filled
from mmu_jax.errors import UserError


def _add_show(parser: argparse.ArgumentParser) -> None:
  """Adds the arguments of ``config``."""
  add_config(parser, required=False)
  add_workdir(parser, required=False)


def _show(args: argparse.Namespace) -> None:
  """Prints every field of a config with its meaning."""
  from mmu_jax.commands import fields

  if bool(args.config) == bool(args.workdir):
    raise UserError(
      'mmu config shows either a config, --config=NAME, or the config of a '
      f'job that exists, --workdir=DIR; got {"both" if args.config else "none"}'
      '.'
    )
  config = args.config
  if args.workdir:
    from mmu_jax.stages import job

    config = job.stored_config(args.workdir)
  print(*fields.described(config), sep='\n')


def _add_plan(parser: argparse.ArgumentParser) -> None:
  """Adds the arguments of ``plan``."""
  add_config(parser)
  parser.add_argument(
    '--hbm', default='', metavar='SIZE', help='memory of a device, as 16GiB'
  )
  parser.add_argument(
    '--chip',
    default='',
    help='v4, v5e, v5p, v6e, a100, h100 or h200: adds times, and its memory',
  )
  parser.add_argument(
    '--length',
    type=int,
    default=0,
    metavar='TOKENS',
    help='length of every row. Default: the lengths of the data',
  )
  parser.add_argument(
    '--compile', action='store_true', help="print XLA's numbers too"
  )


def _plan(args: argparse.Namespace) -> int:
  """Prints the needs of a job; returns 1 if it does not fit."""
  import gc

  import jax

  gc.disable()  # saves a tenth of the seconds that this process lives

  # No environment variable: a config of its own may have imported JAX.
  jax.config.update('jax_platforms', 'cpu')
  from rich.console import Console

  from mmu_jax import planning

  made = planning.plan(
    args.config,
    hbm=args.hbm,
    chip=args.chip,
    length=args.length,
    compile_steps=args.compile,
  )
  console = Console()
  # A pipe has no width; the tables have one that they need.
  width = console.width if console.is_terminal else max(console.width, 100)
  for part in planning.plan_tables(made):
    console.print(part, width=width)
  return int(made.fit == 'no')


def _add_doctor(parser: argparse.ArgumentParser) -> None:
  """Adds the arguments of ``doctor``."""
  add_config(parser, required=False)
  add_workdir(parser, required=False)
  add_processes(parser)


def _doctor(args: argparse.Namespace) -> int:
  """Prints the findings; returns 1 if a job would fail."""
  import rich

  from mmu_jax import distributed
  from mmu_jax import doctor

  distributed.initialize(args.coordinator, args.num_processes, args.process_id)
  found = doctor.examine(args.config, args.workdir or '')
  for part in doctor.printed(found) if distributed.is_first() else ():
    rich.print(part)
  return int(found.failed)


def _add_data(parser: argparse.ArgumentParser) -> None:
  """Adds the arguments of ``data check``."""
  parser.add_argument('action', choices=('check',))
  parser.add_argument(
    'path',
    type=filled,
    metavar='PATH',
    help='own data (a .jsonl or .parquet file), or the folder of a benchmark',
  )


def _data(args: argparse.Namespace) -> int:
  """Prints the problems of a dataset; returns 1 if a job would fail."""
  import rich

  from mmu_jax.data.checks import check

  report = check.check(args.path)
  for part in check.tables(report):
    rich.print(part)
  return int(report.failed)


COMMANDS = (
  Command(
    'config',
    'show every field of a config, its value and its meaning',
    """
  mmu config --config=people
  mmu config --config=people:fast --config.seed=1
  mmu config --workdir=runs/people

A field is two lines: name and value, and what it means, with the values that
it takes. Any of them can be set, as --config.NAME=VALUE. With --workdir the
config is the one of the last command of a job that exists.""",
    _add_show,
    _show,
  ),
  Command(
    'plan',
    'say how much memory and time a job needs, before it is launched',
    """
  mmu plan --config=people --config.mesh=fsdp=8 --compile
  mmu plan --config=mllmu_bench --config.model.path=llava-1.5-7b \\
      --config.mesh=fsdp=16 --hbm=16GiB --chip=v5e

The first line is the verdict, and the exit code is 1 if the job does not fit.
Reads no weights and needs no devices. config.model.path is a folder with
config.json, or llava-1.5-7b, llava-1.5-13b, qwen2-vl-2b or qwen2-vl-7b.
config.mesh has every size; a mesh with -1 is planned as one device. Data may
be missing: then a row has its image tokens and 64 for each question (or
--length). Says what every stage holds, what each lever saves, and whether
computing or moving takes longer.
--compile asks XLA too, which takes seconds for each step. Sizes are GiB per
device; allow 10 % above an estimate.""",
    _add_plan,
    _plan,
  ),
  Command(
    'doctor',
    'say whether the machines of a job can run it',
    """
  mmu doctor
  mmu doctor --config=people --workdir=runs/people --config.mesh=fsdp=-1
  srun mmu doctor --config=people --workdir=runs/people

Run it in every process of a job, as the job itself: by the same launcher. Says
which devices each process sees, whether the mesh fits them, how long a sum
over all of them takes, whether versions are alike, whether every process reads
the same dataset, checkpoint and workdir, and whether the disk has room. The
exit code is 1 if the job would fail.""",
    _add_doctor,
    _doctor,
  ),
  Command(
    'data',
    'check own data or a benchmark on disk before a job reads it',
    """
  mmu data check people.jsonl
  mmu data check MLLMU-Bench
  mmu data check CLEAR

Takes own data, one JSONL or parquet file with a question and an answer in each
row (docs/own_data.md), or the folder of a benchmark. Reads it as the stages do,
says how many rows, pictures and entities each split has, and every problem at
once: missing or misspelt columns, pictures that cannot be read, empty answers,
<image> in a question, rows that stand twice, nothing to forget or to retain,
people, pictures and texts in both. The exit code is 1 if there is an error
among them.""",
    _add_data,
    _data,
  ),
)
