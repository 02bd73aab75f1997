"""Hugging Face checkpoints to parameters, and back."""

from collections.abc import Callable, Mapping
import contextlib
import dataclasses
import functools
import os
import pathlib
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmu_jax import progress
from mmu_jax import sharding as sharding_lib
from mmu_jax import tree as tree_lib
from mmu_jax.models import hub_config
from mmu_jax.models import safetensors_files as files_lib
from mmu_jax.models import weights
from mmu_jax.models.model import build
from mmu_jax.models.model import Model
from mmu_jax.typing import Params

DTYPES = files_lib.DTYPES
Folder = str | pathlib.Path
Sharding = jax.sharding.Sharding
# Reads a part of a tensor of a checkpoint: (hub name, slices) -> array.
Read = Callable[[str, tuple[slice, ...]], np.ndarray]
# Files of a checkpoint folder that are weights: not copied, but made.
WEIGHTS = ('.safetensors', '.bin', '.pt', '.pth', '.msgpack', '.h5', '.gguf')


def load(
    path: Folder,
    *,
    dtype: str | None = 'float32',
    mesh: jax.sharding.Mesh | None = None,
    rules: sharding_lib.Rules | None = None,
    compute_dtype: str | None = None,
    attention: str = 'xla',
    remat: str = 'none',
) -> Model:
  """Loads a LLaVA-1.5 or Qwen2-VL checkpoint in the Hugging Face format.

  Every device gets its part of each tensor straight from the file: besides the
  arrays themselves, the host holds less than two tensors at a time.

  Args:
    path: a folder with ``config.json`` and safetensors, one file or shards
      with their index, in the names of the hub or of any transformers since.
    dtype: of the parameters; None keeps that of the files. Training needs
      float32: bfloat16 loses most small updates to rounding.
    mesh: where the parameters go; None for the first device.
    rules: partition rules; None for those of the model.
    compute_dtype: of the computation; None for that of the parameters, or
      float32 where these keep the dtype of the files.
    attention: ``'xla'`` or ``'cudnn'``.
    remat: which activations the backward pass keeps: 'none' (all), 'dots' or
      'full' (layer inputs alone).

  Returns:
    A ``Model`` with ``params``, ``source`` and, where the folder has a
    tokenizer, ``processor``.

  Raises:
    FileNotFoundError: if the folder, its config or a weight file is missing.
    ValueError: if the architecture is not supported, a file is damaged, or
      tensors are missing, unexpected, or of a wrong shape or dtype: all of
      them are named together, with file and rule.

  Example:
    >>> from mmu_jax.sharding import make_mesh
    >>> model = load(folder, mesh=make_mesh('fsdp=-1'))  # doctest: +SKIP
    >>> logits = model.forward(model.params, batch)  # doctest: +SKIP
  """
  path = pathlib.Path(path)
  model, found, names = describe(
      path,
      dtype=compute_dtype or dtype or 'float32',
      attention=attention,
      remat=remat,
  )
  table = weights.table(model)
  rules = model.partition_rules if rules is None else rules
  made = {}
  with contextlib.ExitStack() as stack:
    read = _reader(stack, found, names)
    leaves = weights.by_leaf(table.places)
    for leaf in progress.track(leaves, f'load {path.name}'):
      pieces = {name: table.places[name] for name in leaves[leaf]}
      first = found[names[leaves[leaf][0]]]
      kind = np.dtype(jnp.dtype(dtype) if dtype else DTYPES[first.dtype])
      made[leaf] = _make_leaf(leaf, pieces, read, kind, mesh, rules)
  params = tree_lib.map_with_name(
      lambda name, _: made[name], model.abstract_params
  )
  return dataclasses.replace(model, params=params, source=path)


def describe(
    path: Folder, **options: str
) -> tuple[Model, dict[str, files_lib.Tensor], dict[str, str]]:
  """Reads config and headers of a checkpoint, and checks them.

  Args:
    path: the folder.
    **options: ``dtype`` of the computation, ``attention``, ``remat``.

  Returns:
    The model without parameters; the tensors by their name in the files; and
    hub name -> name in the files.

  Raises:
    FileNotFoundError, ValueError: see ``load``.
  """
  path = pathlib.Path(path)
  config = hub_config.read(path, options)
  found = files_lib.tensors(path)
  model = build(_with_vocabulary(config, found))
  table = weights.table(model)
  names = weights.check_names(found, model.family, table, str(path))
  _check_tensors({**table.places, **table.copies}, names, found)
  return model, found, names


