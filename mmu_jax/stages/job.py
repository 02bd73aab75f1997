"""A config, its workdir, and all that stages load for them."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import json
import os
import pathlib
import re
from typing import Any, NamedTuple, TypeVar

import jax
import ml_collections

from mmu_jax import distributed
from mmu_jax import inputs
from mmu_jax import masks
from mmu_jax import sharding
from mmu_jax import tree
from mmu_jax import workdir as workdir_lib
from mmu_jax.data import contents
from mmu_jax.data import datasets
from mmu_jax.data import stand_ins
from mmu_jax.data.batches import batching
from mmu_jax.data.encoding import processors
from mmu_jax.distributed import locks
from mmu_jax.distributed import progress
from mmu_jax.errors import MissingError
from mmu_jax.errors import UserError
from mmu_jax.models import from_options
from mmu_jax.models import Model
from mmu_jax.models.hub import contents as hub_contents
from mmu_jax.models.hub import loading as checkpoints
from mmu_jax.models.hub import peft_files
from mmu_jax.saliency import FORGET
from mmu_jax.settings import table as settings
from mmu_jax.stages.budgets import mask_specs
from mmu_jax.stages.budgets import plans
from mmu_jax.stages.budgets import settle as budgets
from mmu_jax.stages.budgets.run_rules import check_depth
from mmu_jax.stages.budgets.run_rules import run_settings
from mmu_jax.stages.budgets.run_rules import TRAINED
from mmu_jax.typing import Params
from mmu_jax.workdir import seals

Config = ml_collections.ConfigDict
Folder = str | pathlib.Path
Stage = TypeVar('Stage', bound=Callable[..., Any])
_WORLD = ('seed', 'labels', 'data', 'model')  # shared by all of a workdir


def alone(stage: Stage) -> Stage:
  """Lets a stage run only where no other job is at work in its workdir."""

  @functools.wraps(stage)
  def run(config, workdir, *args, **kwargs):
    with locks.alone_in(workdir):
      return stage(config, workdir, *args, **kwargs)

  return run


class Job(NamedTuple):
  """A config, its workdir, and the data and model loaded for them.

  Attributes:
    config: the whole config, settled by the data: see ``budgets.settle``.
    folder: the workdir.
    data: splits and tasks.
    encoder: remembers tokens and pixels; its labels are the config's.
    scorer: encoder for scoring: only the answers are labelled.
    model: pure functions, without parameters.
    groups: groups of people by role ('forget', 'retain', 'everybody').
    validation: whether settings are being chosen, so that only tasks that
      are not reported may be looked at.
    unlearned: folder of ``importance/``, ``mask/`` and ``unlearned/``.
    mesh: mesh of all devices, for ``jax.set_mesh``.
    world: hash of ``world.json``, which names all that was loaded.
  """

  config: Config
  folder: pathlib.Path
  data: datasets.Dataset
  encoder: batching.Encoder
  scorer: batching.Encoder
  model: Model
  groups: Mapping[str, Sequence[str]]
  validation: bool
  unlearned: pathlib.Path
  mesh: jax.sharding.Mesh
  world: str = ''

  def placed(self, tree: Params) -> Params:
    """Shapes, dtypes and places of parameters, or of a tree like them."""
    return sharding.placed(tree, self.model.partition_rules, self.mesh)


def stored_config(workdir: Folder) -> Config:
  """Returns the config of a job that exists, as its last command had it.

  Raises:
    FileNotFoundError: if no job has begun in the folder.
    ValueError: if its ``config.json`` is damaged.
  """
  file = pathlib.Path(workdir) / workdir_lib.CONFIG
  if not file.is_file() or not (file.parent / workdir_lib.WORLD).is_file():
    raise MissingError(
      f'{workdir} is not the workdir of a job: {file.name} or '
      f'{workdir_lib.WORLD} is missing. Give the --workdir of `mmu pipeline`.'
    )
  return Config(settings.restored(workdir_lib.read_object(file)))


def open_job(
  config: Config,
  workdir: Folder,
  *,
  validation: bool = False,
  begin: bool = True,
) -> Job:
  """Checks a config, loads its data and model, and claims the workdir.

  Args:
    config: the whole config.
    workdir: folder of the job.
    validation: look at the people of the validation split, or at some of the
      retain set, instead of the reported ones, in ``workdir/tuning``.
    begin: whether the stage may be the first of a workdir, and make it.

  Raises:
    ValueError: if a field of the config is out of its range or names what
      does not exist, or the workdir was made with another seed, dataset or
      model, or these have changed since.
    FileNotFoundError: if nothing has been made in the workdir, and the stage
      needs what others make.
  """
  settings.check(config)
  check_names(config)
  mask_specs.check_masks(config)
  for name in config.runs:
    run_settings(config, name)
  if not str(workdir):
    raise UserError("the workdir is the folder of a job; got ''.")
  mesh = sharding.make_mesh(config.mesh)
  folder = pathlib.Path(workdir)
  if not begin and distributed.first(workdir_lib.is_empty, str(folder)):
    raise MissingError(
      f'there are no results in the workdir {folder}. The first stage of a job '
      'is `mmu train`; `mmu pipeline` runs them all.'
    )
  plain = config.to_dict()
  data, encoder, scorer, model = load_world(config)
  groups = config.groups
  if validation:
    config, data, groups = _others(config, data)
  config, notes = budgets.settle(config, data.train, groups)
  settings.check(config)
  if any(run.mask for run in config.runs.values()):
    masks.exempted(tree.flatten(model.abstract_params), config.unlearn.exempt)
  for name, run in config.runs.items():
    check_depth(name, run, model)
    plans.adapters_of(config.unlearn, run, model)  # or a target is unknown
  for spec in (config[stage] for stage in ('base', 'vanilla')):
    plans.adapters_of(spec, spec, model)
  world = {k: plain[k] for k in _WORLD}
  world['content'] = distributed.first(_content, _world_of(config))
  # A job that ran out of memory may go on with other ways to compute the same.
  world['model'] = {
    k: v for k, v in world['model'].items() if k not in ('attention', 'remat')
  }
  if workdir_lib.claim(folder, world, workdir_lib.WORLD):
    distributed.first(write_manifest, config, folder, mesh)
  for note in notes:
    progress.say(f'settings: {note}')
  shared = config, folder, data, encoder, scorer, model
  places = (mesh, seals.hash_json(world))
  unlearned = folder / 'tuning' if validation else folder
  return Job(*shared, groups, validation, unlearned, *places)


def _others(
  config: Config, data: datasets.Dataset
) -> tuple[Config, datasets.Dataset, Config]:
  """Config, data and roles in which others than the reported are forgotten."""
  if 'validation_groups' in config:
    return config, data, config.validation_groups
  data, groups = stand_ins.stand_in(data, config.groups, config.seed)
  config = config.copy_and_resolve_references()
  # They may have a few pictures more than those for whom rounds were set.
  config.unlearn.allow_partial_forget = True
  return config, data, Config(groups)


def check_names(config: Config) -> None:
  """Raises ValueError unless runs and preserve sets can name their folders."""
  for name in config.runs:
    inputs.check_name(name, 'run')
    if name in TRAINED or re.fullmatch(r'\w+-\d+shot', name):
      raise UserError(
        f'a run is not named {name!r}, as is a folder of a workdir with other '
        'contents. Rename it in config.runs.'
      )
  for name in config.saliency.preserve:
    inputs.check_name(name, 'preserve set')
    if name == FORGET:
      raise UserError(
        f'a preserve set is not named {name!r}, as is the importance of the '
        'forget set. Rename it in config.saliency.preserve.'
      )


def write_manifest(
  config: Config, folder: pathlib.Path, mesh: jax.sharding.Mesh
) -> None:
  """Writes config and manifest of the results of a workdir."""
  plain = config.to_dict()
  judge = plain['evaluation'].get('judge', {})
  if judge.get('key_variable', '') not in os.environ:
    judge.pop('key_variable', None)  # perhaps it is the key, by mistake
  workdir_lib.write_json(folder / workdir_lib.CONFIG, plain)
  workdir_lib.write_json(
    folder / workdir_lib.MANIFEST, workdir_lib.manifest(config.seed, mesh)
  )


def load_world(
  config: Config,
) -> tuple[datasets.Dataset, batching.Encoder, batching.Encoder, Model]:
  """Loads data and model of a config, once in a process; no parameters.

  Args:
    config: the whole config.

  Returns:
    The dataset, its encoders for training and for scoring, and the model.
  """
  return _load(_world_of(config))


def _world_of(config: Config) -> str:
  """The part of a config that all of a workdir shares, as JSON."""
  plain = config.to_dict()
  return json.dumps({k: plain[k] for k in _WORLD}, sort_keys=True)


@functools.lru_cache(maxsize=2)
def _content(text: str) -> dict[str, dict[str, str]]:
  """Hashes of all that is loaded for a world, once in a process."""
  data, _, _, model = _load(text)
  found = {'data': contents.digest(data)}
  if model.source is not None:
    found['model'] = hub_contents.digest(model.source)
  if model.adapter is not None:
    found['adapter'] = hub_contents.digest(model.adapter)
  return found


@functools.lru_cache(maxsize=2)
def _load(text: str) -> tuple[Any, ...]:
  """Data, encoder, scorer and model of a world, once in a process."""
  config = json.loads(text)
  options, sizes = config['data'], config['model']
  data = datasets.load(options.pop('name'), config['seed'], **options)
  for note in data.notes:
    progress.say(f'data: {note}')
  path, reading = sizes.pop('path', ''), sizes.pop('processor', {})
  adapter = sizes.pop('adapter', '')
  if path:
    ways = ('dtype', 'attention', 'remat')
    ways = {name: sizes[name] for name in ways if name in sizes}
    model, _ = checkpoints.read_headers(path, **ways)
    model = dataclasses.replace(model, source=pathlib.Path(path))
    if adapter:
      peft_files.read_adapter(adapter, model)
      model = dataclasses.replace(model, adapter=pathlib.Path(adapter))
    processor = _open_processor(model, path, **reading)
  else:
    processor = _own_processor(data)
    model = from_options(sizes.pop('name'), len(processor.tokenizer), **sizes)
    checkpoints.check_processor(model, processor)
  encoder = batching.Encoder(processor, config['labels'])
  scorer = batching.Encoder(processor)
  return data, encoder, scorer, model


def _own_processor(data: datasets.Dataset) -> processors.Processor:
  """The processor of a dataset, where the model is no checkpoint."""
  if data.processor is None:
    raise UserError(
      'a benchmark is encoded with the processor of a checkpoint, and there '
      'is none. Set config.model.path to the folder of one; to try the '
      "config with a small model, set config.data.processor to 'small'."
    )
  return data.processor


def _open_processor(
  model: Model,
  path: str,
  max_pixels: int = 0,
  min_pixels: int = 0,
  own_tokenizer: bool = False,
) -> processors.Processor:
  """The processor of a checkpoint, as the config wants it."""
  return checkpoints.load_processor(
    model,
    path,
    raw_tokenizer=not own_tokenizer,
    min_pixels=min_pixels or None,
    max_pixels=max_pixels or None,
  )


def recipe(spec: Config) -> dict[str, Any]:
  """A part of a config without what changes no result."""
  operational = ('save_every', 'max_retain_loss', 'keep')
  operational += ('epochs', 'allow_partial_forget')  # settled, see `budgets`
  operational += ('require_memorised',)
  # Fields of later versions count where they are used.
  unused = {'preserve_loss': 'answers', 'density': None}
  return {
    k: v
    for k, v in spec.to_dict().items()
    if k not in operational and (k not in unused or v != unused[k])
  }
