"""The command line: ``mmu COMMAND --config=FILE --workdir=DIR``."""

import os
import sys
import time

from mmu_jax import commands as arguments
from mmu_jax.commands import ON_FILES
from mmu_jax.errors import UserError


def main(argv: list[str] | None = None) -> int:
  """Runs a command; returns the exit status."""
  parser = arguments.parser()
  args, overrides = parser.parse_known_args(argv)
  if args.command in ON_FILES:
    if overrides:
      parser.error(f'unexpected arguments: {" ".join(overrides)}')
    return _run_on_files(args)
  try:
    config = args.config and _read_config(args.config, overrides)
  except (SyntaxError, AttributeError, TypeError, ValueError, OSError) as error:
    return _fail(error)
  if args.command == 'plan':
    return _plan(args, config)
  if args.command == 'doctor':
    return _examine(args, config)
  return _run_stage(args, config)


def _plan(args, config) -> int:
  """Prints what a job needs; touches no accelerator."""
  os.environ['JAX_PLATFORMS'] = 'cpu'
  from rich.console import Console

  from mmu_jax import planning

  try:
    made = planning.plan(
      config,
      model=args.model,
      mesh=args.mesh,
      hbm=args.hbm,
      chip=args.chip,
      length=args.length,
      compile_steps=args.compile,
    )
  except (ValueError, OSError) as error:
    return _fail(error)
  console = Console()
  # A pipe has no width; the tables have one that they need.
  width = console.width if console.is_terminal else max(console.width, 100)
  for part in planning.tables(made):
    console.print(part, width=width)
  return 0


def _examine(args, config) -> int:
  """Prints what is wrong with the machines; returns 1 if a job would fail."""
  import rich

  from mmu_jax import distributed
  from mmu_jax import doctor

  try:
    distributed.initialize(
      args.coordinator, args.num_processes, args.process_id
    )
    report = doctor.check(config, args.workdir, args.mesh)
  except (ValueError, OSError) as error:
    return _fail(error)
  for part in doctor.tables(report) if distributed.is_first() else ():
    rich.print(part)
  return int(report.failed)


def _run_stage(args, config) -> int:
  """Runs a command that needs a config; says how long it took."""
  # After --help: JAX takes seconds to import.
  from mmu_jax import distributed
  from mmu_jax import stages
  from mmu_jax.distributed import preemption
  from mmu_jax.training.loop import Collapse

  started = time.time()
  try:
    distributed.initialize(
      args.coordinator, args.num_processes, args.process_id
    )
    with preemption.watch():
      _check_resume(args, stages)
      _run(args, config, stages)
  except (ValueError, FloatingPointError, Collapse, OSError) as error:
    return _fail(error)
  except preemption.Preempted as error:
    _say(f'mmu: {error}')
    return preemption.EXIT_CODE
  _say(f'mmu {args.command}: {time.time() - started:.0f} s')
  return 0


def _check_resume(args, stages) -> None:
  """Raises ValueError where --resume=never finds an earlier job."""
  if args.resume == 'auto':
    return
  run = args.run if args.command == 'train' else ''
  found = stages.find_earlier(args.workdir, args.command, run)
  if found:
    raise UserError(
      f'--resume=never starts from nothing, and {found} is of an earlier '
      'call. Give another --workdir, delete it, or leave --resume out: then '
      'it goes on where it was.'
    )


def _read_config(path: str, overrides: list[str]):
  """Reads a config file and sets the fields that were given."""
  from absl import flags
  from ml_collections import config_flags

  from mmu_jax import recipes

  config = recipes.load(path)
  values, given = flags.FlagValues(), ['mmu', *overrides]
  try:
    # Without sys_argv, the fields to set are looked for in sys.argv.
    config_flags.DEFINE_config_dict(
      'config', config, flag_values=values, sys_argv=given
    )
    rest = values(given)
  except (AttributeError, KeyError) as error:
    raise UserError(
      f'the config has no such field: {" ".join(overrides)}. Its fields are '
      f'{", ".join(f"config.{field}" for field in config)}; look into {path} '
      'for those within them.'
    ) from error
  except flags.Error as error:
    raise UserError(
      f'{error}. Options are --config, --workdir, and fields of the config '
      'such as --config.seed=1.'
    ) from error
  if rest[1:]:
    raise UserError(f'unexpected arguments: {" ".join(rest[1:])}')
  return values.config


def _run(args, config, stages) -> None:
  """Calls the stage of a command and shows what it made."""
  if args.command == 'train':
    stages.make(config, args.workdir, args.run)
  elif args.command == 'saliency':
    stages.saliency(config, args.workdir)
  elif args.command == 'evaluate':
    _show(stages.evaluate(config, args.workdir, args.run))
  elif args.command == 'report':
    _say(f'report: {stages.report(config, args.workdir)}')
  elif args.command == 'tune':
    _show_tuning(stages.tune(config, args.workdir))
  else:
    _show(stages.pipeline(config, args.workdir))
    _say(f'report: {args.workdir}/report.html')


def _run_on_files(args) -> int:
  """Runs a command that needs no config."""
  try:
    if args.command == 'data':
      return _check_data(args.path)
    if args.command == 'inspect':
      _show_contents(args.path)
    else:
      _convert(args)
  except (ValueError, OSError) as error:
    return _fail(error)
  return 0


def _check_data(path: str) -> int:
  """Prints what is wrong with a dataset; returns 1 if a job would fail."""
  import rich

  from mmu_jax.data.checks import check

  report = check.check(path)
  for part in check.tables(report):
    rich.print(part)
  return int(report.failed)


def _convert(args) -> None:
  """Converts a checkpoint and says what was written."""
  from mmu_jax.models.hub import convert

  started = time.time()
  print(
    convert.convert(args.source, args.target, like=args.like, dtype=args.dtype)
  )
  print(f'mmu convert: {time.time() - started:.0f} s')


def _show_contents(path: str) -> None:
  """Prints the tables of a checkpoint."""
  import rich

  from mmu_jax.models.hub import inspection

  for part in inspection.tables(inspection.inspect(path)):
    rich.print(part)


def _show(results) -> None:
  """Prints the table of scores, on the first of several processes."""
  import rich

  from mmu_jax import distributed
  from mmu_jax.evaluation.report import table

  if distributed.is_first():
    rich.print(table.results_table(results))


def _say(text: str) -> None:
  """Prints a line, on the first of several processes."""
  from mmu_jax.distributed import progress

  progress.say(text)


def _show_tuning(rows) -> None:
  """Prints S for every run and rate."""
  for row in rows:
    numbers = ' '.join(
      f'{k} {v:.3f}' for k, v in row.items() if isinstance(v, float)
    )
    _say(f'{row["run"]:24} {numbers}')


def _fail(error: Exception) -> int:
  """Prints what is wrong and what to do, without a traceback."""
  print(f'mmu: {error}', file=sys.stderr)
  return 2


if __name__ == '__main__':
  sys.exit(main())
