"""Hugging Face checkpoints to Orbax and back."""

import dataclasses
import pathlib
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmu_jax import checkpoint
from mmu_jax import inputs
from mmu_jax import lora as lora_lib
from mmu_jax import sharding
from mmu_jax import tree as tree_lib
from mmu_jax.errors import DiskError
from mmu_jax.errors import UserError
from mmu_jax.models.hub import config as hub_config
from mmu_jax.models.hub import gguf_files
from mmu_jax.models.hub import loading as checkpoints
from mmu_jax.models.hub import peft_files
from mmu_jax.models.hub import safetensors_files as files_lib
from mmu_jax.models.hub import saving
from mmu_jax.models.hub import weights
from mmu_jax.models.hub.inspection import check_whole
from mmu_jax.models.hub.inspection import size_text
from mmu_jax.models.model import Model

Folder = str | pathlib.Path
SOURCE = 'source'  # in the note of a converted checkpoint


def convert(
  source: Folder,
  target: Folder,
  *,
  like: Folder | None = None,
  dtype: str | None = None,
  adapter: Folder | None = None,
  tower: Model | None = None,
) -> str:
  """Converts a checkpoint: Hugging Face to Orbax, or Orbax to Hugging Face.

  With an adapter, a Hugging Face folder becomes another one with the adapter
  merged. The adapters of a run become a folder that PEFT loads. A language
  model in a GGUF file and a vision tower become the folder of a LLaVA.

  The parameters are split over all devices, in the dtype that is written (on
  the way back, in the stored one): the devices hold them once together. So does
  the host, at most: Orbax brings all that it writes to the host first, and
  reads many tensors at a time. Where the devices are CPUs it holds them twice.

  Args:
    source: Hugging Face folder, or an Orbax folder of parameters (as
      ``convert`` or a training run writes it: ``unlearned/<run>/params``), or
      a GGUF file.
    target: new folder.
    like: Hugging Face folder that the model came from, for the way back; None
      if ``source`` was made by ``convert``, which remembers it.
    dtype: dtype of the result; None keeps the dtype of the source, or of
      ``like`` on the way back.
    adapter: folder of a LoRA adapter of PEFT, to merge into ``source``.
    tower: LLaVA with parameters, whose vision tower a GGUF file gets.

  Returns:
    A sentence about the written parameters.

  Raises:
    FileNotFoundError: if there is no checkpoint.
    OSError: if the target exists.
    ValueError: see ``models.load`` and ``models.save``.
  """
  source, target = pathlib.Path(source), pathlib.Path(target)
  if target.exists() and (target.is_file() or any(target.iterdir())):
    raise DiskError(
      f'a checkpoint is written to a new folder; {target} exists. Give '
      'another, or delete it.'
    )
  if not source.exists():
    raise inputs.no_folder(source, 'model')
  if source.suffix == gguf_files.SUFFIX:
    if tower is None:
      raise UserError(
        f'{source} holds a language model alone. Give a LLaVA whose vision '
        'tower it gets with --tower=DIR, such as runs/people/base/params of '
        'the config people.'
      )
    given = {'--like': like, '--dtype': dtype, '--adapter': adapter}
    for option, value in given.items():
      if value is not None:
        raise UserError(
          f'{option} says nothing about a GGUF file, whose LLaVA is written in '
          f'float32; got {value}. Leave it out, and convert the folder again.'
        )
    return gguf_files.to_llava(source, target, tower)
  if tower is not None:
    raise UserError(
      f'a vision tower (--tower) is for a GGUF file; {source} is none. Leave '
      'it out.'
    )
  if adapter is not None:
    model = checkpoints.load(source, dtype=dtype, mesh=_mesh(), adapter=adapter)
    saving.save(model, model.params, target, like=source, dtype=dtype)
    return f'{_amount(model.params)} from {source}, with {adapter}, to {target}'
  if checkpoint.latest_step(source) is None:
    hub_config.read_config(source)  # or the folder is of another kind
  elif 'lora' in checkpoint.read_note(source):
    return _export(source, target, like)
  if (source / hub_config.FILE).exists():
    model = checkpoints.load(source, dtype=dtype, mesh=_mesh())
    note = {SOURCE: str(source.resolve()), 'family': model.family}
    checkpoint.save(target, model.params, note)
    return f'{_amount(model.params)} from {source} to Orbax in {target}'
  model = load_orbax(source, like=like)
  like, params = model.source, model.params
  saving.save(model, params, target, like=like, dtype=dtype)
  return (
    f'{_amount(params)} from {source} to {target}, in the names and with '
    f'the tokenizer of {like}'
  )


