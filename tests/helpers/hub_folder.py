"""Tiny checkpoints in the Hugging Face format, as their writers make them.

Names and shapes are in ``families``; no tensor holds a zero.
"""

import json
import pathlib

import families
import ml_dtypes
import numpy as np
import paths
from safetensors import numpy as safetensors_numpy

from mmu_jax.models.hub import weights

DTYPES = {
  'float32': np.dtype(np.float32),
  'float16': np.dtype(np.float16),
  'bfloat16': np.dtype(ml_dtypes.bfloat16),
}
FAMILIES = tuple(families.CASES)


def config(family: str, **changes) -> dict:
  """A ``config.json``; a change that is a dict changes those fields of it."""
  made = dict(families.CASES[family].hub_config)
  for field, value in changes.items():
    inner = isinstance(value, dict) and field in made
    made[field] = dict(made[field], **value) if inner else value
  return made


def shapes(family: str, *, tied: bool = False) -> dict[str, tuple[int, ...]]:
  """Hub name -> shape of every tensor."""
  return families.CASES[family].shapes(tied)


def renamed(name: str, family: str, writer: str) -> str:
  """The name that a writer has for a tensor: 'hub', '4.52' or '5'."""
  if writer == 'hub':
    return name
  return families.CASES[family].renamed(name, writer)


def tensors(
  family: str, seed: int, dtype: str = 'float32', *, tied: bool = False
) -> dict[str, np.ndarray]:
  """Random tensors by hub name, with the values that a careless copy loses."""
  rng = np.random.default_rng(seed)
  return {
    name: plant(rng.normal(size=shape), DTYPES[dtype], rng)
    for name, shape in shapes(family, tied=tied).items()
  }


def plant(x, dtype: np.dtype, rng) -> np.ndarray:
  """Casts, and puts -0.0, subnormal and greatest numbers at random places."""
  x, info = x.astype(dtype), ml_dtypes.finfo(dtype)
  tiny, most = float(info.smallest_subnormal), float(info.max)
  fragile = np.array([-0.0, tiny, -3 * tiny, most, -most]).astype(dtype)
  x.flat[rng.choice(x.size, len(fragile), replace=False)] = fragile
  return x


def write(
  folder: pathlib.Path,
  family: str,
  arrays: dict[str, np.ndarray],
  *,
  writer: str = 'hub',
  shards: int = 1,
  **changes,
) -> pathlib.Path:
  """Writes a checkpoint folder; ``changes`` are those of ``config``."""
  folder.mkdir(parents=True)
  said = json.dumps(config(family, **changes), indent=1)
  (folder / 'config.json').write_text(said)
  arrays = {renamed(k, family, writer): v for k, v in arrays.items()}
  weight_map = _write_shards(folder, arrays, shards)
  if shards > 1:
    size = sum(x.nbytes for x in arrays.values())
    index = {'metadata': {'total_size': size}, 'weight_map': weight_map}
    (folder / 'model.safetensors.index.json').write_text(json.dumps(index))
  return folder


def read(folder: pathlib.Path) -> dict[str, np.ndarray]:
  """All tensors of a folder, by their names in the files."""
  found = {}
  for file in sorted(folder.glob('*.safetensors')):
    found |= safetensors_numpy.load_file(file)
  return found


def content(folder: pathlib.Path) -> dict[str, bytes]:
  """File name -> bytes."""
  return {file.name: file.read_bytes() for file in folder.iterdir()}


def to_file(entry: np.ndarray, place: weights.Place) -> np.ndarray:
  """From the layout of a parameter to that of the file, contiguous."""
  entry = entry.T if place.transposed else entry
  return np.ascontiguousarray(entry).reshape(place.shape)


def reference() -> pathlib.Path:
  """Configs and weight names of the published models, if they are here."""
  return paths.REFERENCE / 'hub'


def _write_shards(folder, arrays, shards) -> dict[str, str]:
  """Writes the tensors in turn to one file or several; tensor -> file."""
  files = [
    f'model-{i + 1:05}-of-{shards:05}.safetensors' for i in range(shards)
  ]
  if shards == 1:
    files = ['model.safetensors']
  weight_map = {name: files[i % shards] for i, name in enumerate(arrays)}
  for file in files:
    part = {k: v for k, v in arrays.items() if weight_map[k] == file}
    safetensors_numpy.save_file(part, folder / file, {'format': 'pt'})
  return weight_map
