"""The stage that shows the scores."""

from collections.abc import Collection, Mapping, Sequence
import pathlib
from typing import Any

from mmu_jax import distributed
from mmu_jax.attacks import ATTACKS
from mmu_jax.attacks import showing
from mmu_jax.attacks import stage as attacking
from mmu_jax.errors import UserError
from mmu_jax.evaluation.asking import answers as answers_lib
from mmu_jax.evaluation.report import gallery
from mmu_jax.evaluation.report import page
from mmu_jax.evaluation.scoring import results
from mmu_jax.stages import gate
from mmu_jax.stages import origins
from mmu_jax.stages.budgets.run_rules import makes
from mmu_jax.stages.budgets.run_rules import NO_RETRAINED
from mmu_jax.stages.job import alone
from mmu_jax.stages.job import Config
from mmu_jax.stages.job import Folder
from mmu_jax.stages.job import Job
from mmu_jax.stages.job import open_job
from mmu_jax.stages.runs import find_models
from mmu_jax.stages.runs import model_folder
from mmu_jax.workdir import seals


@alone
def report(config: Config, workdir: Folder) -> pathlib.Path:
  """Writes plots, the gallery and ``report.html`` from the files of a workdir.

  Args:
    config: the whole config.
    workdir: folder of the job; must hold ``results.jsonl``.

  Returns:
    The path of the page.

  Raises:
    FileNotFoundError: if there are no results.
  """
  job = open_job(config, workdir, begin=False)
  return pathlib.Path(distributed.first(_report, job))


def _report(job: Job) -> str:
  """Writes the report; returns its path."""
  rows, note = results.read(job.folder)
  folder = job.folder / note['predictions']
  runs = list(dict.fromkeys(row['run'] for row in rows))
  remarks = _look_over(job, runs, folder, note)
  before, unknown = gate.told(job, runs)
  remarks += [unknown] if unknown else []
  gallery.save_gallery(job.folder, runs, job.data, predictions=folder)
  found = attacking.attacked(job)
  path = page.write_report(
    job.folder,
    predictions=folder,
    remarks=remarks,
    before=before,
    attacks=[showing.section(ATTACKS[name], of) for name, of in found.items()],
  )
  return str(path)


def _look_over(
  job: Job, runs: Sequence[str], folder: pathlib.Path, note: Mapping[str, Any]
) -> list[str]:
  """Checks the sources of the scores; returns remarks for the reader.

  Raises:
    ValueError: if answers, models or masks are not the ones that were scored.
  """
  for run in runs:
    made = model_folder(job, run)
    origins.check(job, made)
    if origins.content(made) not in ('', note['models'][run]):
      raise UserError(
        f'{made} is not the model that was scored: it was made anew. Run `mmu '
        'evaluate` again.'
      )
  for mask in (job.unlearned / 'mask').glob('*'):
    origins.check(job, mask)
  remarks = [
    f'{run} has no scores: {why}.' for run, why in note['left_out'].items()
  ]
  if 'retrained' not in runs and not makes(job.config, 'retrained'):
    remarks.append(
      f'There is no retrained model ({NO_RETRAINED}): nothing is compared with '
      'a model that never saw the forget set.'
    )
  gone = _without_answers(folder, note)
  if gone:
    remarks.append(
      f'Answers of {", ".join(gone)} are no longer in {folder}: their scores '
      'cannot be computed again.'
    )
  return (
    remarks
    + _not_shown(job, runs)
    + _not_scored(job, {*runs, *note['left_out']})
  )


def _without_answers(
  folder: pathlib.Path, note: Mapping[str, Any]
) -> list[str]:
  """The runs whose answers have gone since they were scored.

  Raises:
    ValueError: if answers have changed.
  """
  gone = []
  for run, tasks in note['answers'].items():
    for task, was in tasks.items():
      path = answers_lib.task_file(folder / run, task)
      if not path.exists():
        gone.append(run)
      elif seals.fault(path, task) or seals.hash_of(path) != was:
        raise UserError(
          f'{path} does not hold the answers that were scored. Run `mmu '
          'evaluate` again: answers that are not whole are asked again.'
        )
  return list(dict.fromkeys(gone))


def _not_scored(job: Job, known: Collection[str]) -> list[str]:
  """Names models of the workdir or the config that no table shows."""
  new = [r for r in find_models(job.config, job.folder) if r not in known]
  wanted = ['vanilla', 'retrained', *job.config.runs]
  wanted = [run for run in wanted if makes(job.config, run)]
  absent = [run for run in wanted if run not in {*known, *new}]
  remarks = []
  if new:
    remarks.append(
      f'{", ".join(new)} is in this workdir and has no scores yet: `mmu '
      'evaluate` asks every model.'
    )
  if absent:
    remarks.append(
      f'{", ".join(absent)} of the config is not in this workdir, and nothing '
      'is compared with it: `mmu pipeline` makes it.'
    )
  return remarks


def _not_shown(job: Job, runs: Sequence[str]) -> list[str]:
  """Names logs and masks of runs that a plot or table will lack."""
  named = {run: job.config.runs[run] for run in job.config.runs if run in runs}
  logs = {
    run: job.unlearned / 'unlearned' / run / 'metrics.jsonl' for run in named
  }
  kinds = dict.fromkeys(run.get('mask', '') for run in named.values())
  if {'random', 'topk'} & {*kinds}:
    kinds['saliency'] = None  # they are made like it
  masks = [job.unlearned / 'mask' / kind for kind in kinds if kind]
  return [
    f'The rounds of {run} are not plotted: there is no {path}.'
    for run, path in logs.items()
    if not path.is_file()
  ] + [
    f'A mask is not shown: {path} holds none any more.'
    for path in masks
    if not origins.content(path)
  ]
