"""The arrays of the published code, in our words: batches, trees, configs.

What the files hold is in ``official/README.md``. Trees are compared with the
names and layouts of the files, through the table that reads checkpoints.
"""

import functools
import json
import pathlib
import tempfile
from typing import NamedTuple

import hub_folder
import jax
import jax.numpy as jnp
import numpy as np
import paths
from safetensors import numpy as safetensors

from mmu_jax import checkpoint
from mmu_jax import masks
from mmu_jax import models
from mmu_jax import recipes
from mmu_jax import saliency as saliency_lib
from mmu_jax import sharding
from mmu_jax import tree as tree_lib
from mmu_jax.models.hub import weights
from mmu_jax.settings import table
from mmu_jax.stages import job as job_lib
from mmu_jax.stages import masking
from mmu_jax.stages.budgets import mask_specs as specs
from mmu_jax.stages.masking import importances

FOLDER = paths.GOLDEN / 'official' / 'llava'
IMAGE_TOKEN, PAD_TOKEN = 100, 0
ROWS, LENGTH = 4, 28  # of the largest batch, and a little more
FORGET = ('forget_0', 'forget_1', 'forget_2')
RETAIN = tuple(f'retain_{i}' for i in range(7))
# Pictures and text in one preserve set, as the published loader mixed them.
RETAIN_AND_TEXT = ('text_0', *RETAIN[:4], 'mixed_0', 'text_1', *RETAIN[4:])
SETS = {  # by the names that the config has for them
  'forget': FORGET,
  'retain_vqa': RETAIN,
  'retain_vqa_and_text': RETAIN_AND_TEXT,
}
META = json.loads((FOLDER / 'meta.json').read_text())


@functools.cache
def model() -> models.Model:
  """The LLaVA that the published code was run with, and its parameters."""
  return models.load(FOLDER / 'ckpt')


@functools.cache
def _arrays(name):
  with np.load(FOLDER / name) as file:
    return dict(file)


def forward_arrays():
  """Logits and image features that the published model gave."""
  return _arrays('forward.npz')


def batch(name, labels='labels', *, padded=True):
  """One of the published batches.

  Args:
    name: 'forget_0', ...
    labels: 'labels' (every token of the row), 'labels_ans' (the answer) or
      'labels_noimg' (every token but those of images).
    padded: to the size of the largest, so that few programs are compiled. No
      loss sees that but the published KL.
  """
  files = _arrays('batches.npz')
  field = lambda f: files.get(f'{name}__{f}')
  tokens, real = field('input_ids'), field('attention_mask')
  rows, length = tokens.shape
  is_image = tokens == IMAGE_TOKEN
  slots = np.where(is_image, np.cumsum(is_image, axis=1) - 1, -1)
  pixels = field('pixel_values')
  pictures = np.zeros((rows, int(pixels is not None), 3, 30, 30))
  if pixels is not None:  # one for each row that has image tokens
    pictures[is_image.any(1), 0] = pixels
  shift = lambda x, end: np.pad(x[:, 1:], ((0, 0), (0, 1)), constant_values=end)
  made = {
    'tokens': tokens.astype(np.int32),
    'positions': np.tile(np.arange(length, dtype=np.int32), (rows, 1)),
    'documents': real.astype(np.int32),
    'branches': np.zeros((rows, length), np.int32),
    'image_slots': slots.astype(np.int32),
    'pixel_values': pictures.astype(np.float32),
    'targets': shift(tokens, 0).astype(np.int32),
    'weights': (shift(field(labels), -100) != -100).astype(np.float32),
  }
  return _pad(made, ROWS - rows, LENGTH - length) if padded else made


def _pad(made, rows, columns):
  """Appends rows and columns of nothing."""
  grow = lambda x, n: ((0, rows), (0, n)) + ((0, 0),) * (x.ndim - 2)
  return {
    name: np.pad(
      x,
      grow(x, 0 if name == 'pixel_values' else columns),
      constant_values=-1 if name == 'image_slots' else 0,
    )
    for name, x in made.items()
  }


