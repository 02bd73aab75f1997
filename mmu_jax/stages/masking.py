"""The stage that measures importances and makes masks."""

from collections.abc import Mapping
import functools
import math
import pathlib
import shutil
from typing import Any

import jax

from mmu_jax import checkpoint
from mmu_jax import distributed
from mmu_jax import gradients
from mmu_jax import inputs
from mmu_jax import masks as masks_lib
from mmu_jax import methods
from mmu_jax import saliency as saliency_lib
from mmu_jax import sharding
from mmu_jax import tree as tree_lib
from mmu_jax import workdir as workdir_lib
from mmu_jax.data.batches import prefetch
from mmu_jax.distributed import preemption
from mmu_jax.distributed import progress
from mmu_jax.errors import UserError
from mmu_jax.saliency import codes
from mmu_jax.saliency import FORGET
from mmu_jax.stages import origins
from mmu_jax.stages.budgets.streams import draw_from
from mmu_jax.stages.budgets.streams import make_stream
from mmu_jax.stages.budgets.streams import Placed
from mmu_jax.stages.job import alone
from mmu_jax.stages.job import Config
from mmu_jax.stages.job import Folder
from mmu_jax.stages.job import Job
from mmu_jax.stages.job import MASKS
from mmu_jax.stages.job import open_job
from mmu_jax.stages.job import recipe
from mmu_jax.stages.runs import final_params
from mmu_jax.stages.runs import model_folder
from mmu_jax.stages.runs import require
from mmu_jax.training import loop
from mmu_jax.typing import Forward
from mmu_jax.typing import Mask
from mmu_jax.typing import Params

# The thresholds whose densities go with a log-ratio, over the config's.
SWEEP = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0, 2.0, 4.0, 8.0, 16.0)


@alone
def saliency(config: Config, workdir: Folder) -> dict[str, Mask]:
  """Measures the importances at vanilla and makes the masks of the runs.

  Args:
    config: the whole config.
    workdir: folder of the job; must hold ``vanilla``.

  Returns:
    Packed masks by kind: 'saliency', and the controls that the runs use.

  Raises:
    FileNotFoundError: if vanilla is missing.
    ValueError: if the workdir has masks of other settings.
  """
  job = open_job(config, workdir, begin=False)
  kinds = {'saliency', *(run.mask for run in config.runs.values())}
  with jax.set_mesh(job.mesh):
    made = {kind: mask(job, kind) for kind in MASKS if kind in kinds}
    if job.config.saliency.keep == 'log_ratio':
      _keep_log_ratio(job)
  return made


def _keep_log_ratio(job: Job) -> None:
  """Puts a byte per weight in the place of the importances."""
  config, folder = job.config.saliency, job.unlearned / 'log_ratio'
  workdir_lib.claim(folder, _settings(job))
  origins.check(job, folder)
  if checkpoint.latest_step(folder) is None:

    def encode(scores, ties):
      ties = None if config.ties_are_salient else ties
      return codes.to_codes(scores, ties, config.threshold)

    made = saliency_lib.score_leaves(
      *_leaves(job), encode, **_restrictions(job, config.normalize)
    )
    found = codes.density_by_threshold(
      made,
      [config.threshold * factor for factor in SWEEP],
      job.model.components,
      config.threshold,
    )
    found = {f'{t:g}': shares for t, shares in found.items()}
    note = {'threshold': config.threshold, 'density_by_threshold': found}
    _save(job, folder, made, note, _importances(job))
  found = checkpoint.read_note(folder).get('density_by_threshold', {})
  for threshold, shares in found.items():
    progress.say(f'threshold {threshold}: {_write(shares)}')
  importances = job.unlearned / 'importance'
  if distributed.first(importances.exists):
    distributed.first(shutil.rmtree, importances)


