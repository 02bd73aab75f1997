"""All scores of a workdir, from the answers of all its models."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmu_jax.data.dataset import Task
from mmu_jax.evaluation.asking.answers import Answer
from mmu_jax.evaluation.scoring import comparison
from mmu_jax.evaluation.scoring import summarize

Asked = Sequence[tuple[Task, Sequence[Answer]]]  # every task and its answers


def score_all(
  answers: Mapping[str, Asked], steps: Mapping[str, int], *, retrained: str = ''
) -> list[dict[str, Any]]:
  """Scores every model, and compares it with the retrained one.

  Args:
    answers: tasks with their answers, by model.
    steps: round that each model had reached.
    retrained: name of the model that the others are compared with; '' for
      neither a comparison nor a utility.

  Returns:
    Rows of ``results.jsonl``: of every task in turn, model by model, each with
    its utility; then the comparisons.
  """
  rows = []
  for run, asked in answers.items():
    named = {'run': run, 'step': steps[run]}
    collected = [(t, summarize.collect(found, t)) for t, found in asked]
    for task, found in collected:
      rows += summarize.summarize(found, task=task, **named)
    if retrained:
      rows += comparison.model_utility(collected, **named)
  for run, asked in answers.items():
    if run == retrained or retrained not in answers:
      continue
    for (task, found), (_, gold) in zip(asked, answers[retrained], strict=True):
      rows += comparison.against(
        found, gold, task=task, run=run, step=steps[run]
      )
  return rows