def stream(names, **options):
  """``stream(step) -> Batch`` over published batches, again and again."""
  return lambda step: batch(names[step % len(names)], **options)


def is_noise(name):
  """Whether a tensor's gradient is 0 but for rounding: see softmax."""
  return name.startswith('vision_tower') and name.endswith('k_proj.bias')


class Entry(NamedTuple):
  """A part of a leaf that is one tensor of the files."""

  name: str
  got: np.ndarray
  want: np.ndarray


def entries(tree, file):
  """Yields our values beside those of a file, in the layout of the file.

  Tensors that the file lacks are left out: the published code had no gradient
  there.
  """
  want = safetensors.load_file(FOLDER / f'{file}.safetensors')
  got = tensors(tree)
  assert set(want) <= set(got)
  for name in want:
    yield Entry(name, got[name], want[name])


def tensors(tree):
  """A tree like the parameters as hub name -> array."""
  leaves = tree_lib.flatten(tree)
  found = {}
  for name, place in weights.table(model()).places.items():
    leaf = np.asarray(leaves[place.leaf])
    entry = leaf if place.layer is None else leaf[place.layer]
    found[name] = hub_folder.to_file(entry, place)
  return found


def params_of(file):
  """The parameters of a file."""
  found = safetensors.load_file(FOLDER / f'{file}.safetensors')
  places = weights.table(model()).places
  made = {}
  for leaf, names in weights.by_leaf(places).items():
    parts = [weights.to_leaf(found[n], places[n]) for n in names]
    stacked = places[names[0]].layer is not None
    made[leaf] = jnp.asarray(np.stack(parts) if stacked else parts[0])
  return tree_lib.map_with_name(lambda name, _: made[name], model().params)


def config(benchmark='clear', *, forget=3, retain=7, masked=''):
  """The choice ``paper_exact``, at the sizes and rate of the golden runs."""
  made = recipes.load('people:paper_exact')
  recipes.paper_exact(
    made,
    benchmark,
    forget_batches=forget,
    retain_batches=retain,
    rate=1e-3,
    masked=masked,
  )
  return made


@functools.cache
def importance(names):
  """The importance over published batches at the published weights."""
  return saliency_lib.importance(
    importances._loss(model().forward),  # pylint: disable=protected-access
    model().params,
    map(batch, names),
    granularity=config().saliency.granularity,
  )


def mask(saliency=None):
  """The mask that a job makes of the published batches, and its ties.

  The importances are written into a workdir, as the stage that measures them
  writes them, and the mask is made as every job makes it.

  Args:
    saliency: instead of the choice's ``config.saliency``.
  """
  chosen = config().saliency if saliency is None else saliency
  return _mask(json.dumps({'saliency': chosen.to_dict()}))


@functools.cache
def _mask(settings):
  """The mask of settings in JSON, made once."""
  chosen = job_lib.Config(table.restored(json.loads(settings))).saliency
  with tempfile.TemporaryDirectory() as folder:
    opened = job(pathlib.Path(folder), chosen)
    with jax.set_mesh(opened.mesh):
      for name in (saliency_lib.FORGET, *opened.config.saliency.preserve):
        batches = SETS[name]
        which = specs.Importance(name, ())
        importances.save_importance(
          opened, which, importance(batches), len(batches)
        )
      packed = masking.mask(opened, 'saliency')
    note = checkpoint.read_note(opened.folder / 'mask' / 'saliency')
  return masks.unpack(packed, model().params), note['ties']


def job(folder, saliency=None):
  """A job that has this model, and no data, in a folder."""
  made = config()
  if saliency is not None:
    made.saliency = saliency
  return job_lib.Job(
    config=made,
    folder=folder,
    data=None,
    encoder=None,
    scorer=None,
    model=model(),
    groups=made.groups,
    validation=False,
    unlearned=folder,
    mesh=sharding.make_mesh(''),
  )