def _export(source: pathlib.Path, target: pathlib.Path, like) -> str:
  """Writes the adapters of a run as PEFT loads them."""
  if like is None:
    raise UserError(
      f'{source} holds adapters. Give the Hugging Face checkpoint of the model '
      'that the run started from, vanilla, with --like=DIR. If vanilla was '
      'trained here, convert vanilla/params first.'
    )
  model, tensors = checkpoints.read_headers(like)
  settings = checkpoint.read_note(source)['lora']
  names = {k: tuple(settings.get(k, ())) for k in ('targets', 'whole')}
  lora = lora_lib.Lora(**settings | names)
  shapes = checkpoint.describe(source)
  place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  shapes = jax.tree.map(lambda x: x.update(sharding=place), shapes)
  adapters = checkpoint.restore(source, shapes).tree
  base = pathlib.Path(like).resolve()
  count = peft_files.save_adapter(model, adapters, lora, target, base=base)
  _check_base(source.parent / 'params', model, tensors, target)
  return f'adapters of {count} layers from {source} to {target}, for {like}'


def _check_base(final: pathlib.Path, model, tensors, target) -> None:
  """Raises unless base and adapter make the model of a run, in one layer."""
  if checkpoint.latest_step(final) is None:
    return  # the adapters were brought here alone
  factors = peft_files.read_adapter(target, model)
  hub = next(iter(factors))
  place, tensor = weights.table(model).places[hub], tensors[hub]
  with files_lib.opened(tensor.file) as handle:
    stored = lambda _, index: handle.get_slice(tensor.name)[index]
    whole = (slice(None), slice(None))
    was = stored(hub, whole).astype(np.float32)
    with peft_files.merging(stored, factors) as read:
      got = weights.to_leaf(read(hub, whole), place)
  like = tree_lib.flatten(model.abstract_params)[place.leaf]
  like = like.update(
    sharding=jax.sharding.SingleDeviceSharding(jax.devices()[0])
  )
  want = np.asarray(checkpoint.restore_leaf(final, place.leaf, like))
  want = want if place.layer is None else want[place.layer]
  step = jnp.finfo(files_lib.DTYPES[tensor.dtype]).eps
  if np.abs(got - want).max() > 2 * max(step, 1e-6) * np.abs(was).max():
    shutil.rmtree(target)
    raise UserError(
      f'{tensor.name} of the --like folder and its adapter do not make the '
      f'model in {final}: the run started from another one, its vanilla. If '
      'vanilla was trained here, convert vanilla/params, and give that folder.'
    )


def load_orbax(source: Folder, *, like: Folder | None = None) -> Model:
  """Loads parameters from Orbax, in their dtype, split over all devices.

  Args:
    source: Orbax folder of parameters.
    like: Hugging Face folder of its model, as for ``convert``.
  """
  check_whole(source)
  like = pathlib.Path(like or _source_of(pathlib.Path(source)))
  model, _ = checkpoints.read_headers(like)
  family = checkpoint.read_note(source).get('family', model.family)
  if family != model.family:
    raise UserError(
      f'{source} holds parameters of a {family}, and {like} is a '
      f'{model.family}. Give the checkpoint that it came from with --like=DIR.'
    )
  like_stored = _stored_like(model, pathlib.Path(source))
  params = checkpoint.restore(source, like_stored).tree
  return dataclasses.replace(model, params=params, source=like)


def _source_of(folder: pathlib.Path) -> str:
  """The Hugging Face folder that a converted checkpoint came from."""
  note = checkpoint.read_note(folder)
  if SOURCE not in note:
    raise UserError(
      f'{folder} does not say which checkpoint it came from. Give it with '
      '--like=DIR: names, config and tokenizer are taken from there.'
    )
  return note[SOURCE]


def _stored_like(model: Model, folder: pathlib.Path) -> Any:
  """The model's parameters, split, with the dtypes that are on disk."""
  stored = tree_lib.flatten(checkpoint.describe(folder))
  like = tree_lib.map_with_name(
    lambda name, x: jax.ShapeDtypeStruct(
      x.shape, stored[name].dtype if name in stored else x.dtype
    ),
    model.abstract_params,
  )
  return sharding.placed(like, model.partition_rules, _mesh())


def _mesh() -> jax.sharding.Mesh:
  """All devices, with a part of the parameters on each."""
  return sharding.make_mesh('fsdp=-1')


def _amount(params: Any) -> str:
  """How large a tree is, in words."""
  size = sum(x.nbytes for x in jax.tree.leaves(params))
  return f'{tree_lib.count(params):,} parameters ({size_text(size)})'
