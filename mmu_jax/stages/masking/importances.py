"""Importances of a job: measured at vanilla, kept in its workdir."""

from collections.abc import Sequence
import functools
import math
import pathlib
from typing import Any

import jax

from mmu_jax import checkpoint
from mmu_jax import distributed
from mmu_jax import gradients
from mmu_jax import objectives
from mmu_jax import saliency as saliency_lib
from mmu_jax import sharding
from mmu_jax import workdir as workdir_lib
from mmu_jax.data.batches import prefetch
from mmu_jax.distributed import preemption
from mmu_jax.distributed import progress
from mmu_jax.errors import UserError
from mmu_jax.stages import origins
from mmu_jax.stages.budgets.mask_specs import Importance
from mmu_jax.stages.budgets.streams import draw_from
from mmu_jax.stages.budgets.streams import make_stream
from mmu_jax.stages.budgets.streams import Placed
from mmu_jax.stages.job import Config
from mmu_jax.stages.job import Job
from mmu_jax.stages.job import recipe
from mmu_jax.stages.relabelling import relabel
from mmu_jax.stages.runs import final_params
from mmu_jax.stages.runs import model_folder
from mmu_jax.stages.runs import require
from mmu_jax.training import loop
from mmu_jax.typing import Forward
from mmu_jax.typing import Params

LOSSES = {'answers': objectives.descend, 'margin': objectives.log_odds}


def folder(job: Job, which: Importance) -> pathlib.Path:
  """Returns the folder of an importance."""
  return job.unlearned / 'importance' / which.folder


def settings(job: Job, which: Importance) -> dict[str, Any]:
  """Returns all that an importance depends on."""
  made = {
    'saliency': recipe(job.config.saliency),
    'vanilla': recipe(job.config.vanilla),
    'base': recipe(job.config.base),
    'groups': job.groups.to_dict(),
  }
  if which.own:
    return made
  config = job.config.saliency
  used = {'granularity': config.granularity, 'batches': config.batches}
  return made | {'saliency': which.settings | used}


def measure(job: Job, which: Importance) -> None:
  """Measures one importance, unless it is in the workdir.

  It continues at the batch where an earlier call was stopped. Trees of this
  size do not stay on the devices: masks are made from the ones on disk.

  Args:
    job: the job, whose mesh is set.
    which: importance, see ``specs.importances``.
  """
  config, place, name = job.config.saliency, folder(job, which), which.split
  workdir_lib.claim(place, settings(job, which))
  origins.check(job, place)
  if checkpoint.latest_step(place) is not None:
    # A kill at the very end may have left its sums.
    distributed.first(loop.clear, place / loop.RUNNING)
    return
  if config.granularity == 'example' and any(
    part['questions'] > 1 for part in which.parts
  ):
    raise UserError(
      "granularity='example' squares the gradient of each row, so a row must "
      f'hold one question; a part of {name!r} has more. Set questions=1 in '
      'config.saliency.'
    )
  require(job, 'vanilla')
  sources = [model_folder(job, 'vanilla')]
  if which.teacher:
    asked = Config({'teacher': which.teacher, 'retain': which.retain})
    made = relabel.relabel(job, asked)
    job = relabel.with_rows(job, made)
    sources.append(made.folder)
  stream = make_stream(job, draw_from(job, which.parts), f'importance/{name}')
  batches = config.batches or stream.steps_per_epoch
  found = _go_on(job, which, stream, batches, sources)
  save_importance(job, which, found, batches, sources)
  distributed.first(loop.clear, place / loop.RUNNING)


def save_importance(
  job: Job,
  which: Importance,
  found: Params,
  batches: int,
  sources: Sequence[pathlib.Path] = (),
) -> None:
  """Writes an importance into the workdir, where masks are made from it.

  Args:
    job: the job, whose mesh is set.
    which: importance, see ``specs.importances``.
    found: the importance, a tree like the parameters.
    batches: number of batches it was measured on.
    sources: folders that it is made from; vanilla's alone by default.
  """
  place, name = folder(job, which), which.split
  workdir_lib.claim(place, settings(job, which))
  means = _means(found, tuple(job.model.components.items()))
  means = {k: float(mean) for k, mean in jax.device_get(means).items()}
  if not all(map(math.isfinite, means.values())):
    raise FloatingPointError(
      f'an importance must be finite; the means of {name!r} are {means}. Look '
      'for a NaN loss in the batches, or compute in float32.'
    )
  note = {'split': name, 'batches': batches, 'means': means}
  sources = sources or [model_folder(job, 'vanilla')]
  note |= origins.origin(job, place, sources)
  note |= {'content': checkpoint.digest(found)}
  checkpoint.save(place, found, note)


def _go_on(
  job: Job,
  which: Importance,
  stream: Placed,
  num_batches: int,
  sources: Sequence[pathlib.Path],
) -> Params:
  """The importance, from the sums on disk if there are some."""
  place, name = folder(job, which) / loop.RUNNING, which.split
  rules, kept = job.model.partition_rules, job.config.checkpoints
  start, seen = None, 0
  origin = origins.origin(job, place.parent, sources)
  if checkpoint.latest_step(place) is not None:
    params = job.placed(job.model.abstract_params)
    like = gradients.abstract_sums(params, rules)
    start, note, seen = checkpoint.restore(place, like)
    loop.check_origin(place, note, origin)
    progress.say(f'importance {name}: goes on after batch {seen}')

  def on_batch(seen, sums):
    stop = preemption.requested(seen)
    due = kept.importance_every and seen % kept.importance_every == 0
    if stop or (due and seen < num_batches):
      series.save(seen, sums, {'batches': seen, **origin})
    if stop:
      series.wait()
      raise preemption.Preempted(f'importance {name}: saved after batch {seen}')

  steps = progress.track(
    range(seen, num_batches),
    f'importance {name}',
    initial=seen,
    total=num_batches,
  )
  with (
    prefetch.Prefetch(stream) as made,
    checkpoint.Series(place, keep_last=kept.keep_last) as series,
  ):
    return saliency_lib.importance(
      _loss(job.model.forward, which.loss),
      final_params(job, 'vanilla'),
      map(made, steps),
      granularity=job.config.saliency.granularity,
      rules=rules,
      micro_batches=job.config.micro_batches,
      measure=objectives.answer_weight,
      start=start,
      seen=seen,
      on_batch=on_batch,
    )


@functools.partial(jax.jit, static_argnums=1)
def _means(tree: Params, components: tuple[tuple[str, str], ...]):
  """The mean of every component, on all processes."""
  return sharding.replicate(
    saliency_lib.component_means(tree, dict(components))
  )


@functools.cache
def _loss(forward: Forward, name: str = 'answers') -> gradients.BatchLoss:
  """A loss of a model, one object for each model."""
  return lambda params, batch: LOSSES[name](forward, params, None, batch)
