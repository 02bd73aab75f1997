"""The command line: ``mmu COMMAND --config=FILE --workdir=DIR``."""

import argparse
import sys
import time

COMMANDS = {
    'pipeline': (
        'run every stage in order; what exists is skipped',
        """
  mmu pipeline --config=configs/people.py --workdir=runs/people
  mmu pipeline --config=configs/people.py --workdir=runs/seed1 --config.seed=1
  mmu pipeline --config=configs/people.py:fast --workdir=runs/fast

Stop it at any time; the same command goes on where it was.""",
    ),
    'train': (
        'train one model: base, vanilla, retrained, or a run of the config',
        """
  mmu train --config=configs/people.py --workdir=runs/people --run=base
  mmu train --config=configs/people.py --workdir=runs/people --run=vanilla
  mmu train --config=configs/people.py --workdir=runs/people \\
      --run=mmunlearner

vanilla and retrained start from base; every other run starts from vanilla,
and makes the mask that it needs if `mmu saliency` has not.""",
    ),
    'saliency': (
        'measure importances at vanilla and make the masks',
        """
  mmu saliency --config=configs/people.py --workdir=runs/people

Writes importance/ and mask/, with a note.json that states density and ties.""",
    ),
    'evaluate': (
        'ask models the questions of every task and score the answers',
        """
  mmu evaluate --config=configs/people.py --workdir=runs/people
  mmu evaluate --config=configs/people.py --workdir=runs/people \\
      --run=vanilla --run=mmunlearner

Writes predictions/ and results.jsonl and prints the table.""",
    ),
    'report': (
        'write plots and report.html from the scores',
        """
  mmu report --config=configs/people.py --workdir=runs/people""",
    ),
    'tune': (
        'try the learning rates of the config on validation people',
        """
  mmu tune --config=configs/people.py --workdir=runs/people

Needs vanilla. Prints S for every run and rate; the best ones belong into the
config by hand.""",
    ),
    'data': (
        'check a dataset on disk before a job reads it',
        """
  mmu data check MLLMU-Bench
  mmu data check CLEAR

Says what the folder is and how many rows it has, and every problem at once:
missing columns, pictures that cannot be read, empty answers, people in both
forget and retain, pictures and texts that stand in both. The exit code is 1 if
there is an error among them.""",
    ),
    'convert': (
        'convert a checkpoint: Hugging Face to Orbax, or back',
        """
  mmu convert --from=llava-1.5-7b-hf --to=llava-orbax
  mmu convert --from=llava-orbax --to=llava-again
  mmu convert --from=runs/people/unlearned/mmunlearner/params \\
      --to=unlearned-hf --like=llava-1.5-7b-hf

A folder with config.json is Hugging Face; a folder with numbered steps is
Orbax. The way back writes the files that serving software loads, in the names
and with the tokenizer of the source checkpoint.""",
    ),
    'inspect': (
        'show what a checkpoint holds: components, shapes, dtypes, memory',
        """
  mmu inspect llava-1.5-7b-hf
  mmu inspect runs/people/vanilla/params

Reads headers alone, so it takes a second for a model of any size.""",
    ),
}


ON_FILES = ('data', 'convert', 'inspect')  # they need no config


def main(argv: list[str] | None = None) -> int:
  """Runs a command; returns the exit status."""
  parser = _parser()
  args, overrides = parser.parse_known_args(argv)
  if args.command in ON_FILES:
    if overrides:
      parser.error(f'unexpected arguments: {" ".join(overrides)}')
    return _run_on_files(args)
  try:
    config = _read_config(args.config, overrides)
  except (SyntaxError, AttributeError, TypeError, ValueError, OSError) as error:
    return _fail(error)
  return _run_stage(args, config)


def _run_stage(args, config) -> int:
  """Runs a command that needs a config; says how long it took."""
  # After --help: JAX takes seconds to import.
  from mmu_jax import distributed
  from mmu_jax import preemption
  from mmu_jax import stages

  started = time.time()
  try:
    distributed.initialize(
        args.coordinator, args.num_processes, args.process_id
    )
    with preemption.watch():
      _check_resume(args, stages)
      _run(args, config, stages)
  except (ValueError, ArithmeticError, OSError) as error:
    return _fail(error)
  except preemption.Preempted as error:
    _fail(error)
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
    raise ValueError(
        f'--resume=never starts from nothing, and {found} is of an earlier '
        'call. Give another --workdir, delete it, or leave --resume out: then '
        'it goes on where it was.'
    )