def mask(job: Job, kind: str) -> Mask:
  """Returns a packed mask, from the workdir or made now.

  Args:
    job: the job, whose mesh is set.
    kind: 'saliency'; 'literal', the published ratio even where the config
      normalises; 'topk', the weights most important to the forget set
      alone, as many in each component; 'random', as many in each leaf.

  Raises:
    ValueError: if it selects no weight, or every weight.
  """
  folder = mask_folder(job, kind)
  workdir_lib.claim(folder, _settings(job))
  origins.check(job, folder)
  params = job.placed(job.model.abstract_params)
  if checkpoint.latest_step(folder) is not None:
    _check_selects(kind, checkpoint.read_note(folder).get('density', {}))
    return checkpoint.restore(folder, job.placed(_packed(params))).tree
  made, note = _make(job, kind, params)
  sources = {
    'random': [mask_folder(job, 'saliency')],
    'topk': [_folder(job, FORGET), mask_folder(job, 'saliency')],
  }.get(kind, _importances(job))
  components = job.model.components
  density = masks_lib.density(made, components=components)
  _check_selects(kind, density)
  note |= {
    'kind': kind,
    'density': density,
    'density_by_path': masks_lib.density_by_leaf(made),
    'density_by_layer': masks_lib.density_by_layer(made, components),
  }
  progress.say(f'mask {kind}: {_write(density)}')
  packed = _pack(made, job.model.partition_rules)
  _save(job, folder, packed, note, sources)
  return packed


def _check_selects(kind: str, density: Mapping[str, float]) -> None:
  """Raises where a mask is none: it selects no weight, or every weight."""
  share = density.get('all')
  if share in (0, 1):
    raise UserError(
      f'the mask {kind!r} selects {"every" if share else "no"} weight ('
      f'{_write(density)}), so that a masked turn would change '
      f'{"as much as without it" if share else "nothing"}. See '
      'config.saliency: threshold, batches, and the sets that protect.'
    )


def mask_folder(job: Job, kind: str) -> pathlib.Path:
  """Returns the folder of a mask."""
  return job.unlearned / 'mask' / inputs.check_name(kind, 'mask')


def _importances(job: Job) -> list[pathlib.Path]:
  """The folders of all importances of the config."""
  return [_folder(job, k) for k in (FORGET, *job.config.saliency.preserve)]


def _save(job, folder, tree, note, made_from) -> None:
  """Saves a tree with a note of its origin."""
  origin = origins.origin(job, folder, made_from)
  note = {**note, **origin, 'content': checkpoint.digest(tree)}
  checkpoint.save(folder, tree, note)


@functools.partial(jax.jit, static_argnums=1)
def _pack(made: Mask, rules: sharding.Rules) -> Mask:
  """Packs a mask where its leaves are."""
  return sharding.constrain(masks_lib.pack(made), rules)


def _write(shares: Mapping[str, float]) -> str:
  """Densities as a line says them."""
  return 'may change ' + ', '.join(f'{k} {v:.3f}' for k, v in shares.items())


def _packed(params: Params) -> Mask:
  """The shapes of a packed mask."""
  true = lambda p: jax.tree.map(lambda x: x > 0, p)
  return jax.eval_shape(lambda p: masks_lib.pack(true(p)), params)


def _make(job: Job, kind: str, params: Params) -> tuple[Mask, dict[str, Any]]:
  """Makes a bool mask, and the note that is kept with it."""
  config = job.config.saliency
  note = {
    'threshold': config.threshold,
    'granularity': config.granularity,
    'normalize': config.normalize and kind != 'literal',
  }
  if kind in ('random', 'topk'):
    whole = masks_lib.unpack(mask(job, 'saliency'), params)
  if kind == 'random':
    key = jax.random.key(job.config.seed + 1)
    return masks_lib.random_like(whole, key), note
  saliency_lib.check_protects(
    config.protects, config.preserve, job.model.components
  )
  for name, parts in {FORGET: config.forget, **config.preserve}.items():
    measure(job, name, parts)
  read, like = _leaves(job)
  if kind == 'topk':
    made = saliency_lib.top_mask(
      functools.partial(read, FORGET),
      like,
      masks_lib.density(whole, components=job.model.components),
      job.model.components,
    )
    overlap = {'saliency': masks_lib.overlap(made, whole)}
    return made, note | {'overlap': overlap}
  made, ties = saliency_lib.mask_from_importances(
    read,
    like,
    threshold=config.threshold,
    ties_are_salient=config.ties_are_salient,
    **_restrictions(job, note['normalize']),
  )
  counts = masks_lib.counts(ties, job.model.components)
  return made, note | {'ties': counts}


def _leaves(job: Job) -> tuple[saliency_lib.ReadLeaf, Params]:
  """What reads one leaf of an importance, and the shapes of the parameters."""
  like = job.placed(job.model.abstract_params)
  shapes = tree_lib.flatten(like)
  read = lambda split, name: checkpoint.restore_leaf(
    _folder(job, split), name, shapes[name]
  )
  return read, like


