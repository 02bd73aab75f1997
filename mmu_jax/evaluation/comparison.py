"""Scores of a whole model: what it kept, how near it is to the retrained."""

from collections.abc import Mapping, Sequence
from typing import Any
import zlib

import numpy as np

from mmu_jax import metrics
from mmu_jax.evaluation import tasks as tasks_lib
from mmu_jax.evaluation.protocols.question import split_of
from mmu_jax.evaluation.scores import Prediction
from mmu_jax.metrics import bootstrap

# What the harmonic mean is of, where a task has it.
KEPT = (
    'accuracy', 'cloze', 'rougeL', 'probability', 'truth_ratio_retain',
)  # fmt: skip
FORGOTTEN = 'forget_vqa'  # tasks that begin so are not to be kept
ALL = 'all'  # the task of a score that is of several
RESAMPLES = 1000
KS_RESAMPLES = 200


def utility(
    predictions: Mapping[str, Sequence[Prediction]], *, run: str, step: int
) -> list[dict[str, Any]]:
  """Model utility: the harmonic mean of every score that was to stay high.

      U = n / sum_i(1 / s_i)

  over the metrics ``KEPT`` of every task but those about the pictures of the
  forgotten people. What is known in text of these people is to stay, so
  forget QA counts too. TOFU's utility is of three metrics on three sets; this
  is the same mean of what the benchmark has.

  The interval resamples people, the same ones for all tasks of a split.

  Args:
    predictions: of every task.
    run: whose they are.
    step: the round that the run had reached.

  Returns:
    One row of ``results.jsonl``, its n the number of scores s; none if no
    task has such a score.
  """
  values, resampled = [], []
  for task, found in predictions.items():
    if task.startswith(FORGOTTEN):
      continue
    for metric, (x, groups) in tasks_lib.collect(found, task).items():
      if metric in KEPT:
        values.append(float(np.mean(x)))
        seed = zlib.crc32(split_of(task).encode())
        resampled.append(
            bootstrap.resampled_means(
                x, groups=groups, num_resamples=RESAMPLES, seed=seed
            )
        )
  if not values:
    return []
  means = [metrics.harmonic_mean(x) for x in np.transpose(resampled)]
  return [
      tasks_lib.result(
          run, step, ALL, 'model_utility', metrics.harmonic_mean(values),
          bootstrap.quantiles(means), len(values),
      )
  ]  # fmt: skip


def against(
    predictions: Sequence[Prediction],
    retrained: Sequence[Prediction],
    *,
    task: str,
    run: str,
    step: int,
) -> list[dict[str, Any]]:
  """Compares the answers of a task with those of the retrained model.

  Args:
    predictions: of a run.
    retrained: of the retrained model, to the same rows.
    task: its name.
    run: whose predictions they are.
    step: the round that the run had reached.

  Returns:
    Rows of ``results.jsonl``: ``js_divergence`` of the shares of the options,
    in bits, where a row has options; ``forget_quality``, where the forget set
    has truth ratios.
  """
  gold = {p['key']: p for p in retrained}
  paired = lambda field: [
      (p, gold[p['key']])
      for p in predictions
      if field in p and field in gold.get(p['key'], ())
  ]
  results = []
  if pairs := paired('option_nll'):
    results.append(_divergence(pairs, task, run, step))
  pairs = paired('truth_ratio')
  if pairs and split_of(task) == 'forget':
    results.append(_quality(pairs, task, run, step))
  return results


def _divergence(pairs, task, run, step):
  """The mean divergence over the rows with options."""
  shares = lambda p: metrics.option_shares(p['option_nll'])
  values = [metrics.js_divergence(shares(p), shares(q)) for p, q in pairs]
  interval = metrics.bootstrap_interval(values, groups=_people(pairs))
  return tasks_lib.result(
      run, step, task, 'js_divergence', float(np.mean(values)), interval,
      len(values),
  )  # fmt: skip


def _quality(pairs, task, run, step):
  """The KS p-value; people are resampled, the same in both models.

  The interval is rough: rows that are drawn twice make two samples look less
  alike, so it lies low.
  """
  ratios = np.array([(p['truth_ratio'], q['truth_ratio']) for p, q in pairs])
  drawn = bootstrap.resampled_rows(
      _people(pairs), num_resamples=KS_RESAMPLES, seed=0
  )
  quality = lambda rows: metrics.forget_quality(*ratios[rows].T)
  low, high = bootstrap.quantiles([quality(rows) for rows in drawn])
  value = quality(slice(None))
  interval = min(low, value), max(high, value)
  return tasks_lib.result(
      run, step, task, 'forget_quality', value, interval, len(pairs)
  )


def _people(pairs):
  """Whom each pair is about."""
  return [p['person'] or p['image_key'] for p, _ in pairs]
