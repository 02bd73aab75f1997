"""Save and restore any pytree with a JSON note.

A step is a folder: the arrays, the note, and checksums of all of it. It is
written beside its final name and renamed when it is whole. In a job of several
processes, all of them call every function, on a shared file system.
"""

from collections.abc import Mapping
import functools
import json
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np

from mmu_jax import distributed
from mmu_jax import tree as tree_lib
from mmu_jax import workdir as workdir_lib
from mmu_jax.checkpoint import orbax_handler
from mmu_jax.checkpoint import steps as step_folders
from mmu_jax.distributed import locks
from mmu_jax.errors import LostError
from mmu_jax.errors import UserError

Tree = Any
Folder = str | pathlib.Path


class Restored(NamedTuple):
  """A tree, its note, and the number of its step."""

  tree: Tree
  note: dict[str, Any]
  step: int


class Series:
  """The checkpoints of one run: numbered steps in a folder, newest kept.

  A process that is killed leaves the earlier steps as they were.

  Example:
    >>> import tempfile, jax.numpy as jnp
    >>> folder = tempfile.mkdtemp()
    >>> with Series(folder) as series:
    ...   series.save(3, {'w': jnp.arange(2.)}, {'loss': 0.5})
    >>> restored = restore(folder, like={'w': jnp.zeros(2)})
    >>> restored.step, restored.note, restored.tree
    (3, {'loss': 0.5}, {'w': Array([0., 1.], dtype=float32)})
  """

  def __init__(
    self, folder: Folder, *, keep_last: int = 2, keep_every: int = 0
  ):
    """Opens a folder, made if it is missing, and clears half steps.

    Args:
      folder: folder of the steps.
      keep_last: number of newest steps to keep, >= 1. Another one is there
        while a step is being written.
      keep_every: number that divides the steps to keep for good; 0 for none.

    Raises:
      ValueError: if a number is out of its range.
      OSError: if the folder cannot be written to.
    """
    if keep_last < 1 or keep_every < 0:
      raise UserError(
        'checkpoints need keep_last >= 1 and keep_every >= 0 (0: no step is '
        f'kept for good), got {keep_last} and {keep_every}.'
      )
    self._folder = pathlib.Path(folder).absolute()
    self._keep = keep_last, keep_every
    step_folders.open_folder(self._folder)
    self._handler = orbax_handler.Handler()
    self._writer = orbax_handler.open_writer(self._handler)
    self._step = None  # the last one saved; it may still be on its way

  def __enter__(self) -> 'Series':
    return self

  def __exit__(self, kind, error, trace) -> None:
    try:
      if error is None:
        self.wait()
      else:  # perhaps of this process alone: no word with the others
        self._finish()
    except OSError as failed:
      if error is None:
        raise
      error.add_note(str(failed))  # the first error is the one to look at
    finally:
      self._writer.close()

  def save(self, step: int, tree: Tree, note: Mapping[str, Any]) -> None:
    """Starts to write a step; the arrays may be used and donated at once.

    Waits for the step before it. An existing step of this number is replaced.

    Args:
      step: number of the step, >= 0.
      tree: pytree of arrays. In several processes: of arrays on a mesh of all
        of them, and NumPy arrays, of which the first process writes its own.
      note: JSON that belongs to the tree.

    Raises:
      OSError: if this step or the one before it cannot be written: the disk
        is full, say. Says which files are still there.
      ValueError: if an array belongs to one of several processes.
    """
    note = json.loads(
      workdir_lib.to_json(dict(note))
    )  # raises here, not in a thread
    _check_global(tree)
    self.wait()
    self._step = step
    path = self._folder / str(step)
    try:
      self._writer.save(path, args=orbax_handler.Save(tree, note), force=True)
    except OSError as error:
      raise step_folders.failed(self._folder, error) from error

  def wait(self) -> None:
    """Waits until the last step is on disk, and deletes older ones.

    Raises:
      OSError: if it could not be written.
    """
    self._finish()
    try:
      distributed.first(self._settle)
    except OSError as error:
      for mine in [] if distributed.is_first() else self._handler.errors:
        error.add_note(f'process {jax.process_index()}: {mine}')
      raise

  def _finish(self) -> None:
    """Waits for this process's part of the last step."""
    try:
      self._writer.wait_until_finished()
    except LostError:
      raise
    except orbax_handler.FAILURES as error:
      raise step_folders.failed(self._folder, error) from error

  def _settle(self) -> None:
    """In the first process: deletes old steps, or the failed one."""
    locks.check_held(self._folder)
    for error in self._handler.errors:
      step_folders.delete(self._folder / str(self._step))
      raise step_folders.failed(self._folder, error) from error
    workdir_lib.sync(self._folder)  # Orbax renamed the step
    step_folders.delete_old(self._folder, *self._keep)


def latest_step(folder: Folder) -> int | None:
  """Returns the newest whole step in a folder, None if there is none.

  The first process looks, so that all go the same way.
  """
  return max(step_folders.steps(pathlib.Path(folder)), default=None)


def save(folder: Folder, tree: Tree, note: Mapping[str, Any]) -> None:
  """Saves one tree, waits until it is on disk, and puts its note beside it.

  Args:
    folder: folder of the tree; an earlier tree there is replaced when the new
      one is whole.
    tree: pytree of arrays, see ``Series.save``.
    note: JSON, also written to ``note.json`` for people and plots.

  Raises:
    OSError: if it cannot be written.
  """
  step = latest_step(folder)
  with Series(folder, keep_last=1) as series:
    # First, because a step on disk tells the stages that all is there.
    step_folders.write_copy(pathlib.Path(folder), dict(note))
    series.save(0 if step is None else step + 1, tree, note)


