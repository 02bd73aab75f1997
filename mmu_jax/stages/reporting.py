"""The stage that shows the scores."""

import pathlib

from mmu_jax import distributed
from mmu_jax.evaluation.report import gallery
from mmu_jax.evaluation.report import page
from mmu_jax.stages import scoring
from mmu_jax.stages.job import Config
from mmu_jax.stages.job import Folder
from mmu_jax.stages.job import Job
from mmu_jax.stages.job import open_job


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
  job = open_job(config, workdir)
  return pathlib.Path(distributed.first(_report, job))


def _report(job: Job) -> str:
  """Writes the report; returns its path."""
  results = page.read_results(job.folder)
  row = results[0]
  folder = scoring.answers_folder(job, row['protocol'], row['shots'])
  runs = list(dict.fromkeys(row['run'] for row in results))
  gallery.save_gallery(job.folder, runs, job.data, predictions=folder)
  return str(page.write_report(job.folder, predictions=folder))
