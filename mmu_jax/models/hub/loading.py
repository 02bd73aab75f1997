"""Hugging Face checkpoints to parameters."""

from collections.abc import Iterable, Mapping
import contextlib
import dataclasses
import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmu_jax import sharding as sharding_lib
from mmu_jax import tree as tree_lib
from mmu_jax.data.encoding import processors
from mmu_jax.data.encoding import tokenizer_files
from mmu_jax.distributed import progress
from mmu_jax.errors import UserError
from mmu_jax.models.hub import config as hub_config
from mmu_jax.models.hub import peft_files
from mmu_jax.models.hub import safetensors_files as files_lib
from mmu_jax.models.hub import weights
from mmu_jax.models.model import build
from mmu_jax.models.model import Model
from mmu_jax.models.model import MODELS

DTYPES = files_lib.DTYPES
Folder = str | pathlib.Path
Sharding = jax.sharding.Sharding
Read = peft_files.Read
BLOCK = 2**17  # entries of a tensor that are read at a time


def load(
  path: Folder,
  *,
  dtype: str | None = 'float32',
  mesh: jax.sharding.Mesh | None = None,
  rules: sharding_lib.Rules | None = None,
  compute_dtype: str | None = None,
  attention: str = 'auto',
  remat: str = 'products',
  adapter: Folder | None = None,
) -> Model:
  """Loads a checkpoint of any family in the Hugging Face format.

  Every device gets its part of each tensor straight from the file: besides the
  arrays themselves, the host holds about two tensors at a time.

  Args:
    path: folder with ``config.json`` and safetensors, one file or shards
      with their index, in the names of the hub or of any transformers since.
    dtype: dtype of the parameters; None keeps the dtype of the files, the
      widest where layers differ. Training needs float32: bfloat16 loses most
      small updates to rounding.
    mesh: devices of the parameters; None for the first device.
    rules: partition rules; None for the model's.
    compute_dtype: dtype of the computation; None for the parameters' dtype, or
      float32 where these keep the dtype of the files.
    attention: implementation, see ``attention.attend``.
    remat: activations that the backward pass keeps: 'none' (all),
      'products' (what linear layers and attention give) or 'full' (layer
      inputs alone).
    adapter: folder of a LoRA adapter of PEFT, which is merged into it.

  Returns:
    A ``Model`` with ``params``, ``source`` and, where the folder has a
    tokenizer, ``processor``.

  Raises:
    FileNotFoundError: if the folder, its config or a weight file is missing.
    ValueError: if the dtype is unknown, the architecture is not supported, a
      file is damaged, the two ends of a tied embedding differ, or
      tensors are missing, unexpected, or of a wrong shape or dtype: all of
      them are named together, with file and rule.

  Example:
    >>> from mmu_jax.sharding import make_mesh
    >>> model = load(folder, mesh=make_mesh('fsdp=-1'))  # doctest: +SKIP
    >>> logits = model.forward(model.params, batch)  # doctest: +SKIP
  """
  path = pathlib.Path(path).expanduser()
  check_dtype(dtype)
  model, tensors = read_headers(
    path,
    dtype=compute_dtype or dtype or 'float32',
    attention=attention,
    remat=remat,
  )
  has = any((path / name).exists() for name in tokenizer_files.TOKENIZER_FILES)
  processor = load_processor(model, path) if has else None
  table = weights.table(model)
  rules = model.partition_rules if rules is None else rules
  made = {}
  with contextlib.ExitStack() as stack:
    read = _reader(stack, tensors)
    _check_copies(table, tensors, read, path)
    if adapter is not None:
      factors = peft_files.read_adapter(adapter, model)
      read = stack.enter_context(peft_files.merging(read, factors))
    leaves = weights.by_leaf(table.places)
    for leaf in progress.track(leaves, f'load {path.name}'):
      pieces = {name: table.places[name] for name in leaves[leaf]}
      kind = jnp.dtype(dtype) if dtype else stored_dtype(tensors, pieces)
      made[leaf] = _make_leaf(leaf, pieces, read, kind, mesh, rules)
  params = tree_lib.map_with_name(
    lambda name, _: made[name], model.abstract_params
  )
  return dataclasses.replace(
    model,
    params=params,
    processor=processor,
    source=path,
    adapter=pathlib.Path(adapter) if adapter is not None else None,
  )


