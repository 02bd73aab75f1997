"""The stage that measures importances and makes masks."""

from collections.abc import Mapping
import functools
import pathlib
import shutil
from typing import Any

import jax

from mmu_jax import checkpoint
from mmu_jax import distributed
from mmu_jax import inputs
from mmu_jax import masks as masks_lib
from mmu_jax import saliency as saliency_lib
from mmu_jax import sharding
from mmu_jax import tree as tree_lib
from mmu_jax import workdir as workdir_lib
from mmu_jax.distributed import progress
from mmu_jax.errors import UserError
from mmu_jax.saliency import codes
from mmu_jax.saliency import FORGET
from mmu_jax.stages import origins
from mmu_jax.stages.budgets import mask_specs as specs
from mmu_jax.stages.job import alone
from mmu_jax.stages.job import Config
from mmu_jax.stages.job import Folder
from mmu_jax.stages.job import Job
from mmu_jax.stages.job import open_job
from mmu_jax.stages.job import recipe
from mmu_jax.stages.masking import importances
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
    Packed masks by name: 'saliency', and the others that the runs use.

  Raises:
    FileNotFoundError: if vanilla is missing.
    ValueError: if the workdir has masks of other settings.
  """
  job = open_job(config, workdir, begin=False)
  used = {'saliency', *(run.mask for run in config.runs.values())}
  with jax.set_mesh(job.mesh):
    made = {k: mask(job, k) for k in specs.known_masks(config) if k in used}
    if job.config.saliency.keep == 'log_ratio':
      _keep_log_ratio(job)
  return made


def _keep_log_ratio(job: Job) -> None:
  """Puts a byte per weight in the place of the importances."""
  config, folder = job.config.saliency, job.unlearned / 'log_ratio'
  made_by = specs.spec(job.config, 'saliency')
  workdir_lib.claim(folder, _settings(job, 'saliency'))
  origins.check(job, folder)
  if checkpoint.latest_step(folder) is None:

    def encode(scores, ties):
      ties = None if config.ties_are_salient else ties
      return codes.to_codes(scores, ties, config.threshold)

    made = saliency_lib.score_leaves(
      *_leaves(job, made_by), encode, **_restrictions(job, made_by)
    )
    found = codes.density_by_threshold(
      made,
      [config.threshold * factor for factor in SWEEP],
      job.model.components,
      config.threshold,
    )
    found = {f'{t:g}': shares for t, shares in found.items()}
    note = {'threshold': config.threshold, 'density_by_threshold': found}
    _save(job, folder, made, note, _importances(job, made_by))
  found = checkpoint.read_note(folder).get('density_by_threshold', {})
  for threshold, shares in found.items():
    progress.say(f'threshold {threshold}: {_write(shares)}')
  importances = job.unlearned / 'importance'
  if distributed.first(importances.exists):
    distributed.first(shutil.rmtree, importances)


def mask(job: Job, name: str) -> Mask:
  """Returns a packed mask, from the workdir or made now.

  Args:
    job: the job, whose mesh is set.
    name: name of the mask, a key of ``config.masks``, or: 'saliency';
      'literal', the published ratio even where the config normalises; 'topk',
      the weights most important to the forget set alone, as many in each
      component; 'random', as many in each leaf.

  Raises:
    ValueError: if it is unknown, or selects no weight, or every weight.
  """
  folder = mask_folder(job, name)
  made_by = specs.spec(job.config, name)
  workdir_lib.claim(folder, _settings(job, name))
  origins.check(job, folder)
  params = job.placed(job.model.abstract_params)
  if checkpoint.latest_step(folder) is not None:
    _check_selects(name, checkpoint.read_note(folder).get('density', {}))
    return checkpoint.restore(folder, job.placed(_packed(params))).tree
  made, note = _make(job, made_by, params)
  sources = _importances(job, made_by)
  if 'of' in made_by:
    sources = sources[:1] if made_by['kind'] == 'topk' else []
    sources = [*sources, mask_folder(job, made_by['of'])]
  components = job.model.components
  density = masks_lib.density(made, components=components)
  _check_selects(name, density)
  note |= {
    'kind': name,
    'density': density,
    'density_by_path': masks_lib.density_by_leaf(made),
    'density_by_layer': masks_lib.density_by_layer(made, components),
  }
  progress.say(f'mask {name}: {_write(density)}')
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


def mask_folder(job: Job, name: str) -> pathlib.Path:
  """Returns the folder of a mask."""
  return job.unlearned / 'mask' / inputs.check_name(name, 'mask')


def _settings(job: Job, name: str) -> dict[str, Any]:
  """All that a mask depends on."""
  return {
    'saliency': recipe(job.config.saliency),
    'vanilla': recipe(job.config.vanilla),
    'base': recipe(job.config.base),
    'groups': job.groups.to_dict(),
    **specs.claim_of(job.config, name),
  }


def _importances(job: Job, made_by: Mapping[str, Any]) -> list[pathlib.Path]:
  """The folders of the importances of a mask, the forget set's first."""
  used = specs.importances(job.config, made_by)
  return [importances.folder(job, which) for which in used.values()]


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


def _make(
  job: Job, made_by: Mapping[str, Any], params: Params
) -> tuple[Mask, dict[str, Any]]:
  """Makes a bool mask, and the note that is kept with it."""
  kind, components = made_by['kind'], job.model.components
  note = {k: made_by[k] for k in ('threshold', 'granularity', 'normalize')}
  if made_by.get('density') is not None:
    note |= {'threshold': None, 'wanted_density': made_by['density']}
  if kind in ('random', 'topk'):
    whole = masks_lib.unpack(mask(job, made_by['of']), params)
  if kind == 'random':
    key = jax.random.key(job.config.seed + 1)
    return masks_lib.random_like(whole, key), note
  saliency_lib.check_protects(
    made_by['protects'], made_by['preserve'], components
  )
  for which in specs.importances(job.config, made_by).values():
    importances.measure(job, which)
  read, like = _leaves(job, made_by)
  if kind == 'topk':
    made = saliency_lib.top_mask(
      functools.partial(read, FORGET),
      like,
      masks_lib.density(whole, components=components),
      components,
    )
    overlap = {made_by['of']: masks_lib.overlap(made, whole)}
    return made, note | {'overlap': overlap}
  made, ties = saliency_lib.mask_from_importances(
    read,
    like,
    threshold=made_by['threshold'],
    density=made_by.get('density'),
    ties_are_salient=made_by['ties_are_salient'],
    **_restrictions(job, made_by),
  )
  return made, note | {'ties': masks_lib.counts(ties, components)}


def _leaves(
  job: Job, made_by: Mapping[str, Any]
) -> tuple[saliency_lib.ReadLeaf, Params]:
  """What reads one leaf of an importance, and the shapes of the parameters."""
  like = job.placed(job.model.abstract_params)
  shapes = tree_lib.flatten(like)
  used = specs.importances(job.config, made_by)
  read = lambda split, name: checkpoint.restore_leaf(
    importances.folder(job, used[split]), name, shapes[name]
  )
  return read, like


def _restrictions(job: Job, made_by: Mapping[str, Any]) -> dict[str, Any]:
  """How the preserve sets restrict the components, from config and notes."""
  used = specs.importances(job.config, made_by) if made_by['normalize'] else {}
  note = lambda which: checkpoint.read_note(importances.folder(job, which))
  return {
    'protects': made_by['protects'],
    'components': job.model.components,
    'means': {k: note(which)['means'] for k, which in used.items()} or None,
  }