def save(
    model: Model,
    params: Params,
    path: Folder,
    *,
    like: Folder | None = None,
    dtype: str | None = None,
) -> pathlib.Path:
  """Writes parameters as a checkpoint that transformers loads.

  The files, their names, dtypes and order are those of the checkpoint that the
  model came from; tokenizer, processor and config files are copied. It is
  written beside its final place and renamed when it is whole.

  Args:
    model: the model.
    params: what to write; float arrays of any dtype, sharded or not.
    path: the new folder; must not exist.
    like: the folder of the source checkpoint; None for ``model.source``.
    dtype: of the files, 'float32', 'float16' or 'bfloat16'; None for that of
      each tensor in ``like``.

  Returns:
    The path.

  Raises:
    FileExistsError: if ``path`` exists.
    ValueError: if the parameters are not those of the model, ``like`` is a
      checkpoint of another one, or a value does not fit into the dtype.
    OSError: if the disk is full; nothing is left behind.
  """
  path, like = pathlib.Path(path), like or model.source
  if like is None:
    raise ValueError(
        'save needs like=, the folder of the checkpoint that the model came '
        'from: names, config and tokenizer are taken from it.'
    )
  if path.exists():
    raise FileExistsError(
        f'a checkpoint is written to a new folder; {path} exists. Give '
        'another, or delete it.'
    )
  like = pathlib.Path(like)
  tree_lib.check_same(
      params, model.abstract_params,
      got_name='the parameters to save', want_name='the model',
  )
  source, found, names = describe(like)
  tree_lib.check_same(
      model.abstract_params, source.abstract_params,
      got_name='the model to save', want_name=f'the checkpoint {like}',
  )
  partial = path.with_name(f'{path.name}.{os.getpid()}.partial')
  partial.mkdir(parents=True)
  try:
    _write(partial, tree_lib.flatten(params), source, names, like, dtype)
    partial.rename(path)
  finally:
    shutil.rmtree(partial, ignore_errors=True)
  return path


def _write(partial, leaves, source, names, like, dtype) -> None:
  """Writes all files of a checkpoint into a folder."""
  table = weights.table(source)
  places = {names[k]: p for k, p in {**table.copies, **table.places}.items()
            if k in names}  # fmt: skip
  for file in like.iterdir():
    weight = file.suffix in WEIGHTS or file.name.endswith('.index.json')
    if file.is_file() and not (weight and file.name != files_lib.INDEX):
      shutil.copyfile(file, partial / file.name)
  for file in progress.track(files_lib.files(like), f'save {like.name}'):
    header = files_lib.read_header(file)
    if dtype is not None:
      header = _with_dtype(header, places, dtype)

    def make(name, file=file, header=header):
      want = DTYPES[header[name]['dtype']]
      if name not in places:  # a buffer
        with files_lib.opened(file) as handle:
          return handle.get_tensor(name)
      return _cast(_entry(leaves, places[name]), want, name)

    files_lib.write(partial / file.name, header, make)


def _entry(leaves: Mapping[str, Any], place: weights.Place) -> np.ndarray:
  """One tensor of a checkpoint, from the parameters."""
  leaf = leaves[place.leaf]
  return weights.to_file(
      np.asarray(leaf if place.layer is None else leaf[place.layer]), place
  )


def _cast(array: np.ndarray, dtype: np.dtype, name: str) -> np.ndarray:
  """Casts; raises where a finite value becomes infinite."""
  if array.dtype == dtype:
    return array
  with np.errstate(over='ignore'):
    cast = array.astype(dtype)
  if not np.isfinite(cast).all() and np.isfinite(array).all():
    raise ValueError(
        f'{name} has values up to {np.abs(array).max():g}, too large for '
        f"{dtype.name}. Save with dtype='float32' or 'bfloat16'."
    )
  return cast


