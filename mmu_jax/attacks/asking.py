"""Questions about the forgotten, and a look at a model's answers to them."""

from collections.abc import Callable, Collection, Sequence

import numpy as np

from mmu_jax import sharding
from mmu_jax.data.batches import batching
from mmu_jax.data.dataset import FORGET
from mmu_jax.data.readers import reading
from mmu_jax.data.row import GENERATION
from mmu_jax.data.row import Row
from mmu_jax.evaluation.asking import decoding
from mmu_jax.stages.job import Job
from mmu_jax.typing import Params

SAME = ' (pictures it learned)'  # behind the name of a case


def headline_rows(
  job: Job, kind: str, split: str = FORGET, most: int = 144
) -> list[Row]:
  """Returns reported questions with an answer in words, of headline tasks.

  They are about pictures that no model was trained on, where there are some.

  Args:
    job: the job.
    kind: 'vqa' for questions about pictures, 'qa' for those in text.
    split: people whom they are about: 'forget', 'retain' or 'real'.
    most: largest number; they are thinned evenly.
  """
  ours = [
    (task, [row for row in task.rows if row.task == GENERATION])
    for task in job.data.tasks.values()
    if (task.modality, task.split) == (kind, split) and task.reported
  ]
  ours = [(task, rows) for task, rows in ours if rows]
  rank = lambda task: (task.headline, task.holdout)
  best = max((rank(task) for task, _ in ours), default=None)
  rows = [row for task, rows in ours if rank(task) == best for row in rows]
  return reading.thin(rows, most, job.config.seed)


def not_learned(
  rows: Sequence[Row], learned: Collection[Row]
) -> tuple[list[Row], str]:
  """Returns the questions about other pictures than an attack learns from.

  Args:
    rows: questions that could be asked.
    learned: rows that the attack learns from.

  Returns:
    The questions; and '' or, where every picture is learned from, a remark for
    the name of the case, and all questions.
  """
  used = {row.picture_key for row in learned} - {None}
  fresh = [row for row in rows if row.picture_key not in used]
  return (fresh, '') if fresh or not rows else (list(rows), SAME)


def make_look(
  job: Job, rows: Sequence[Row], share: int = 4
) -> Callable[[Params], dict[str, float]]:
  """Makes a look at a model, without decoding.

  Greedy decoding gives an answer exactly where each of its tokens is the
  likeliest, so one forward pass is enough.

  Args:
    job: the job, whose mesh is set.
    rows: questions with their answers, all with pictures or all without.
    share: number of questions about one picture that are asked together.

  Returns:
    Function from parameters to ``exact``, the share of answers that the model
    would give word for word, and ``nll``, the mean nats of a true answer.

  Raises:
    FloatingPointError: by the function, if a likelihood is not finite.
  """
  size = max(1, job.config.evaluation.batch_size // share)
  made = batching.row_batches(
    rows, job.scorer, size=size, questions=share, share=sharding.share
  )
  batches = [sharding.place_shared(batch, size) for batch in made]

  def look(params: Params) -> dict[str, float]:
    nll, exact = [], []
    for batch in batches:
      found = decoding.answer_scores(params, batch, forward=job.model.forward)
      nats, right, is_answer = map(np.asarray, found)
      nll.append(nats[is_answer])
      exact.append(right[is_answer])
    nats = np.concatenate(nll)
    if not np.isfinite(nats).all():
      raise FloatingPointError(
        'likelihoods of the true answers are not finite: the model diverged '
        'under attack. Lower the rate of the attack in config.attacks.'
      )
    return {
      'exact': float(np.concatenate(exact).mean()),
      'nll': float(nats.mean()),
    }

  return look