def _parser() -> argparse.ArgumentParser:
  """The commands and what they take; each explains itself by examples."""
  parser = argparse.ArgumentParser(
      prog='mmu',
      description='Machine unlearning for multimodal LLMs, in JAX.',
      epilog='mmu COMMAND --help shows examples.',
  )
  commands = parser.add_subparsers(
      dest='command', required=True, metavar='COMMAND'
  )
  for name, (title, examples) in COMMANDS.items():
    command = commands.add_parser(
        name,
        help=title,
        description=title[0].upper() + title[1:] + '.',
        epilog='examples:' + examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    if name == 'convert':
      _add_convert(command)
    elif name == 'inspect':
      command.add_argument('path', metavar='DIR', help='a checkpoint folder')
    elif name == 'data':
      command.add_argument('action', choices=('check',))
      command.add_argument('path', metavar='DIR', help='of the dataset')
    else:
      _add_stage(command, name)
  return parser


def _add_stage(command: argparse.ArgumentParser, name: str) -> None:
  """What the stages take."""
  command.add_argument(
      '--config',
      required=True,
      metavar='FILE[:VARIANT]',
      help='Python file with get_config(); any of its fields can be set, '
      'as in --config.seed=1',
  )
  command.add_argument(
      '--workdir',
      required=True,
      metavar='DIR',
      help='where the job keeps all that it makes',
  )
  command.add_argument(
      '--resume',
      choices=('auto', 'never'),
      default='auto',
      help='auto, the default, goes on where an earlier call was stopped; '
      'never refuses a workdir where this command has begun',
  )
  _add_processes(command)
  if name in ('train', 'evaluate'):
    command.add_argument(
        '--run',
        required=name == 'train',
        action='append' if name == 'evaluate' else 'store',
        metavar='NAME',
        help='vanilla, retrained, or a key of config.runs; may be given again'
        if name == 'evaluate'
        else 'base, vanilla, retrained, or a key of config.runs',
    )


def _add_processes(command: argparse.ArgumentParser) -> None:
  """What says how several processes find each other."""
  group = command.add_argument_group(
      'several processes',
      'found by themselves under SLURM, Open MPI, Cloud TPU and Kubernetes '
      'JobSet; elsewhere give all three (or MMU_COORDINATOR, '
      'MMU_NUM_PROCESSES and MMU_PROCESS_ID)',
  )
  group.add_argument('--coordinator', metavar='HOST:PORT')
  group.add_argument('--num_processes', type=int, metavar='N')
  group.add_argument('--process_id', type=int, metavar='I')


def _add_convert(command: argparse.ArgumentParser) -> None:
  """What ``convert`` takes."""
  command.add_argument(
      '--from', required=True, dest='source', metavar='DIR',
      help='a checkpoint, Hugging Face or Orbax',
  )  # fmt: skip
  command.add_argument(
      '--to', required=True, dest='target', metavar='DIR',
      help='a new folder for the other form',
  )  # fmt: skip
  command.add_argument(
      '--like',
      metavar='DIR',
      help='for the way back: the Hugging Face checkpoint that the model came '
      'from (found by itself if `mmu convert` made the Orbax folder)',
  )
  command.add_argument(
      '--dtype',
      choices=('float32', 'bfloat16', 'float16'),
      help='of the result; by default that of the source, and on the way back '
      'that of the Hugging Face checkpoint',
  )


def _read_config(path: str, overrides: list[str]):
  """Reads a config file and sets the fields that were given."""
  from absl import flags
  from ml_collections import config_flags

  config = _load_config(path)
  values, given = flags.FlagValues(), ['mmu', *overrides]
  try:
    # Without sys_argv, the fields to set are looked for in sys.argv.
    config_flags.DEFINE_config_dict(
        'config', config, flag_values=values, sys_argv=given
    )
    rest = values(given)
  except (AttributeError, KeyError) as error:
    raise ValueError(
        f'the config has no such field: {" ".join(overrides)}. Its fields are '
        f'{", ".join(f"config.{field}" for field in config)}; look into {path} '
        'for those within them.'
    ) from error
  except flags.Error as error:
    raise ValueError(
        f'{error}. Options are --config, --workdir, and fields of the config '
        'such as --config.seed=1.'
    ) from error
  if rest[1:]:
    raise ValueError(f'unexpected arguments: {" ".join(rest[1:])}')
  return values.config


def _load_config(path: str):
  """Runs ``get_config`` of a file, with what follows the colon."""
  import importlib.machinery
  import importlib.util

  name, *variant = path.split(':', 1)
  loader = importlib.machinery.SourceFileLoader('mmu_config', name)
  spec = importlib.util.spec_from_loader('mmu_config', loader)
  module = importlib.util.module_from_spec(spec)
  loader.exec_module(module)
  return module.get_config(*variant)


def _run(args, config, stages) -> None:
  """Calls the stage of a command and shows what it made."""
  if args.command == 'train':
    stages.train(config, args.workdir, args.run)
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
  from mmu_jax.data import check

  report = check.check(path)
  for part in check.tables(report):
    rich.print(part)
  return int(report.failed)


def _convert(args) -> None:
  """Converts a checkpoint and says what was written."""
  from mmu_jax.models import convert

  started = time.time()
  print(
      convert.convert(
          args.source, args.target, like=args.like, dtype=args.dtype
      )
  )
  print(f'mmu convert: {time.time() - started:.0f} s')


def _show_contents(path: str) -> None:
  """Prints the tables of a checkpoint."""
  import rich
  from mmu_jax.models import inspection

  for part in inspection.tables(inspection.inspect(path)):
    rich.print(part)


def _show(results) -> None:
  """Prints the table of scores, on the first of several processes."""
  import rich
  from mmu_jax import distributed
  from mmu_jax.evaluation import table

  if distributed.is_first():
    rich.print(table.results_table(results))


def _say(text: str) -> None:
  """Prints a line, on the first of several processes."""
  from mmu_jax import progress

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
