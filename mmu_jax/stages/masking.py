"""The stage that measures importances and makes masks."""

from collections.abc import Mapping
import functools
from typing import Any

import jax

from mmu_jax import checkpoint
from mmu_jax import masks as masks_lib
from mmu_jax import methods
from mmu_jax import progress
from mmu_jax import restriction
from mmu_jax import saliency as saliency_lib
from mmu_jax import workdir as workdir_lib
from mmu_jax.data import prefetch
from mmu_jax.stages.job import Config
from mmu_jax.stages.job import final_params
from mmu_jax.stages.job import Folder
from mmu_jax.stages.job import Job
from mmu_jax.stages.job import make_stream
from mmu_jax.stages.job import MASKS
from mmu_jax.stages.job import open_job
from mmu_jax.typing import Forward, Mask, Params


def saliency(config: Config, workdir: Folder) -> dict[str, Mask]:
  """Measures the importances at vanilla and makes the masks of the runs.

  Args:
    config: the whole config.
    workdir: of the job; must hold ``vanilla``.

  Returns:
    Packed masks by kind: 'saliency', and the controls that the runs use.

  Raises:
    FileNotFoundError: if vanilla is missing.
    ValueError: if the workdir has masks of other settings.
  """
  job = open_job(config, workdir)
  kinds = {'saliency', *(run.mask for run in config.runs.values())}
  return {kind: mask(job, kind) for kind in MASKS if kind in kinds}


def mask(job: Job, kind: str) -> Mask:
  """Returns a packed mask, from the workdir or made now.

  Args:
    job: the job.
    kind: 'saliency'; 'literal', the published ratio even where the config
      normalises; 'topk', the weights most important to the forget set
      alone, as many in each component; 'random', as many in each leaf.
  """
  folder = job.unlearned / 'mask' / kind
  workdir_lib.claim(folder, _settings(job))
  params = jax.eval_shape(job.model.init, jax.random.key(0))
  if checkpoint.latest_step(folder) is not None:
    packed = jax.eval_shape(
        lambda p: masks_lib.pack(jax.tree.map(lambda x: x > 0, p)), params
    )
    return checkpoint.restore(folder, packed).tree
  made, note = _make(job, kind, params)
  components = job.model.components
  note |= {
      'kind': kind,
      'density': masks_lib.density(made, components=components),
      'density_by_path': masks_lib.density_by_leaf(made),
      'density_by_layer': masks_lib.density_by_layer(made, components),
  }
  shares = ', '.join(f'{k} {v:.3f}' for k, v in note['density'].items())
  print(f'mask {kind}: may change {shares}', flush=True)
  packed = masks_lib.pack(made)
  checkpoint.save(folder, packed, note)
  return packed


def importances(job: Job) -> tuple[Params, dict[str, Params]]:
  """Returns the importance of the forget set, and of each preserve set."""
  config = job.config.saliency
  restriction.check_protects(
      config.protects, config.preserve, job.model.components
  )
  forget = _importance(job, 'forget', config.forget)
  preserve = {
      name: _importance(job, name, parts)
      for name, parts in config.preserve.items()
  }
  return forget, preserve


def saliency_mask(
    config: Config,
    forget: Params,
    preserve: Mapping[str, Params],
    components: Mapping[str, str],
    *,
    normalize: bool | None = None,
) -> tuple[Mask, Mask]:
  """Makes the mask that ``config.saliency`` describes.

  Args:
    config: that part of the config.
    forget: the importance of the forget set.
    preserve: preserve set -> its importance.
    components: component -> regex over leaf names.
    normalize: instead of ``config.normalize``.

  Returns:
    The mask and the ties, bool.
  """
  scores, ties = restriction.component_saliency(
      forget,
      preserve,
      protects=config.protects,
      components=components,
      normalize=config.normalize if normalize is None else normalize,
  )
  made = saliency_lib.mask_from_saliency(
      scores,
      threshold=config.threshold,
      ties=None if config.ties_are_salient else ties,
  )
  return made, ties


def _make(job: Job, kind: str, params: Params) -> tuple[Mask, dict[str, Any]]:
  """Makes a bool mask and what is worth knowing of it."""
  config = job.config.saliency
  components = job.model.components
  normalize = config.normalize and kind != 'literal'
  note = {
      'threshold': config.threshold,
      'granularity': config.granularity,
      'normalize': normalize,
  }
  if kind == 'random':
    like = masks_lib.unpack(mask(job, 'saliency'), params)
    key = jax.random.key(job.config.seed + 1)
    return masks_lib.random_like(like, key), note
  forget, preserve = importances(job)
  if kind == 'topk':
    like = masks_lib.unpack(mask(job, 'saliency'), params)
    shares = masks_lib.density(like, components=components)
    made = restriction.top_share(forget, shares, components)
    return made, note | {
        'overlap': {'saliency': masks_lib.overlap(made, like)}
    }
  made, ties = saliency_mask(
      config, forget, preserve, components, normalize=normalize
  )
  counts = masks_lib.counts(ties, components)
  return made, note | {'ties': counts}


def _importance(job: Job, name: str, parts: Any) -> Params:
  """Returns one importance, from the workdir or measured now."""
  folder = job.unlearned / 'importance' / name
  workdir_lib.claim(folder, _settings(job))
  params = jax.eval_shape(job.model.init, jax.random.key(0))
  if checkpoint.latest_step(folder) is not None:
    return checkpoint.restore(folder, params).tree
  config = job.config.saliency
  if config.granularity == 'example' and any(
      part['questions'] > 1 for part in parts
  ):
    raise ValueError(
        "granularity='example' squares the gradient of each row, so a row must "
        f'hold one question; a part of {name!r} has more. Set questions=1 in '
        'config.saliency.'
    )
  stream = make_stream(job, parts, f'importance/{name}')
  vanilla = final_params(job, 'vanilla')
  num_batches = config.batches or stream.steps_per_epoch
  steps = progress.track(range(num_batches), f'importance {name}')
  with prefetch.Prefetch(stream) as made:
    found = saliency_lib.importance(
        _loss(job.model.forward),
        vanilla,
        map(made, steps),
        granularity=config.granularity,
    )
  checkpoint.save(folder, found, {'split': name, 'batches': num_batches})
  return found


@functools.cache
def _loss(forward: Forward) -> saliency_lib.BatchLoss:
  """The cross-entropy of a model, one object for each model."""
  return lambda params, batch: methods.descend(forward, params, None, batch)


def _settings(job: Job) -> dict[str, Any]:
  """What importances and masks depend on."""
  return {
      'saliency': job.config.saliency.to_dict(),
      'vanilla': job.config.vanilla.to_dict(),
      'base': job.config.base.to_dict(),
      'groups': job.groups.to_dict(),
  }
