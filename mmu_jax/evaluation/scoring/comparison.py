"""Scores of a whole model: its utility, and its distance to retraining."""

from collections.abc import Mapping, Sequence
from typing import Any
import zlib

import numpy as np

from mmu_jax import metrics
from mmu_jax.data.dataset import FORGET
from mmu_jax.data.dataset import KEEP
from mmu_jax.data.dataset import Task
from mmu_jax.evaluation.asking.answers import Answer
from mmu_jax.evaluation.scoring import scores
from mmu_jax.evaluation.scoring.summarize import group_of
from mmu_jax.evaluation.scoring.summarize import result
from mmu_jax.evaluation.scoring.summarize import Values
from mmu_jax.metrics import bootstrap

# The metrics of the harmonic mean, where a task has them.
KEPT = ('accuracy', 'cloze', 'rougeL', 'probability', 'truth_ratio_retain')
_ALL = Task('all', (), 'all', 'all', KEEP)  # of a score over several tasks
_RESAMPLES = 1000
_KS_RESAMPLES = 200


def model_utility(
  collected: Sequence[tuple[Task, Mapping[str, Values]]], *, run: str, step: int
) -> list[dict[str, Any]]:
  """Model utility: the harmonic mean of every score that was to stay high.

      U = n / sum_i(1 / s_i)

  over the metrics ``KEPT`` of every task to keep. Text knowledge of the
  forgotten people is to stay, so forget QA counts too. TOFU's utility is of
  three metrics on three sets; this is the same mean over the benchmark's tasks.

  The interval resamples people, by name and once for all tasks of a split. A
  score that is the same in every resampling (0 right of 20, or one person)
  enters with both ends of its own interval, so the bounds are on the safe side
  there. Whatever is drawn, the interval holds the value.

  Args:
    collected: every task with its scores by metric.
    run: name of the model.
    step: round that the model had reached.

  Returns:
    One row of ``results.jsonl``, its n the number of scores s; none if no
    task has such a score.
  """
  values, lows, highs = [], [], []
  for split, kept in _kept(collected).items():
    drawn = bootstrap.shared_means(
      kept, num_resamples=_RESAMPLES, seed=zlib.crc32(split.encode())
    )
    for score, means in zip(kept, drawn):
      low, high = _ends(score, means)
      values.append(float(np.mean(score.values)))
      lows.append(low)
      highs.append(high)
  if not values:
    return []
  from scipy import stats  # half a second, which a plan need not wait for

  value = metrics.harmonic_mean(values)
  low, _ = bootstrap.quantiles(stats.hmean(lows, axis=0))  # all in one call
  _, high = bootstrap.quantiles(stats.hmean(highs, axis=0))
  interval = min(low, value), max(high, value)
  return [
    result(run, step, _ALL, 'model_utility', value, interval, len(values))
  ]


def _kept(
  collected: Sequence[tuple[Task, Mapping[str, Values]]],
) -> dict[str, list[Values]]:
  """Split -> the scores that were to stay high."""
  kept = {}
  for task, found in collected:
    for metric, score in found.items():
      if metric in KEPT and task.role == KEEP:
        kept.setdefault(task.split, []).append(score)
  return kept


def _ends(score: Values, means: np.ndarray):
  """Resampled means for the low and the high bound, ``[R]`` each."""
  if np.ptp(means) > 1e-9:
    return means, means
  low, high = metrics.bootstrap_interval(score.values, groups=score.groups)
  return np.full_like(means, low), np.full_like(means, high)


def against(
  answers: Sequence[Answer],
  retrained: Sequence[Answer],
  *,
  task: Task,
  run: str,
  step: int,
) -> list[dict[str, Any]]:
  """Compares the answers of a task with the retrained model's.

  Args:
    answers: answer records of a run.
    retrained: answers of the retrained model to the same rows.
    task: questions that were asked.
    run: name of the model.
    step: round that the model had reached.

  Returns:
    Rows of ``results.jsonl``: ``js_divergence`` of the shares of the options,
    in bits, where a row has options; ``forget_quality``, where the forget set
    has truth ratios.
  """
  results = []
  people, pairs = _paired(scores.shares_of_options, answers, retrained)
  if pairs:
    values = [metrics.js_divergence(p, q) for p, q in pairs]
    interval = metrics.bootstrap_interval(values, groups=people)
    mean, n = float(np.mean(values)), len(values)
    results.append(result(run, step, task, 'js_divergence', mean, interval, n))
  people, pairs = _paired(scores.truth_ratio_of, answers, retrained)
  if pairs and task.split == FORGET:
    value, interval = _quality(people, np.array(pairs))
    results.append(
      result(run, step, task, 'forget_quality', value, interval, len(pairs))
    )
  return results


def _paired(function, answers, retrained):
  """Whom rows are about, and a number of both models, where both have it."""
  gold = {answer['key']: function(answer) for answer in retrained}
  found = [
    (group_of(answer), (mine, gold[answer['key']]))
    for answer in answers
    if gold.get(answer['key']) is not None
    and (mine := function(answer)) is not None
  ]
  return [group for group, _ in found], [pair for _, pair in found]


def _quality(people, ratios):
  """The KS p-value; people are resampled, the same in both models."""
  # The interval is rough: rows that are drawn twice make two samples look less
  # alike, so it lies low.
  drawn = bootstrap.resampled_rows(people, num_resamples=_KS_RESAMPLES, seed=0)
  quality = lambda rows: metrics.forget_quality(*ratios[rows].T)
  low, high = bootstrap.quantiles([quality(rows) for rows in drawn])
  value = quality(slice(None))
  return value, (min(low, value), max(high, value))
