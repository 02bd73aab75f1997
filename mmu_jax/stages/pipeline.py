"""All stages in order."""

from typing import Any

import jax

from mmu_jax.attacks import ATTACKS
from mmu_jax.attacks import stage as attacking
from mmu_jax.distributed import progress
from mmu_jax.stages import gate
from mmu_jax.stages.budgets import settle as budgets
from mmu_jax.stages.budgets.run_rules import makes
from mmu_jax.stages.budgets.run_rules import TRAINED
from mmu_jax.stages.job import alone
from mmu_jax.stages.job import Config
from mmu_jax.stages.job import Folder
from mmu_jax.stages.job import open_job
from mmu_jax.stages.masking import saliency
from mmu_jax.stages.reporting import report
from mmu_jax.stages.runs import find_models
from mmu_jax.stages.scoring import evaluate
from mmu_jax.stages.training import make_model


@alone
def pipeline(config: Config, workdir: Folder) -> list[dict[str, Any]]:
  """Runs every stage of a config; finished parts are skipped.

  base -> vanilla and retrained -> gate -> importances and masks -> every run of
  the config -> evaluation -> attacks of ``config.attacks`` -> report. Before
  the first, the rounds of all are printed, with the forget turns and forget
  batches of the runs. The gate asks whether vanilla knows the forget set.

  Args:
    config: the whole config.
    workdir: folder of the job, made if it is missing.

  Returns:
    The rows of ``results.jsonl``.

  Raises:
    ValueError: if vanilla does not know the forget set, and
      ``config.unlearn.require_memorised`` is set.
  """
  job = open_job(config, workdir)
  config = job.config  # settled: the stages have nothing to note again
  # The base model of a checkpoint is read when it is needed.
  trained = TRAINED[1:] if config.model.get('path') else TRAINED
  trained = tuple(run for run in trained if makes(config, run))
  for run in (*trained, *config.runs):
    progress.say(budgets.in_words(config, run, job.data.train, job.groups))
  for run in trained:
    make_model(config, workdir, run)
  with jax.set_mesh(job.mesh):
    gate.guard(job, config.runs)
  saliency(config, workdir)
  for run in config.runs:
    make_model(config, workdir, run)
  results = evaluate(config, workdir)
  _attack(config, workdir)
  report(config, workdir)
  return results


def _attack(config: Config, workdir: Folder) -> None:
  """Makes the attacks of a config on those of its models that were made."""
  made = find_models(config, workdir)
  for name, kind in ATTACKS.items():
    wanted = kind.spec(config).models
    absent = [model for model in wanted if model not in made]
    if absent:
      progress.say(
        f'attack {name}: config.attacks.{name}.models has {", ".join(absent)}, '
        'no model of this job; left out'
      )
    models = [model for model in wanted if model in made]
    if models:
      attacking.attack(config, workdir, name, models)