def _with_dtype(header, places, dtype: str) -> dict[str, Any]:
  """A header whose parameters have another dtype."""
  kinds = {d.name: key for key, d in DTYPES.items()}
  if dtype not in kinds:
    raise ValueError(f'dtype is one of {", ".join(kinds)}, got {dtype!r}.')
  return {
      name: dict(entry, dtype=kinds[dtype]) if name in places else entry
      for name, entry in header.items()
  }


def _with_vocabulary(config, found: Mapping[str, files_lib.Tensor]):
  """The config with the vocabulary of the weights.

  Published runs resized the embedding to the tokenizer, and not every writer
  says so in the config.
  """
  tables = [
      t.shape[0] for n, t in found.items()
      if n.endswith('embed_tokens.weight') and len(t.shape) == 2
  ]  # fmt: skip
  if not tables:
    return config
  text = dataclasses.replace(config.text_config, vocab_size=tables[0])
  return dataclasses.replace(config, text_config=text)


def _check_tensors(
    places: Mapping[str, weights.Place],
    names: Mapping[str, str],
    found: Mapping[str, files_lib.Tensor],
) -> None:
  """Raises where shapes or dtypes are not those of the config."""
  wrong = []
  for hub, name in names.items():
    tensor, want = found[name], places[hub].shape
    if tensor.dtype not in DTYPES:
      wrong.append(
          f'{name} in {tensor.file.name} has dtype {tensor.dtype}, '
          f'not one of {", ".join(DTYPES)}'
      )
    elif tensor.shape != want:
      wrong.append(
          f'{name} in {tensor.file.name} has shape {tensor.shape}, '
          f'the config says {want}'
      )
  if wrong:
    more = f' (and {len(wrong) - 5} more)' if len(wrong) > 5 else ''
    raise ValueError(
        'every tensor must have the shape that config.json gives it, and a '
        f'float dtype: {"; ".join(wrong[:5])}{more}. Is the config that of '
        'these weights? Quantized checkpoints are not supported.'
    )


def _reader(
    stack: contextlib.ExitStack,
    found: Mapping[str, files_lib.Tensor],
    names: Mapping[str, str],
) -> Read:
  """Opens files as they are needed, until the stack is closed."""

  @functools.cache
  def handle(file):
    return stack.enter_context(files_lib.opened(file))

  def read(hub, index):
    name = names[hub]
    return handle(found[name].file).get_slice(name)[index]

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
  out = _zeros(stacked, dtype, whole)
  for name, place in pieces.items():
    made = _make_array(name, place, shape, read, dtype, layer)
    out = _set_layer(whole)(out, made, place.layer)
  return out


def _make_array(name, place, shape, read: Read, dtype, spec) -> jax.Array:
  """Makes an array of one tensor; every device reads its part."""

  def part(index):
    if not place.transposed:
      return read(name, index).astype(dtype)
    rows, columns = index
    if len(place.shape) == 2:
      return np.ascontiguousarray(read(name, (columns, rows)).T, dtype)
    whole = read(name, (columns,))  # a convolution
    return np.ascontiguousarray(weights.to_leaf(whole, place)[rows], dtype)

  return jax.make_array_from_callback(shape, spec, part)


def _sharding(leaf, shape, mesh, rules) -> Sharding:
  """Where an array lives."""
  if mesh is None:
    return jax.sharding.SingleDeviceSharding(jax.devices()[0])
  spec = sharding_lib.spec_of(leaf, shape, rules, mesh)
  return jax.sharding.NamedSharding(mesh, spec)


def _zeros(shape, dtype, sharding: Sharding) -> jax.Array:
  """Zeros, made where they live."""
  return jax.jit(
      lambda: jnp.zeros(shape, dtype), out_shardings=sharding
  )()


@functools.cache
def _set_layer(sharding: Sharding):
  """Writes one layer of a stack in place: the stack is donated."""

  def write(stack, layer, i):
    return jax.lax.dynamic_update_index_in_dim(stack, layer, i, 0)

  return jax.jit(write, donate_argnums=0, out_shardings=sharding)
