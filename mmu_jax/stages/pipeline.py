"""All stages in order."""

from typing import Any

from mmu_jax.stages.job import alone
from mmu_jax.stages.job import Config
from mmu_jax.stages.job import Folder
from mmu_jax.stages.job import makes
from mmu_jax.stages.job import TRAINED
from mmu_jax.stages.masking import saliency
from mmu_jax.stages.reporting import report
from mmu_jax.stages.scoring import evaluate
from mmu_jax.stages.training import make_model


@alone
def pipeline(config: Config, workdir: Folder) -> list[dict[str, Any]]:
  """Runs every stage of a config; finished parts are skipped.

  base -> vanilla and retrained -> importances and masks -> every run of the
  config -> evaluation -> report.

  Args:
    config: the whole config.
    workdir: folder of the job, made if it is missing.

  Returns:
    The rows of ``results.jsonl``.
  """
  for run in TRAINED:
    # The base model of a checkpoint is read when it is needed.
    read = run == 'base' and config.model.get('path')
    if makes(config, run) and not read:
      make_model(config, workdir, run)
  saliency(config, workdir)
  for run in config.runs:
    make_model(config, workdir, run)
  results = evaluate(config, workdir)
  report(config, workdir)
  return results