def read_headers(
  path: Folder, **options: str
) -> tuple[Model, dict[str, files_lib.Tensor]]:
  """Reads config and headers of a checkpoint, and checks them.

  Args:
    path: the folder.
    **options: ``dtype`` of the computation, ``attention``, ``remat``.

  Returns:
    The model without parameters, and hub name -> tensor in the files.

  Raises:
    FileNotFoundError, ValueError: see ``load``.
  """
  path = pathlib.Path(path).expanduser()
  config = hub_config.read_config(path, options)
  found = files_lib.tensors(path)
  model = build(_with_vocabulary(config, found))
  table = weights.table(model)
  names = weights.check_tensors(found, model.family, table, str(path))
  tensors = {hub: found[name] for hub, name in names.items()}
  _check_tensors({**table.places, **table.copies}, tensors)
  return model, tensors


def stored_dtype(
  tensors: Mapping[str, files_lib.Tensor], names: Iterable[str]
) -> np.dtype:
  """Returns the widest dtype of some tensors, given by hub name."""
  return jnp.result_type(*(DTYPES[tensors[name].dtype] for name in names))


def load_processor(
  model: Model, path: Folder, **options: Any
) -> processors.Processor:
  """Loads the processor of a model's folder, and checks that it fits.

  Args:
    model: model of the folder; its family names the image processor of a
      folder that states none.
    path: the folder.
    **options: arguments of ``processors.read_processor``.
  """
  kind = MODELS[model.family].image_processor
  processor = processors.read_processor(path, image_processor=kind, **options)
  check_processor(model, processor)
  return processor


def check_processor(model: Model, processor: processors.Processor) -> None:
  """Raises unless model and processor cut images in the same way.

  Raises:
    ValueError: names what differs.
  """
  want = MODELS[model.family].image_cut(model.config)
  got = processor.images.cut
  if got != want:
    raise UserError(
      'the image processor and the vision tower must cut images alike; the '
      f'processor has {got}, the model {want}. Compare '
      "preprocessor_config.json (or the dataset's processor) with the "
      "model's vision_config."
    )


def _with_vocabulary(config, found: Mapping[str, files_lib.Tensor]):
  """The config with the vocabulary of the weights.

  Published runs resized the embedding to the tokenizer, and not every writer
  says so in the config.
  """
  for name, tensor in found.items():
    if name.endswith('embed_tokens.weight') and len(tensor.shape) == 2:
      size = tensor.shape[0]
      text = dataclasses.replace(config.text_config, vocab_size=size)
      return dataclasses.replace(config, text_config=text)
  return config


def _check_tensors(
  places: Mapping[str, weights.Place], tensors: Mapping[str, files_lib.Tensor]
) -> None:
  """Raises where a shape does not fit the config, or a dtype is unknown."""
  wrong = []
  for hub, tensor in tensors.items():
    where, want = f'{tensor.name} in {tensor.file.name}', places[hub].shape
    if tensor.dtype not in DTYPES:
      known = ', '.join(DTYPES)
      wrong.append(f'{where} has dtype {tensor.dtype}, not one of {known}')
    elif tensor.shape != want:
      wrong.append(f'{where} has shape {tensor.shape}, not {want}')
  if wrong:
    more = f' (and {len(wrong) - 5} more)' if len(wrong) > 5 else ''
    raise UserError(
      'every tensor must have the shape that config.json gives it (but '
      'for the number of tokens, which embed_tokens has), and a '
      f'float dtype: {"; ".join(wrong[:5])}{more}. Is the config for '
      'these weights? Quantized checkpoints are not supported.'
    )


def check_dtype(dtype: str | None) -> None:
  """Raises unless parameters can have the dtype."""
  known = [kind.name for kind in DTYPES.values()]
  if dtype is not None and dtype not in known:
    raise UserError(f'dtype is one of {", ".join(known)}, got {dtype!r}.')


