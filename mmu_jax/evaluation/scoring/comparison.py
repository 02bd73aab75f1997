"""Scores of a whole model: what it kept, how near it is to the retrained."""

from collections.abc import Mapping, Sequence
from typing import Any
import zlib

import numpy as np

from mmu_jax import metrics
from mmu_jax.evaluation.asking import tasks as tasks_lib
from mmu_jax.evaluation.asking.protocols.question import split_of
from mmu_jax.evaluation.scoring.scores import Prediction
from mmu_jax.metrics import bootstrap

# What the harmonic mean is of, where a task has it.
KEPT = ('accuracy', 'cloze', 'rougeL', 'probability', 'truth_ratio_retain')
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

  The interval resamples people, by name and once for all tasks of a split. A
  score that is the same in every resampling (0 right of 20, or one person)
  enters with both ends of its own interval, so the bounds are on the safe side
  there. Whatever is drawn, the interval holds the value.

  Args:
    predictions: of every task.
    run: whose they are.
    step: the round that the run had reached.

  Returns:
    One row of ``results.jsonl``, its n the number of scores s; none if no
    task has such a score.
  """
  values, lows, highs = [], [], []
  for split, scores in _kept(predictions).items():
    drawn = bootstrap.shared_means(
      scores, num_resamples=RESAMPLES, seed=zlib.crc32(split.encode())
    )
    for score, means in zip(scores, drawn):
      low, high = _ends(score, means)
      values.append(float(np.mean(score.values)))
      lows.append(low)
      highs.append(high)
  if not values:
    return []
  value = metrics.harmonic_mean(values)
  mean = lambda resampled: [
    metrics.harmonic_mean(x) for x in np.transpose(resampled)
  ]
  low, _ = bootstrap.quantiles(mean(lows))
  _, high = bootstrap.quantiles(mean(highs))
  interval = min(low, value), max(high, value)
  return [
    tasks_lib.result(
      run, step, ALL, 'model_utility', value, interval, len(values)
    )
  ]


def _kept(
  predictions: Mapping[str, Sequence[Prediction]],
) -> dict[str, list[tasks_lib.Values]]:
  """Split -> the scores that were to stay high."""
  kept = {}
  for task, found in predictions.items():
    if task.startswith(FORGOTTEN):
      continue
    for metric, score in tasks_lib.collect(found, task).items():
      if metric in KEPT:
        kept.setdefault(split_of(task), []).append(score)
  return kept


def _ends(score: tasks_lib.Values, means: np.ndarray):
  """Resampled means for the low and the high bound, ``[R]`` each."""
  if np.ptp(means) > 1e-9:
    return means, means
  low, high = metrics.bootstrap_interval(score.values, groups=score.groups)
  return np.full_like(means, low), np.full_like(means, high)


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
    run,
    step,
    task,
    'js_divergence',
    float(np.mean(values)),
    interval,
    len(values),
  )


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