def read_note(folder: Folder) -> dict[str, Any]:
  """Returns the note of the newest tree; reads no array.

  Raises:
    FileNotFoundError: if there is none.
  """
  return step_folders.read_note(pathlib.Path(folder))


def restore(folder: Folder, like: Tree, *, step: int | None = None) -> Restored:
  """Restores a tree, with the shapes, dtypes and shardings of another.

  Checkpoints are verified by checksum before use. If the newest step is
  damaged, the previous one is used, with a warning, and the damaged one is
  renamed.

  Args:
    folder: folder that ``save`` or a ``Series`` wrote.
    like: pytree of arrays or ``jax.ShapeDtypeStruct``. Arrays go to its
      shardings, whatever mesh they were saved from; without a sharding they
      are on the default device of each process, and not tied to it.
    step: number of the only step to use; None for the newest.

  Raises:
    FileNotFoundError: if there is no checkpoint.
    ValueError: if it holds another tree, or no step is whole.
  """
  folder = pathlib.Path(folder).absolute()
  step = step_folders.whole_step(folder, step)
  like = jax.tree.map(_abstract, like)
  _check_tree(folder / str(step), like)
  return Restored(
    orbax_handler.read_arrays(folder / str(step), like),
    workdir_lib.read_json(folder / str(step) / step_folders.NOTE),
    step,
  )


def restore_leaf(folder: Folder, name: str, like: Any) -> jax.Array:
  """Restores one leaf of the newest tree; the others stay on disk.

  For trees that are too large for the memory. The first call in a process
  reads all files once, to compare them with their checksums.

  Args:
    folder: folder that ``save`` or a ``Series`` wrote.
    name: path of the leaf, ``'language_model/layers/mlp/up_proj/kernel'``.
    like: array or ``jax.ShapeDtypeStruct``, with the leaf's sharding.

  Raises:
    FileNotFoundError: if there is no checkpoint.
    ValueError: if it has no such leaf, of this shape, or is damaged.

  Example:
    >>> import tempfile, jax.numpy as jnp
    >>> folder = tempfile.mkdtemp()
    >>> save(folder, {'a': {'b': jnp.arange(3), 'c': jnp.ones(2)}}, {})
    >>> restore_leaf(folder, 'a/b', jax.ShapeDtypeStruct((3,), jnp.int32))
    Array([0, 1, 2], dtype=int32)
  """
  folder = pathlib.Path(folder).absolute()
  step = step_folders.newest(folder)
  made = step_folders.time_of(folder / str(step))
  stored = _describe_once(folder / str(step), made)
  found = tree_lib.flatten(stored).get(name)
  if found is None or tuple(found.shape) != tuple(like.shape):
    shape = 'no such leaf' if found is None else f'one of shape {found.shape}'
    raise UserError(
      f'the tree in {folder} must have a leaf {name!r} of shape '
      f'{tuple(like.shape)}; it has {shape}. Was it made for another model?'
    )
  like = _abstract(like)
  only = tree_lib.map_with_name(
    lambda n, _: like if n == name else orbax_handler.LEFT_OUT, stored
  )
  return tree_lib.flatten(orbax_handler.read_arrays(folder / str(step), only))[
    name
  ]


def describe(folder: Folder) -> Tree:
  """Returns shapes and dtypes of the newest tree in a folder; reads no array.

  Raises:
    FileNotFoundError: if there is no checkpoint.
    ValueError: if its description cannot be read.
  """
  folder = pathlib.Path(folder).absolute()
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype),
    orbax_handler.describe_arrays(folder / str(step_folders.newest(folder))),
  )


@functools.cache
def _describe_once(path: pathlib.Path, made: int) -> Tree:
  """Shapes and dtypes of a step, made at this time; raises if damaged."""
  del made
  step_folders.whole_step(path.parent, int(path.name))
  return orbax_handler.describe_arrays(path)


def _check_tree(path: pathlib.Path, like: Tree) -> None:
  """Compares names and shapes on disk with the wanted tree."""
  tree_lib.check_same(
    tree_lib.flatten(orbax_handler.describe_arrays(path)),
    tree_lib.flatten(like),
    got_name=f'the checkpoint {path}',
    want_name='the wanted tree',
  )


def _check_global(tree: Tree) -> None:
  """Raises if an array is on the devices of one of several processes."""
  if jax.process_count() == 1:
    return
  for name, x in tree_lib.flatten(tree).items():
    if isinstance(x, jax.Array) and x.is_fully_addressable:
      raise UserError(
        'in a job of several processes, a checkpoint holds arrays on a mesh '
        f'of all of them; {name!r} is on devices of one alone. Place it on '
        'the mesh, or give np.asarray(x) if every process has the same.'
      )


def _abstract(x: Any) -> jax.ShapeDtypeStruct:
  """The shape, dtype and sharding of an array."""
  if isinstance(x, jax.Array):
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
  if isinstance(x, jax.ShapeDtypeStruct):
    return x
  x = np.asarray(x)
  return jax.ShapeDtypeStruct(x.shape, x.dtype)
