"""The choice of learning rates, on people that no reported score contains."""

from typing import Any

import jax
import numpy as np

from mmu_jax import distributed
from mmu_jax.data.dataset import FORGET
from mmu_jax.data.dataset import KEEP
from mmu_jax.errors import UserError
from mmu_jax.stages.job import alone
from mmu_jax.stages.job import Config
from mmu_jax.stages.job import Folder
from mmu_jax.stages.job import Job
from mmu_jax.stages.job import open_job
from mmu_jax.stages.runs import final_params
from mmu_jax.stages.training import make_probe
from mmu_jax.stages.training import run_method
from mmu_jax.workdir import seals


@alone
def tune(config: Config, workdir: Folder) -> list[dict[str, Any]]:
  """Tries the learning rates of ``config.tune`` for every run.

  The rule is the same for all methods. The people of the validation split are
  forgotten instead, with the budget of ``config.unlearn``, and the forget rate
  with the highest S is best:

      S = ((1 - forgotten) + U) / 2

  where ``forgotten`` is the exact match of the headline tasks to forget (new
  pictures of these people) and U the mean of the headline tasks to keep (their
  QA, and the VQA, QA and real-world VQA of validation people and pictures).
  Only tasks that are not reported are looked at.

  Args:
    config: the whole config.
    workdir: folder of the job; must hold ``vanilla``; gets ``tuning/``.

  Returns:
    The rows of ``tuning/tuning.jsonl``, one for each run and rate.

  Raises:
    FileNotFoundError: if vanilla is missing.
    ValueError: if the dataset has no people for it.
  """
  if 'tune' not in config or 'validation_groups' not in config:
    raise UserError(
      'tuning needs people that no reported score contains: the config must '
      'have `tune` and `validation_groups`, as the config people does.'
    )
  job = open_job(config, workdir, validation=True, begin=False)
  with jax.set_mesh(job.mesh):
    rows = _try_all(job)
  path = job.unlearned / 'tuning.jsonl'
  distributed.first(seals.write_rows, path, rows, path.name)
  return rows


def _try_all(job: Job) -> list[dict[str, Any]]:
  """Runs every method at every rate and scores it."""
  config = job.config
  probe = make_probe(job, config.tune.rows)
  rows = []
  for run, spec in config.runs.items():
    for rate in config.tune.rates:
      name = f'{run}-{rate:g}'
      settings = Config({**spec.to_dict(), 'rate': rate})
      run_method(job, name, settings, probe=False)
      scores = probe(final_params(job, name))
      mean = lambda role: float(
        np.mean([scores[k] for k in scores if job.data.tasks[k].role == role])
      )
      utility = mean(KEEP)
      score = (1 - mean(FORGET) + utility) / 2
      rows.append(
        {
          'seed': config.seed,
          'run': run,
          'rate': rate,
          'S': round(score, 4),
          'U': round(utility, 4),
          **scores,
        }
      )
  return rows
