"""The stages that score models and show the scores."""

from collections.abc import Sequence
import pathlib
from typing import Any

from mmu_jax import checkpoint
from mmu_jax import progress
from mmu_jax import workdir as workdir_lib
from mmu_jax.evaluation import gallery
from mmu_jax.evaluation import report as report_lib
from mmu_jax.evaluation import tasks as tasks_lib
from mmu_jax.stages.job import Config
from mmu_jax.stages.job import final_folder
from mmu_jax.stages.job import final_params
from mmu_jax.stages.job import Folder
from mmu_jax.stages.job import Job
from mmu_jax.stages.job import open_job
from mmu_jax.stages.job import run_folder
from mmu_jax.training import loop

SCORED = ('vanilla', 'retrained')  # before the runs of the config


def evaluate(
    config: Config, workdir: Folder, runs: Sequence[str] | None = None
) -> list[dict[str, Any]]:
  """Asks models the questions of every task and scores the answers.

  Models whose scores exist are skipped.

  Args:
    config: the whole config.
    workdir: of the job; must hold the models.
    runs: which; None for all that are finished.

  Returns:
    The rows of ``results.jsonl``: of these runs and of those scored before.

  Raises:
    ValueError: if a run is unknown.
    FileNotFoundError: if a model is missing, or there is none.
  """
  every = [*SCORED, *config.runs]
  unknown = [run for run in runs or () if run not in every]
  if unknown:
    raise ValueError(
        f'unknown run {", ".join(map(repr, unknown))}; what can be evaluated '
        f'is {", ".join(every)}.'
    )
  job = open_job(config, workdir)
  if runs is None:
    final = lambda run: run_folder(job, run) / loop.FINAL
    runs = [r for r in every if checkpoint.latest_step(final(r)) is not None]
  for run in runs:
    _evaluate(job, run)
  files = [_folder(job, run) / 'results.jsonl' for run in every]
  results = [
      row for f in files if f.exists() for row in workdir_lib.read_jsonl(f)
  ]
  if not results:
    raise FileNotFoundError(
        f'there is no model to evaluate in {job.folder}. Train one first: mmu '
        'train --run=vanilla, or mmu pipeline for everything.'
    )
  workdir_lib.write_jsonl(job.folder / 'results.jsonl', results)
  return results


def report(config: Config, workdir: Folder) -> pathlib.Path:
  """Writes plots and ``report.html`` from the files of a workdir.

  Args:
    config: the whole config.
    workdir: of the job; must hold ``results.jsonl``.

  Returns:
    The path of the page.

  Raises:
    FileNotFoundError: if there are no results.
  """
  job = open_job(config, workdir)
  done = lambda run: (_folder(job, run) / 'results.jsonl').exists()
  names = [run for run in (*SCORED, *config.runs) if done(run)]
  gallery.save(job.folder, names, job.data.tasks, job.data.names)
  return report_lib.write_report(job.folder)


def _folder(job: Job, run: str) -> pathlib.Path:
  """Where the predictions of a run are."""
  return job.folder / 'predictions' / run


def _evaluate(job: Job, run: str) -> None:
  """Scores one model on every reported task, unless that is done."""
  folder = _folder(job, run)
  note = checkpoint.read_note(final_folder(job, run))
  spec = job.config.evaluation
  made_from = workdir_lib.read_json(run_folder(job, run) / workdir_lib.CONFIG)
  workdir_lib.claim(
      folder, {'evaluation': spec.to_dict(), 'model': made_from}
  )
  if (folder / 'results.jsonl').exists():
    print(f'evaluate {run}: found in {folder}', flush=True)
    return
  params = final_params(job, run)
  tasks = {
      name: rows
      for name, rows in job.data.tasks.items()
      if not name.startswith('validation_')
  }
  results = []
  bar = progress.track(tasks.items(), f'evaluate {run}')
  for task, rows in bar:
    predictions = tasks_lib.predict(
        job.model,
        params,
        rows,
        job.scorer,
        max_new_tokens=spec.max_new_tokens,
        size=spec.batch_size,
    )
    workdir_lib.write_jsonl(folder / f'{task}.jsonl', predictions)
    results += tasks_lib.summarize(
        predictions, task=task, run=run, step=note['rounds']
    )
  workdir_lib.write_jsonl(folder / 'results.jsonl', results)
