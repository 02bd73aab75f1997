"""The shapes of a batch, without data."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mmu_jax.models import LlavaConfig
from mmu_jax.models import Model
from mmu_jax.typing import Batch

TEXT = 64  # tokens of a question and its answer, where no data says it
PATCHES = 1024  # of a picture of Qwen2-VL: 448 x 448 pixels


class Rows(NamedTuple):
  """The rows of a batch.

  Attributes:
    rows: B, of the whole batch.
    length: L, tokens of a row.
    room: of each row: I pictures (LLaVA) or N patches (Qwen2-VL); 0 for text.
  """

  rows: int
  length: int
  room: int


def image_tokens(config: Any, room: int = 1) -> int:
  """Returns how many tokens of a row stand for its pictures.

  Args:
    config: of the model.
    room: pictures (LLaVA) or patches (Qwen2-VL) of a row.

  Example:
    >>> image_tokens(LlavaConfig())
    576
  """
  if isinstance(config, LlavaConfig):
    return room * config.num_image_tokens
  return room // config.vision_config.spatial_merge_size**2


def batch(model: Model, rows: Rows) -> Batch:
  """Returns a batch as abstract arrays.

  Args:
    model: for the form of its pictures.
    rows: how many, and how long.
  """
  flat = (rows.rows, rows.length)
  ints = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.int32)
  floats = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
  made = {
    name: ints(*flat)
    for name in (
      'tokens',
      'positions',
      'documents',
      'branches',
      'image_slots',
      'targets',
    )
  } | {'weights': floats(*flat)}
  vision = model.config.vision_config
  if isinstance(model.config, LlavaConfig):
    size = vision.image_size
    pixels = floats(rows.rows, rows.room, 3, size, size)
    return made | {'pixel_values': pixels}
  return made | {
    'positions': ints(*flat, 3),
    'pixel_values': floats(rows.rows, rows.room, vision.patch_dim),
    'patch_images': ints(rows.rows, rows.room),
    'patch_positions': ints(rows.rows, rows.room, 2),
  }


def of(made: Batch) -> Rows:
  """Returns the rows of a batch of arrays."""
  rows, length = made['tokens'].shape
  return Rows(rows, length, made['pixel_values'].shape[1])


def num_bytes(tree: Any) -> int:
  """Returns the bytes of a tree of arrays or shapes, on no mesh."""
  return sum(
    int(np.prod(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree)
  )
