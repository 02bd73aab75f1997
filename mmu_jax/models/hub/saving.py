"""Parameters to Hugging Face checkpoints."""

from collections.abc import Iterator
import functools
import pathlib
import secrets
import shutil
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mmu_jax import distributed
from mmu_jax import tree as tree_lib
from mmu_jax import workdir as workdir_lib
from mmu_jax.distributed import progress
from mmu_jax.errors import DiskError
from mmu_jax.errors import MissingError
from mmu_jax.errors import UserError
from mmu_jax.models.hub import config as hub_config
from mmu_jax.models.hub import loading as checkpoints
from mmu_jax.models.hub import safetensors_files as files_lib
from mmu_jax.models.hub import weights
from mmu_jax.models.model import Model
from mmu_jax.typing import Params

DTYPES = files_lib.DTYPES
Folder = str | pathlib.Path
# Files of a checkpoint folder that are weights: not copied, but made.
WEIGHTS = ('.safetensors', '.bin', '.pt', '.pth', '.msgpack', '.h5', '.gguf')


def save(
  model: Model,
  params: Params,
  path: Folder,
  *,
  like: Folder | None = None,
  dtype: str | None = None,
) -> pathlib.Path:
  """Writes parameters as a checkpoint that transformers loads.

  Files, names, dtypes and order follow the checkpoint that the model came from;
  tokenizer, processor and config files are copied. The folder is written under
  another name and renamed when it is whole.

  One tensor at a time, one layer of a stack, is brought to the host. In a job
  of several processes all of them call this; the first one writes, and the
  others hold no more than that tensor.

  Args:
    model: model of the parameters.
    params: parameters to write; float arrays of any dtype, sharded or not.
    path: new folder; must not exist.
    like: folder of the source checkpoint; None for ``model.source``.
    dtype: dtype of the files, 'float32', 'float16' or 'bfloat16'; None keeps
      each tensor's dtype in ``like``.

  Returns:
    The path.

  Raises:
    OSError: if ``path`` exists.
    FileNotFoundError: if ``like`` is gone.
    ValueError: if the dtype is unknown, the parameters do not fit the
      model, ``like`` is a checkpoint of another one, or a value does not fit
      into the dtype.
    OSError: if the disk is full; nothing is left behind.
  """
  path, like = pathlib.Path(path), like or model.source
  checkpoints.check_dtype(dtype)
  if like is None:
    raise UserError(
      'save needs like=, the folder of the checkpoint that the model came '
      'from: names, config and tokenizer are taken from it.'
    )
  like = pathlib.Path(like)
  distributed.first(_check_folders, str(path), str(like))
  tree_lib.check_same(
    params,
    model.abstract_params,
    got_name='the parameters to save',
    want_name='the model',
  )
  source, tensors = checkpoints.read_headers(like)
  tree_lib.check_same(
    model.abstract_params,
    source.abstract_params,
    got_name='the model to save',
    want_name=f'the checkpoint {like}',
  )
  plan = _plan(source, tensors, like, dtype)
  arrays = _arrays(tree_lib.flatten(params), plan)
  if not distributed.is_first():
    for _ in arrays:  # they are gathered by all
      pass
  distributed.first(_write_whole, path, like, plan, arrays)
  return path


class _Plan(NamedTuple):
  """Headers of the new files, and the places of tensors by name in a file."""

  headers: dict[pathlib.Path, dict[str, Any]]
  places: dict[str, weights.Place]
  dtype: str | None


def _plan(source, tensors, like, dtype) -> _Plan:
  """Reads the headers of the source, and gives them another dtype."""
  table = weights.table(source)
  known = {**table.copies, **table.places}
  places = {tensor.name: known[hub] for hub, tensor in tensors.items()}
  files = files_lib.files(like)
  headers = {file: files_lib.read_header(file) for file in files}
  kinds = {d.name: key for key, d in DTYPES.items()}
  for header in headers.values() if dtype is not None else ():
    for name in header.keys() & places:
      header[name]['dtype'] = kinds[dtype]
  return _Plan(headers, places, dtype)


def _check_folders(path: str, like: str) -> None:
  """Raises unless there is a source, and nothing where the result goes."""
  if pathlib.Path(path).exists():
    raise DiskError(
      f'a checkpoint is written to a new folder; {path} exists. Give '
      'another, or delete it.'
    )
  if not pathlib.Path(like).is_dir():
    raise MissingError(
      'save takes names, config and tokenizer from the checkpoint that the '
      f'model came from; {like} is gone. Give another copy of it as like=.'
    )


def _write_whole(path, like, plan, arrays) -> None:
  """Writes a folder under its name, or nothing."""
  partial = path.with_name(f'{path.name}.{secrets.token_hex(4)}.partial')
  try:
    workdir_lib.make_folder(partial)
    _write(partial, like, plan, arrays)
    for file in (*partial.iterdir(), partial):
      workdir_lib.sync(file)
    partial.rename(path)
    workdir_lib.sync(path.parent)
  finally:
    shutil.rmtree(partial, ignore_errors=True)
    if jax.process_count() > 1:
      for _ in arrays:  # after an error: the others gather all of them
        pass