def _check_copies(
  table: weights.Table,
  tensors: Mapping[str, files_lib.Tensor],
  read: Read,
  path: pathlib.Path,
) -> None:
  """Raises where a tensor differs from the one that it should copy."""
  places = {place.leaf: hub for hub, place in table.places.items()}
  for hub, place in table.copies.items():
    twin = places[place.leaf]
    blocks = _blocks(place, 0, place.shape[0]) if hub in tensors else []
    if not all(
      np.array_equal(read(hub, (block,)), read(twin, (block,)))
      for block in blocks
    ):
      raise UserError(
        f'config.json of {path} says tie_word_embeddings, so that '
        f'{tensors[hub].name} is a copy of {tensors[twin].name}; they differ '
        'in the files. If the weights are right, say false.'
      )


def _reader(
  stack: contextlib.ExitStack, tensors: Mapping[str, files_lib.Tensor]
) -> Read:
  """Opens files as they are needed, until the stack is closed."""

  @functools.cache
  def handle(file):
    return stack.enter_context(files_lib.opened(file))

  def read(hub, index):
    tensor = tensors[hub]
    return handle(tensor.file).get_slice(tensor.name)[index]

  return read


def _make_leaf(
  leaf: str,
  pieces: Mapping[str, weights.Place],
  read: Read,
  dtype: np.dtype,
  mesh: jax.sharding.Mesh | None,
  rules: sharding_lib.Rules,
) -> jax.Array:
  """Makes one parameter, layer by layer if it is stacked."""
  first = next(iter(pieces.values()))
  shape = first.shape
  if first.transposed:
    shape = (int(np.prod(shape[1:])), shape[0])
  if first.layer is None:
    spec = _sharding(leaf, shape, mesh, rules)
    return _make_array(next(iter(pieces)), first, shape, read, dtype, spec)
  stacked = (len(pieces), *shape)
  whole = _sharding(leaf, stacked, mesh, rules)
  layer = _sharding(leaf, shape, mesh, rules)
  out = _zeros(stacked, dtype, whole)()
  for name, place in pieces.items():
    out = _set_layer(whole)(
      out, _make_array(name, place, shape, read, dtype, layer), place.layer
    ).block_until_ready()
  return out


def _make_array(name, place, shape, read: Read, dtype, spec) -> jax.Array:
  """Makes an array of one tensor; every device reads its part."""
  made = {}  # devices that hold the same part share what is read

  def part(index):
    key = str(index)
    if key not in made:
      made[key] = _part(name, place, index, shape, read, dtype)
    return made[key]

  array = jax.make_array_from_callback(shape, spec, part)
  # Or the host reads on, and keeps what devices have yet to copy.
  return array.block_until_ready()


def _part(name, place, index, shape, read: Read, dtype) -> np.ndarray:
  """A part of a parameter of one tensor, some rows of the file at a time."""
  part = np.empty(
    [len(range(*s.indices(n))) for s, n in zip(index, shape)], dtype
  )
  rows, *rest = reversed(index) if place.transposed else index
  by_rows = part.T if place.transposed else part
  first, last, _ = rows.indices(place.shape[0])
  for block in _blocks(place, first, last):
    if len(place.shape) > 2:  # a convolution
      got = weights.to_leaf(read(name, (block,)), place)[*rest].T
    else:
      got = read(name, (block, *rest))
    by_rows[block.start - first : block.stop - first] = got
  return part


def _blocks(place: weights.Place, first: int, last: int) -> list[slice]:
  """The rows of a tensor, as they are read."""
  step = max(1, BLOCK * place.shape[0] // int(np.prod(place.shape)))
  return [slice(i, min(i + step, last)) for i in range(first, last, step)]


def _sharding(leaf, shape, mesh, rules) -> Sharding:
  """Where an array lives."""
  if mesh is None:
    return jax.sharding.SingleDeviceSharding(jax.devices()[0])
  spec = sharding_lib.spec_of(leaf, shape, rules, mesh)
  return jax.sharding.NamedSharding(mesh, spec)


@functools.cache
def _zeros(shape, dtype, sharding: Sharding):
  """Makes zeros where they live."""
  return jax.jit(lambda: jnp.zeros(shape, dtype), out_shardings=sharding)


@functools.cache
def _set_layer(sharding: Sharding):
  """Writes one layer of a stack in place: the stack is donated."""

  def write(stack, layer, i):
    return jax.lax.dynamic_update_index_in_dim(stack, layer, i, 0)

  return jax.jit(write, donate_argnums=0, out_shardings=sharding)
