"""The models of a workdir: where they are, and which are finished.

A model is a folder with its settings in ``config.json`` and, when it is
finished, its parameters in ``params/``. Any folder of the workdir can be one,
so a stage that makes a model from another needs to be named nowhere:
``evaluate`` and ``report`` find the model. Such a stage does::

  folder = runs.claim_model(job, 'attacks/relearn/ga', made_by='relearn',
                              source='ga', settings={'rate': 1e-4})
  if not runs.is_finished(folder):
    params = relearn(runs.final_params(job, 'ga'))
    runs.save_model(job, 'attacks/relearn/ga', params, {'rounds': 20})

The name of a model is its path in the workdir, ``unlearned/`` left out.
"""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import pathlib
from typing import Any

import jax

from mmu_jax import checkpoint
from mmu_jax import distributed
from mmu_jax import inputs
from mmu_jax import sharding
from mmu_jax import workdir as workdir_lib
from mmu_jax.data.batches import batching
from mmu_jax.errors import MissingError
from mmu_jax.errors import UserError
from mmu_jax.models import Model
from mmu_jax.models.hub import convert
from mmu_jax.models.hub import loading
from mmu_jax.stages import origins
from mmu_jax.stages.budgets.run_rules import TRAINED
from mmu_jax.stages.job import Config
from mmu_jax.stages.job import Folder
from mmu_jax.stages.job import Job
from mmu_jax.stages.job import open_job
from mmu_jax.stages.job import stored_config
from mmu_jax.training import loop
from mmu_jax.typing import Params

_UNLEARNED = 'unlearned'
_NOT_SCORED = ('base', 'tuning')
DEEPEST = 3  # folders down to a model: attacks/<name>/<run>


def model_folder(job: Job, name: str) -> pathlib.Path:
  """Returns the folder of a model.

  Args:
    job: job whose model it is.
    name: 'vanilla', a run such as 'ga', or a path such as 'attacks/relearn/ga'.

  Raises:
    ValueError: if the name leads out of the workdir.
  """
  inputs.check_name(name, 'run', DEEPEST)
  if name in TRAINED or '/' in name:
    return job.folder / name
  return job.unlearned / _UNLEARNED / name


def is_finished(folder: pathlib.Path) -> bool:
  """Whether a model folder holds its final parameters."""
  return checkpoint.latest_step(folder / loop.FINAL) is not None


def find_models(config: Config, workdir: Folder) -> list[str]:
  """Returns the names of all finished models that can be scored, in order."""
  return distributed.first(_find_models, config, pathlib.Path(workdir))


def _find_models(config: Config, workdir: pathlib.Path) -> list[str]:
  """Looks for finished models, in one process."""
  found = set()
  for depth in range(1, DEEPEST + 1):
    for path in workdir.glob('*/' * depth + workdir_lib.CONFIG):
      parts = path.parent.relative_to(workdir).parts
      if parts[0] not in _NOT_SCORED and is_finished(path.parent):
        short = parts[0] == _UNLEARNED and len(parts) == 2
        found.add(parts[1] if short else '/'.join(parts))
  return in_order(config, found)


def in_order(config: Config, names: Iterable[str]) -> list[str]:
  """Sorts models as tables show them: trained, runs of the config, others."""
  first = [*TRAINED, *config.runs]
  names = set(names)
  return [n for n in first if n in names] + sorted(names.difference(first))


def choose_models(
  config: Config, workdir: Folder, names: Sequence[str] | None
) -> list[str]:
  """Returns the models to score: all finished ones, or some by name.

  Raises:
    ValueError: if a name is neither a run nor a finished model.
  """
  found = find_models(config, workdir)
  if names is None:
    return found
  every = {*TRAINED, *config.runs, *found}.difference(_NOT_SCORED)
  known = in_order(config, every)
  unknown = [name for name in names if name not in known]
  if unknown:
    raise UserError(
      f'unknown run {", ".join(map(repr, unknown))}; what can be evaluated '
      f'is {", ".join(known)}.'
    )
  return list(names)


def claim_model(
  job: Job, name: str, *, made_by: str, source: str, settings: Mapping[str, Any]
) -> pathlib.Path:
  """Claims the folder of a model that a stage makes from another model.

  Args:
    job: job whose model it is.
    name: path in the workdir with at least one '/': 'attacks/relearn/ga'.
    made_by: name of the stage, for the reader of ``config.json``.
    source: name of the finished model that it is made from.
    settings: JSON; everything else that the parameters depend on.

  Returns:
    The folder, with its ``config.json``.

  Raises:
    ValueError: if the folder was made from other settings or another source.
    FileNotFoundError: if the source is not finished.
  """
  if not 1 <= name.count('/') < DEEPEST:
    raise UserError(
      f'a model that is made from another has a path of 2 to {DEEPEST} '
      f"folders for a name, such as 'attacks/relearn/ga'; got {name!r}."
    )
  require(job, source)
  path = model_folder(job, source) / workdir_lib.CONFIG
  made = {'made_by': made_by, 'from': source, 'settings': dict(settings)}
  made['source_content'] = distributed.first(
    origins.content, model_folder(job, source)
  )
  if distributed.first(path.exists):
    made['source'] = distributed.first(workdir_lib.read_json, path)
  folder = model_folder(job, name)
  workdir_lib.claim(folder, made)
  return folder