def _write(partial, like, plan, arrays) -> None:
  """Writes all files of a checkpoint into a folder."""
  for file in like.iterdir():
    weight = file.suffix in WEIGHTS or file.name.endswith('.index.json')
    if file.is_file() and not weight:
      shutil.copyfile(file, partial / file.name)
  if files_lib.SINGLE not in {file.name for file in plan.headers}:
    shutil.copyfile(like / files_lib.INDEX, partial / files_lib.INDEX)
  if plan.dtype is not None:
    _state_dtype(partial, plan.headers.values(), plan.dtype)
  items = plan.headers.items()
  for file, header in progress.track(items, f'save {like.name}'):

    def make(name, file=file, header=header):
      if name not in plan.places:  # a buffer
        with files_lib.opened(file) as handle:
          return handle.get_tensor(name)
      dtype = DTYPES[header[name]['dtype']]
      return _entry(next(arrays), plan.places[name], dtype, name)

    files_lib.write_tensors(partial / file.name, header, make)


def _arrays(leaves, plan: _Plan) -> Iterator[jax.Array | np.ndarray]:
  """Yields the array of each tensor, in the order of the files."""
  for header in plan.headers.values():
    for name in files_lib.data_order(header):
      if name in plan.places:
        place = plan.places[name]
        yield _here(leaves[place.leaf], place.layer)


def _here(leaf: Any, layer: int | None) -> jax.Array | np.ndarray:
  """A parameter, or a layer of it; gathered from the processes that share it.

  Parts on the devices of one process stay where they are.
  """
  if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
    everywhere = jax.sharding.NamedSharding(
      leaf.sharding.mesh, jax.sharding.PartitionSpec()
    )
    whole = _gather(everywhere)(leaf, layer)
    # Or processes that do not write would run ahead, with many of them.
    return whole.block_until_ready().addressable_data(0)
  return leaf if layer is None else leaf[layer]


@functools.cache
def _gather(to: jax.sharding.Sharding):
  """Brings an array, or a layer of a stack, to every process."""
  pick = lambda x, i: jax.lax.dynamic_index_in_dim(x, i, keepdims=False)
  return jax.jit(lambda x, i: x if i is None else pick(x, i), out_shardings=to)


def _entry(
  array: Any, place: weights.Place, dtype: np.dtype, name: str
) -> np.ndarray:
  """One tensor of a checkpoint, put together from the parts of devices."""
  tensor = np.empty(place.shape, dtype)
  entry = weights.to_leaf(tensor, place)  # the same memory, as a parameter
  for index, part in _parts(array):
    entry[index] = _cast(part, dtype, name)
  return tensor


def _parts(x: Any) -> Iterator[tuple[Any, np.ndarray]]:
  """Yields every part of an array once, and where it belongs."""
  if not isinstance(x, jax.Array):
    yield ..., np.asarray(x)
    return
  for shard in x.addressable_shards:
    if shard.replica_id == 0:
      # JAX keeps what it brings to the host with the array that was asked.
      yield shard.index, np.asarray(jnp.copy(shard.data))


def _cast(array: np.ndarray, dtype: np.dtype, name: str) -> np.ndarray:
  """Casts; raises where a finite value becomes infinite."""
  if array.dtype == dtype:
    return array
  with np.errstate(over='ignore'):
    cast = array.astype(dtype)
  lost = np.isinf(cast)
  if lost.any() and np.isfinite(array[lost]).any():
    most = np.abs(array[np.isfinite(array)]).max()
    raise UserError(
      f'{name} has values up to {most:g}, too large for {dtype.name}. Save '
      "with dtype='float32' or 'bfloat16'."
    )
  return cast


def _state_dtype(folder: pathlib.Path, headers, dtype: str) -> None:
  """Writes the new dtype into the config and the index of a folder."""
  config = workdir_lib.read_object(folder / hub_config.FILE)
  fields = ('torch_dtype', 'dtype')  # transformers 5 has the new name
  for part in (config, *config.values()):
    if isinstance(part, dict):
      part |= {field: dtype for field in fields if field in part}
  if not any(field in config for field in fields):
    config['torch_dtype'] = dtype  # all versions read it
  _write_json(folder / hub_config.FILE, config)
  if (folder / files_lib.INDEX).exists():
    index = workdir_lib.read_object(folder / files_lib.INDEX)
    size = sum(map(files_lib.data_size, headers))
    index['metadata'] = dict(index.get('metadata', {}), total_size=size)
    _write_json(folder / files_lib.INDEX, index)


def _write_json(file: pathlib.Path, content: dict[str, Any]) -> None:
  """Writes JSON as transformers does."""
  text = workdir_lib.to_json(content, indent=2, ensure_ascii=False) + '\n'
  workdir_lib.write_text(file, text)