def _restrictions(job: Job, normalize: bool) -> dict[str, Any]:
  """How the preserve sets restrict the components, from config and notes."""
  config = job.config.saliency
  note = lambda split: checkpoint.read_note(_folder(job, split))
  splits = (FORGET, *config.preserve) if normalize else ()
  return {
    'protects': config.protects,
    'components': job.model.components,
    'means': {k: note(k)['means'] for k in splits} or None,
  }


def _folder(job: Job, split: str) -> pathlib.Path:
  """Where the importance of a split is."""
  return job.unlearned / 'importance' / inputs.check_name(split, 'split')


def measure(job: Job, name: str, parts: Any) -> None:
  """Measures one importance, unless it is in the workdir.

  It continues at the batch where an earlier call was stopped. Trees of this
  size do not stay on the devices: masks are made from the ones on disk.

  Args:
    job: the job, whose mesh is set.
    name: 'forget', or the name of a preserve set.
    parts: parts of its batches, from the config.
  """
  config, folder = job.config.saliency, _folder(job, name)
  workdir_lib.claim(folder, _settings(job))
  origins.check(job, folder)
  if checkpoint.latest_step(folder) is not None:
    # A kill at the very end may have left its sums.
    distributed.first(loop.clear, folder / loop.RUNNING)
    return
  if config.granularity == 'example' and any(
    part['questions'] > 1 for part in parts
  ):
    raise UserError(
      "granularity='example' squares the gradient of each row, so a row must "
      f'hold one question; a part of {name!r} has more. Set questions=1 in '
      'config.saliency.'
    )
  require(job, 'vanilla')
  stream = make_stream(job, draw_from(job, parts), f'importance/{name}')
  batches = config.batches or stream.steps_per_epoch
  save_importance(job, name, _go_on(job, name, stream, batches), batches)
  distributed.first(loop.clear, folder / loop.RUNNING)


def save_importance(job: Job, name: str, found: Params, batches: int) -> None:
  """Writes an importance into the workdir, where masks are made from it.

  Args:
    job: the job, whose mesh is set.
    name: 'forget', or the name of a preserve set.
    found: the importance, a tree like the parameters.
    batches: number of batches it was measured on.
  """
  folder = _folder(job, name)
  workdir_lib.claim(folder, _settings(job))
  means = _means(found, tuple(job.model.components.items()))
  means = {k: float(mean) for k, mean in jax.device_get(means).items()}
  if not all(map(math.isfinite, means.values())):
    raise FloatingPointError(
      f'an importance must be finite; the means of {name!r} are {means}. Look '
      'for a NaN loss in the batches, or compute in float32.'
    )
  note = {'split': name, 'batches': batches, 'means': means}
  _save(job, folder, found, note, [model_folder(job, 'vanilla')])


def _go_on(job: Job, name: str, stream: Placed, num_batches: int) -> Params:
  """The importance, from the sums on disk if there are some."""
  folder = _folder(job, name) / loop.RUNNING
  rules, kept = job.model.partition_rules, job.config.checkpoints
  start, seen = None, 0
  origin = origins.origin(job, folder.parent, [model_folder(job, 'vanilla')])
  if checkpoint.latest_step(folder) is not None:
    params = job.placed(job.model.abstract_params)
    like = gradients.abstract_sums(params, rules)
    start, note, seen = checkpoint.restore(folder, like)
    loop.check_origin(folder, note, origin)
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
    checkpoint.Series(folder, keep_last=kept.keep_last) as series,
  ):
    return saliency_lib.importance(
      _loss(job.model.forward),
      final_params(job, 'vanilla'),
      map(made, steps),
      granularity=job.config.saliency.granularity,
      rules=rules,
      micro_batches=job.config.micro_batches,
      measure=methods.answer_weight,
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
def _loss(forward: Forward) -> gradients.BatchLoss:
  """The cross-entropy of a model, one object for each model."""
  return lambda params, batch: methods.descend(forward, params, None, batch)


def _settings(job: Job) -> dict[str, Any]:
  """What importances and masks depend on."""
  return {
    'saliency': recipe(job.config.saliency),
    'vanilla': recipe(job.config.vanilla),
    'base': recipe(job.config.base),
    'groups': job.groups.to_dict(),
  }
