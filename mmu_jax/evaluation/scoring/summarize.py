"""Averages of scores: rows of ``results.jsonl``, each with an interval."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mmu_jax.data.dataset import FORGET
from mmu_jax.data.dataset import Task
from mmu_jax.evaluation.asking.answers import Answer
from mmu_jax.evaluation.scoring import entities
from mmu_jax.evaluation.scoring import scores
from mmu_jax.metrics import bootstrap_interval

# The truth ratio is scored by whether the knowledge is to go or to stay.
_NOT_OF_FORGET, _OF_FORGET_ONLY = 'truth_ratio_retain', 'truth_ratio_forget'


class Values(NamedTuple):
  """The scores of one metric, and whom each is about.

  Attributes:
    values: one score for each answer.
    groups: the person, or else the picture, of each answer.
  """

  values: list[float]
  groups: list[str | None]


def collect(
  answers: Sequence[Answer], task: Task, names: Mapping[str, str] | None = None
) -> dict[str, Values]:
  """Scores every answer of a task.

  Args:
    answers: answer records.
    task: questions that were asked.
    names: name by person or thing, to find who is named instead of another.

  Returns:
    metric -> its scores, for the metrics that some answer has.
  """
  found = {}
  unwanted = _NOT_OF_FORGET if task.split == FORGET else _OF_FORGET_ONLY
  for kind, metrics in scores.METRICS.items():
    of_kind = [answer for answer in answers if answer['kind'] == kind]
    scored = [(group_of(a), scores.score(a)) for a in of_kind]
    for metric in metrics:
      pairs = [(s[metric], group) for group, s in scored if metric in s]
      if pairs and metric != unwanted:
        found[metric] = Values(*map(list, zip(*pairs)))
  another = entities.named_another(answers, task, names or {})
  if another:
    found['names_another'] = Values(*map(list, zip(*another)))
  return found


def group_of(answer: Answer) -> str | None:
  """The person, or else the picture, that an answer is about."""
  return answer['person'] or answer['picture']


def summarize(
  collected: Mapping[str, Values],
  *,
  task: Task,
  run: str,
  step: int,
  names: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
  """Averages scores into results, each with n and a 95 % interval.

  The interval is a bootstrap over people where rows name them: answers about
  one person stand and fall together.

  Args:
    collected: scores of the task by metric, see ``collect``.
    task: questions that were asked.
    run: name of the model: ``'mmunlearner'``.
    step: round that the model had reached.
    names: name by person or thing; with it, the rows that say whether somebody
      is still known have ``entities``, see ``entities.by_entity``.

  Returns:
    Rows of ``results.jsonl``.
  """
  results = []
  for metric, (values, groups) in collected.items():
    interval = bootstrap_interval(values, groups=groups)
    value = float(np.mean(values))
    row = result(run, step, task, metric, value, interval, len(values))
    if task.role == FORGET and metric in entities.TOLD:
      apart = entities.by_entity(values, groups, names or {})
      row |= {'entities': apart} if apart else {}
    results.append(row)
  return results


def result(
  run: str,
  step: int,
  task: Task,
  metric: str,
  value: float,
  interval: tuple[float, float],
  n: int,
) -> dict[str, Any]:
  """Returns one row of ``results.jsonl``, with six digits of each number."""
  shorten = lambda x: float(f'{x:.6g}')
  return {
    'run': run,
    'step': step,
    'task': task.name,
    'split': task.split,
    'modality': task.modality,
    'role': task.role,
    'holdout': task.holdout,
    'headline': task.headline,
    'metric': metric,
    'value': shorten(value),
    'n': n,
    'low': shorten(interval[0]),
    'high': shorten(interval[1]),
  }
