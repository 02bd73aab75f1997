"""The commands of a job: they take a config, and a workdir for its results."""

import argparse
import os
import pathlib
import platform
import time
from typing import Any

from mmu_jax.attacks import ATTACKS
from mmu_jax.commands.command import add_config
from mmu_jax.commands.command import add_processes
from mmu_jax.commands.command import add_workdir
from mmu_jax.commands.command import Command
from mmu_jax.errors import UserError

_PROGRAMS = 'jax_compilation_cache_dir'  # JAX's name of the folder


def run(command: Command, args: argparse.Namespace) -> int:
  """Runs a command of a job in all of its processes; says how long it took.

  Args:
    command: command with ``begun``.
    args: parsed arguments of the command.

  Returns:
    The exit code; 75 if the job was asked to stop and has saved everything.
  """
  # Not at the top: JAX takes seconds to import, and --help should not.
  from mmu_jax import distributed
  from mmu_jax.distributed import preemption
  from mmu_jax.distributed import progress

  started = time.time()
  distributed.initialize(args.coordinator, args.num_processes, args.process_id)
  try:
    with preemption.watch():
      if args.resume == 'never':
        _check_begun(command, args)
      _keep_programs()
      code = command.run(args)
  except preemption.Preempted as error:
    progress.say(f'mmu: {error}')
    return preemption.EXIT_CODE
  progress.say(f'mmu {command.name}: {time.time() - started:.0f} s')
  return code or 0


def stored(args: argparse.Namespace) -> Any:
  """Returns the config of a job that exists, for a command without one."""
  from mmu_jax.stages import job

  return job.stored_config(args.workdir)


def _keep_programs() -> None:
  """Keeps compiled programs in the user's cache folder, for later calls.

  JAX_COMPILATION_CACHE_DIR sets another folder, and
  JAX_ENABLE_COMPILATION_CACHE=false keeps nothing. Each machine has a folder of
  its own: programs for one CPU can crash on another. On several CPU devices
  nothing is kept; there a program from a cache has waited for ever.
  """
  import jax

  simulated = jax.default_backend() == 'cpu' and jax.device_count() > 1
  if simulated or getattr(jax.config, _PROGRAMS):
    return
  home = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
  folder = pathlib.Path(home) / 'mmu_jax' / 'programs' / platform.node()
  try:
    if folder.is_absolute():
      folder.mkdir(parents=True, exist_ok=True)
      jax.config.update(_PROGRAMS, str(folder))
  except OSError:  # no home, or one that cannot be written to
    return


def _check_begun(command: Command, args: argparse.Namespace) -> None:
  """Raises ValueError if an earlier call of the command has left something."""
  from mmu_jax import distributed

  assert command.begun is not None
  path = pathlib.Path(args.workdir) / command.begun(args)
  if distributed.first(path.exists):
    raise UserError(
      f'--resume=never starts from nothing, and an earlier call has left '
      f'{path}. Give another --workdir, delete it, or leave --resume out: '
      'then the job goes on where it was.'
    )


def _add_arguments(
  parser: argparse.ArgumentParser, needs_config: bool = True
) -> None:
  """Adds the arguments of every job."""
  add_config(parser, required=needs_config)
  add_workdir(parser)
  parser.add_argument(
    '--resume',
    choices=('auto', 'never'),
    default='auto',
    help='auto, the default, goes on where an earlier call was stopped; '
    'never refuses a workdir where this command has begun',
  )
  add_processes(parser)


def _add_run(parser: argparse.ArgumentParser) -> None:
  """Adds the one model of ``train``."""
  _add_arguments(parser)
  parser.add_argument(
    '--run',
    required=True,
    metavar='NAME',
    help='base, vanilla, retrained, or a key of config.runs',
  )


def _add_runs(parser: argparse.ArgumentParser) -> None:
  """Adds the models of ``evaluate`` and ``attack``."""
  _add_arguments(parser, needs_config=False)
  parser.add_argument(
    '--run',
    action='append',
    metavar='NAME',
    help='vanilla, retrained, or a key of config.runs; may be given again. '
    'Default: every model that is finished',
  )


def _add_report(parser: argparse.ArgumentParser) -> None:
  """Adds the arguments of ``report``."""
  _add_arguments(parser, needs_config=False)


def _pipeline(args: argparse.Namespace) -> None:
  """Runs every stage; prints the table."""
  from mmu_jax import stages
  from mmu_jax.distributed import progress

  _show(stages.pipeline(args.config, args.workdir))
  progress.say(f'report: {args.workdir}/report.html')


def _train(args: argparse.Namespace) -> None:
  """Trains one model."""
  from mmu_jax import stages

  stages.make_model(args.config, args.workdir, args.run)


def _train_begun(args: argparse.Namespace) -> str:
  """The folder of the model in the workdir."""
  from mmu_jax.stages.budgets import run_rules

  return args.run if args.run in run_rules.TRAINED else f'unlearned/{args.run}'


def _saliency(args: argparse.Namespace) -> None:
  """Measures importances and makes masks."""
  from mmu_jax import stages

  stages.saliency(args.config, args.workdir)


