"""The stages of a job, and the only readers of its config.

``train`` -> ``saliency`` -> ``evaluate`` -> ``attack`` -> ``report``, and
``pipeline``, which runs them in order and skips what exists. The workdir is the
contract between them; every folder in it has its settings in a
``config.json``::

  base/ vanilla/ retrained/   params/ metrics.jsonl timing.jsonl; until the end
                              checkpoints/ instead of params/
  gate.json                   whether vanilla knows the forget set
  importance/<split>/         one float32 tree each; or log_ratio/ alone
  mask/<kind>/                packed bits and note.json
  relabelled/<teacher>/       rows with other answers, and who was asked
  unlearned/<run>/            like vanilla/; so is the folder of any model that
                              a later stage makes: made/<name>/<run>/
  attacks/<attack>/<model>/   rows.jsonl, the result of an attack
  predictions/<run>/          <task>.jsonl, answers without scores
  predictions/<protocol>-<shots>shot/<run>/  the same, asked in another way
  results.jsonl  plots/  report.html  manifest.json
  tuning/                     the same on other people, for ``tune``
"""

from typing import Any

from mmu_jax.stages.job import open_job
from mmu_jax.stages.masking import saliency
from mmu_jax.stages.pipeline import pipeline
from mmu_jax.stages.reporting import report
from mmu_jax.stages.runs import load_model
from mmu_jax.stages.runs import load_run
from mmu_jax.stages.scoring import evaluate
from mmu_jax.stages.training import make_model
from mmu_jax.stages.training import train
from mmu_jax.stages.tuning import tune

__all__ = [
  'attack',
  'evaluate',
  'load_model',
  'load_run',
  'make_model',
  'open_job',
  'pipeline',
  'report',
  'saliency',
  'train',
  'tune',
]


def __getattr__(name: str) -> Any:
  """Imports ``attack`` when it is used; it is made of these stages."""
  if name != 'attack':
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  from mmu_jax.attacks.stage import attack

  return attack
