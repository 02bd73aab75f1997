"""Transfer: from text to pictures, and from pictures to text.

A link between a face and its facts can be cut at either end. Finetuning on one
kind of data and asking in the other says whether the other end is still there:
a matrix of two by two, before and after.
"""

import pathlib

from ml_collections import ConfigDict

from mmu_jax.attacks import asking
from mmu_jax.attacks import relearn
from mmu_jax.attacks.attack import ATTACKS
from mmu_jax.attacks.attack import Rows
from mmu_jax.attacks.stage import keep_part
from mmu_jax.data.batches import batching
from mmu_jax.data.dataset import QA
from mmu_jax.data.dataset import VQA
from mmu_jax.distributed import progress
from mmu_jax.stages.job import Job

_KINDS = {'text': QA, 'pictures': VQA}


def transfer(job: Job, model: str, folder: pathlib.Path) -> Rows:
  """Finetunes on text or pictures; returns scores before and after.

  Args:
    job: the job, whose mesh is set.
    model: name of the model.
    folder: folder of the result; cases that are done are found in it.
  """
  rows = []
  for learns in _KINDS:
    make = lambda learns=learns: _case(job, model, learns)
    rows += keep_part(folder, learns, make)
  return rows


def _case(job: Job, model: str, learns: str) -> Rows:
  """The scores of a model that learns from one kind of data."""
  spec = ATTACKS['transfer'].spec(job.config)
  case = ConfigDict(dict(learns=learns, pictures=spec.pictures, draw=0))
  learned = relearn.learned_rows(job, case)
  asked = {
    name: asking.not_learned(
      asking.headline_rows(job, kind, most=spec.rows), learned
    )
    for name, kind in _KINDS.items()
  }
  asked = {name: found for name, found in asked.items() if found[0]}
  if not (learned and asked):
    progress.say(f'transfer: the data have nothing to learn in {learns}')
    return []
  looks = {
    name: asking.make_look(job, rows, spec.questions)
    for name, (rows, _) in asked.items()
  }
  (_, before), (_, after) = relearn.finetuned(
    job,
    model,
    batching.Part(learned, spec.size, spec.questions),
    steps=(0, spec.steps),
    rate=spec.rate,
    look=lambda params: {name: look(params) for name, look in looks.items()},
    title=f'transfer {model}, {learns}',
  )
  return [
    dict(
      case=f'{learns} to {name}{same}',
      metric=f'{metric} {when}',
      value=scores[name][key],
      n=len(rows),
      step=None,
    )
    for name, (rows, same) in asked.items()
    for metric, key in (('exact', 'exact'), ('nats', 'nll'))
    for when, scores in (('before', before), ('after', after))
  ]