def _evaluate(args: argparse.Namespace) -> None:
  """Scores models; prints the table."""
  from mmu_jax import stages

  _show(stages.evaluate(args.config, args.workdir, args.run))


def _add_attack(parser: argparse.ArgumentParser) -> None:
  """Adds the attack and its models."""
  each = '; '.join(f'{a.name}: {a.title}' for a in ATTACKS.values())
  parser.add_argument('attack', metavar='NAME', choices=ATTACKS, help=each)
  _add_runs(parser)


def _attack(args: argparse.Namespace) -> None:
  """Attacks models; prints the table."""
  import rich

  from mmu_jax import distributed
  from mmu_jax import stages
  from mmu_jax.attacks import showing

  found = stages.attack(args.config, args.workdir, args.attack, args.run)
  if distributed.is_first():
    rich.print(showing.terminal_table(found))


def _report(args: argparse.Namespace) -> None:
  """Writes the report."""
  from mmu_jax import stages
  from mmu_jax.distributed import progress

  progress.say(f'report: {stages.report(args.config, args.workdir)}')


def _tune(args: argparse.Namespace) -> None:
  """Tries learning rates; prints S for every run and rate, and the best."""
  from mmu_jax import stages
  from mmu_jax.distributed import progress
  from mmu_jax.stages import tuning

  rows = stages.tune(args.config, args.workdir)
  for row in rows:
    scores = ' '.join(
      f'{k} {v:.3f}'
      for k, v in row.items()
      if isinstance(v, float) and k != 'rate'
    )
    progress.say(f'{row["run"]:20} {row["rate"]:<8g} {scores or "collapsed"}')
  for line in tuning.best_rates(rows, args.config.tune.rates):
    progress.say(line)


def _show(results: list[dict[str, Any]]) -> None:
  """Prints the table of scores, on the first of several processes."""
  import rich

  from mmu_jax import distributed
  from mmu_jax.evaluation.report import table

  if distributed.is_first():
    rich.print(table.results_table(results))


COMMANDS = (
  Command(
    'pipeline',
    'run every stage in order; finished stages are skipped',
    """
  mmu pipeline --config=people --workdir=runs/people
  mmu pipeline --config=people --workdir=runs/seed1 --config.seed=1
  mmu pipeline --config=people:fast --workdir=runs/fast

Stop it at any time; the same command goes on where it was.""",
    _add_arguments,
    _pipeline,
    begun=lambda args: 'config.json',
  ),
  Command(
    'train',
    'train one model: base, vanilla, retrained, or a run of the config',
    """
  mmu train --config=people --workdir=runs/people --run=base
  mmu train --config=people --workdir=runs/people --run=vanilla
  mmu train --config=people --workdir=runs/people --run=mmunlearner

vanilla and retrained start from base; every other run starts from vanilla,
and makes its mask if `mmu saliency` has not.""",
    _add_run,
    _train,
    begun=_train_begun,
  ),
  Command(
    'saliency',
    'measure importances at vanilla and make the masks',
    """
  mmu saliency --config=people --workdir=runs/people

Writes importance/ and mask/, with a note.json that states density and ties.""",
    _add_arguments,
    _saliency,
    begun=lambda args: 'mask',
  ),
  Command(
    'evaluate',
    'ask models the questions of every task and score the answers',
    """
  mmu evaluate --workdir=runs/people
  mmu evaluate --workdir=runs/people --run=vanilla --run=mmunlearner
  mmu evaluate --workdir=runs/people --config=people --config.evaluation.shots=2

Writes predictions/ and results.jsonl and prints the table. Without --config it
takes the config of the last command in the workdir; a file that defines a
method or dataset of its own has to be given.""",
    _add_runs,
    _evaluate,
    begun=lambda args: 'predictions',
  ),
  Command(
    'attack',
    'try to get back what finished models have forgotten',
    """
  mmu attack relearn --workdir=runs/people
  mmu attack relearn --workdir=runs/people --run=mmunlearner

Writes attacks/NAME/ and prints a table; `mmu report` shows it. The retrained
model is attacked, too: a result is read beside it. Settings are those of
config.attacks; a stopped call goes on.""",
    _add_attack,
    _attack,
    begun=lambda args: f'attacks/{args.attack}',
  ),
  Command(
    'report',
    'write plots and report.html from the scores',
    """
  mmu report --workdir=runs/people
  mmu report --workdir=runs/people --config=people

Without --config it takes the config of the last command in the workdir; a file
that defines a method or dataset of its own has to be given.""",
    _add_report,
    _report,
    begun=lambda args: 'report.html',
  ),
  Command(
    'tune',
    'try the learning rates of the config on others than those to forget',
    """
  mmu tune --config=people --workdir=runs/people
  mmu tune --config=own --workdir=runs/own --config.data.path=people.jsonl

Needs vanilla. Prints S for every run and rate, and the best rate of each run as
the option that sets it. Without people for validation a part of the retain set,
which is reported too, is forgotten in the place of the forget set. The rates
are config.tune.rates; every try keeps its model in tuning/, and a stopped call
goes on.""",
    _add_arguments,
    _tune,
    begun=lambda args: 'tuning',
  ),
)