def save_model(
  job: Job, name: str, params: Params, note: Mapping[str, Any]
) -> None:
  """Saves the parameters of a model whose folder is claimed: it is finished.

  Args:
    job: job whose model it is.
    name: path in the workdir, as for ``claim_model``.
    params: parameters of the model.
    note: JSON with at least ``rounds``, for tables and plots.
  """
  folder = model_folder(job, name)
  claimed = distributed.first(
    workdir_lib.read_json, folder / workdir_lib.CONFIG
  )
  origin = origins.origin(job, folder, [model_folder(job, claimed['from'])])
  note = {**note, **origin, 'content': checkpoint.digest(params)}
  checkpoint.save(folder / loop.FINAL, params, note)


def final_folder(job: Job, name: str) -> pathlib.Path:
  """Returns the folder of the parameters of a finished model.

  Raises:
    FileNotFoundError: if it is not there, or not finished.
  """
  folder = model_folder(job, name)
  if not is_finished(folder):
    raise MissingError(
      f'the model {name!r} is needed, and {folder / loop.FINAL} does not hold '
      f'it. Train it first: mmu train --run={name} (same --config and '
      '--workdir), or mmu pipeline for everything.'
    )
  return folder / loop.FINAL


def require(job: Job, name: str) -> None:
  """Raises FileNotFoundError unless a model is finished; reads nothing."""
  if name != 'base' or job.model.source is None:
    final_folder(job, name)


def final_params(job: Job, name: str) -> Params:
  """Restores the parameters of a finished model; ``base`` of a checkpoint.

  Raises:
    FileNotFoundError: if it is not there, or not finished.
    FloatingPointError: if a parameter is not finite; names the leaf.
  """
  if name == 'base' and job.model.source is not None:
    folder = job.model.source
    params = loading.load(
      folder, mesh=job.mesh, adapter=job.model.adapter
    ).params
  else:
    folder = final_folder(job, name)
    like = job.placed(job.model.abstract_params)
    params = checkpoint.restore(folder, like).tree
  bad = sharding.not_finite(params)
  if bad:
    raise FloatingPointError(
      f'every parameter must be finite; in {folder}, the model {name!r}, '
      f'{len(bad)} leaves hold NaN or infinity, the first is {bad[0]!r}. Such '
      'a model answers with the first token of its vocabulary and would pass '
      'for one that forgot. Delete its folder and train it again at a lower '
      'learning rate, or fetch the checkpoint again.'
    )
  return params


def scorer(job: Job) -> batching.Encoder:
  """Returns the encoder of questions, with the config's repetition penalty."""
  penalty = job.config.evaluation.get('repetition_penalty', 0.0)
  if not penalty:  # as generation_config.json has it
    return job.scorer
  made = job.scorer.processor
  return batching.Encoder(
    dataclasses.replace(made, repetition_penalty=float(penalty))
  )


def load_model(
  path: Folder, *, like: Folder | None = None, dtype: str = 'float32'
) -> Model:
  """Loads a model with parameters and processor, split over all devices.

  Args:
    path: checkpoint: a Hugging Face folder, one of ``mmu convert``, or the
      folder of a model of a workdir.
    like: Hugging Face folder of the model, for an Orbax folder of elsewhere.
    dtype: dtype of the parameters of a Hugging Face folder.

  Raises:
    FileNotFoundError: if there is no checkpoint.
    ValueError: if it is damaged, or nothing says which model it is.
  """
  if not pathlib.Path(path).exists():
    raise inputs.no_folder(path, 'model')
  path = pathlib.Path(path).absolute()
  path = path / loop.FINAL if is_finished(path) else path
  if checkpoint.latest_step(path) is None:
    return loading.load(path, dtype=dtype, mesh=sharding.make_mesh('fsdp=-1'))
  for folder in path.parents if like is None else ():
    if (folder / workdir_lib.WORLD).is_file():
      name = path.parent.relative_to(folder).as_posix()
      return load_run(folder, name.removeprefix(f'{_UNLEARNED}/'))
  model = convert.load_orbax(path, like=like)
  processor = loading.load_processor(model, model.source)
  return dataclasses.replace(model, processor=processor)


def load_run(workdir: Folder, name: str) -> Model:
  """Loads a finished model of a job, as ``load_model`` does.

  Args:
    workdir: folder of the job.
    name: 'vanilla', a key of ``config.runs``, or a path in the workdir.

  Raises:
    FileNotFoundError: if there is no such job, or the model is not finished.
    ValueError: if the name is unknown, or data or model have changed.
  """
  config = stored_config(workdir)
  config.mesh = 'fsdp=-1'  # the devices of this machine, not of the job
  known = {*TRAINED, *config.runs, *find_models(config, workdir)}
  if name not in known and '/' not in name:
    raise UserError(
      f'there is no model {name!r} in {workdir}; the job has '
      f'{", ".join(in_order(config, known))}.'
    )
  job = open_job(config, workdir, begin=False)
  with jax.set_mesh(job.mesh):
    params = final_params(job, name)
  processor = scorer(job).processor
  return dataclasses.replace(job.model, params=params, processor=processor)
