"""Relearning: a few steps of finetuning, and how much comes back.

Each case finetunes the model anew, with AdamW without decay and new moments,
and asks about pictures of the forgotten that the case does not learn from. One
that never knew them learns as slowly as the retrained model.
"""

from collections.abc import Callable, Sequence
import pathlib
from typing import Any

import numpy as np

from mmu_jax import methods
from mmu_jax.attacks import asking
from mmu_jax.attacks.attack import ATTACKS
from mmu_jax.attacks.attack import Rows
from mmu_jax.attacks.stage import keep_part
from mmu_jax.data.batches import batching
from mmu_jax.data.batches import prefetch
from mmu_jax.data.dataset import VQA
from mmu_jax.data.rng import named_rng
from mmu_jax.data.row import Row
from mmu_jax.distributed import preemption
from mmu_jax.distributed import progress
from mmu_jax.stages import runs
from mmu_jax.stages.budgets import drawing
from mmu_jax.stages.budgets.streams import make_stream
from mmu_jax.stages.job import Job
from mmu_jax.training import optimizer
from mmu_jax.training import step as step_lib
from mmu_jax.typing import Params

Look = Callable[[Params], dict[str, float]]
_SPLITS = {
  'pictures': 'vqa:forget',
  'retain': 'vqa:retain',
  'text': 'qa:forget',
}


def relearn(job: Job, model: str, folder: pathlib.Path) -> Rows:
  """Finetunes a model in every case; returns ``exact`` and ``nll`` by step.

  Args:
    job: the job, whose mesh is set.
    model: name of the model.
    folder: folder of the result; cases that are done are found in it.
  """
  spec = ATTACKS['relearn'].spec(job.config)
  asked = asking.headline_rows(job, VQA, most=spec.rows)
  rows: Rows = []
  same: dict[tuple, str] = {}  # by rows and rate: few pictures make few cases
  for name, case in spec.cases.items():
    learned = learned_rows(job, case)
    first = same.setdefault((case.rate, *(r.key for r in learned)), name)
    if not (learned and asked):
      progress.say(f'relearn: the data have no rows for the case {name!r}')
      continue
    if first != name:
      progress.say(f'relearn: the case {name!r} is as {first!r}, and left out')
      continue
    rows += keep_part(
      folder,
      name,
      lambda name=name, case=case, learned=learned: _case(
        job, model, spec, name, case, learned, asked
      ),
    )
  return rows


def learned_rows(job: Job, case: Any) -> list[Row]:
  """Returns the rows that a case learns from.

  Args:
    job: the job.
    case: settings with ``learns``; of pictures to forget also ``pictures``, the
      number of each person or thing (0: all), and ``draw``, a number that
      chooses which.
  """
  split = _SPLITS[case.learns]
  names = [
    name
    for group in job.groups[split.partition(':')[2]]
    if (name := f'{split.partition(":")[0]}/{group}') in job.data.train
  ]
  part = dict(splits=names, size=1, questions=1, weight=1.0)
  rows = list(drawing.draw(job.data.train, job.groups, [part])[0].rows)
  if case.learns != 'pictures' or not case.pictures:
    return rows
  keys: dict[str, dict[str, None]] = {}
  for row in rows:
    keys.setdefault(row.person or row.picture_key, {})[row.picture_key] = None
  chosen = set()
  for who, of in keys.items():
    order = named_rng(job.config.seed, f'relearn/{who}').permutation([*of])
    first = case.draw * case.pictures  # draws share no picture until all are
    chosen |= {*np.roll(order, -first)[: case.pictures]}
  return [row for row in rows if row.picture_key in chosen]


def finetuned(
  job: Job,
  model: str,
  part: batching.Part,
  *,
  steps: Sequence[int],
  rate: float,
  look: Look,
  title: str,
) -> list[tuple[int, dict[str, float]]]:
  """Finetunes a model and looks at it on the way.

  Args:
    job: the job, whose mesh is set.
    model: name of the model.
    part: rows to learn from, all with pictures or all without.
    steps: numbers of steps after which the model is looked at.
    rate: learning rate.
    look: function from parameters to scores.
    title: title of the progress bar.

  Returns:
    The steps with the scores after them.

  Raises:
    Preempted: if the process was asked to stop.
  """
  steps = sorted({*steps})
  tx = optimizer.build(name='adamw', weight_decay=0.0, clip_norm=1.0)
  state = step_lib.init(
    runs.final_params(job, model), tx, job.model.partition_rules
  )
  (turn,) = methods.finetune()
  made = {turn.split: make_stream(job, [part], 'relearn')}
  found = []
  with prefetch.prefetched(made) as streams:
    for step in progress.track(range(steps[-1] + 1), title):
      if step:
        state, _ = step_lib.take_turn(
          state,
          streams[turn.split](step - 1),
          rate,
          forward=job.model.forward,
          turn=turn,
          tx=tx,
          rules=job.model.partition_rules,
          micro_batches=job.config.micro_batches,
        )
      if step in steps:
        found.append((step, look(step_lib.evaluated(state))))
      if preemption.requested(step):
        raise preemption.Preempted(f'{title}: earlier cases are kept')
  return found


def _case(
  job: Job,
  model: str,
  spec: Any,
  name: str,
  case: Any,
  learned: Sequence[Row],
  asked: Sequence[Row],
) -> Rows:
  """The rows of one case."""
  rows, same = asking.not_learned(asked, learned)
  curve = finetuned(
    job,
    model,
    batching.Part(learned, spec.size, spec.questions),
    steps=spec.steps,
    rate=case.rate,
    look=asking.make_look(job, rows, spec.questions),
    title=f'relearn {model}, {name}',
  )
  label = name.replace('_', ' ') + same
  return [
    dict(case=label, metric=metric, value=value, n=len(rows), step=step)
    for metric in ('exact', 'nll')
    for step, scores in curve
    for value in [scores[metric]]
  ]
