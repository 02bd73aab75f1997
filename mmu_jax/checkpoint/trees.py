"""Save and restore any pytree with a JSON note. The only import of Orbax.

A step is a folder: the arrays as Orbax writes them, the note, and checksums of
all of it. It is written beside its final name and renamed when it is whole. In
a job of several processes with a shared file system every function is called
by all of them; each writes the parts of the arrays that it holds.
"""

from collections.abc import Mapping
import contextlib
import dataclasses
import functools
import json
import logging
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from mmu_jax import distributed
from mmu_jax import tree as tree_lib
from mmu_jax import workdir as workdir_lib
from mmu_jax.checkpoint import digests
from mmu_jax.checkpoint import steps as step_folders
from mmu_jax.errors import UserError

Tree = Any
Folder = str | pathlib.Path
# Whatever Orbax logs with a traceback, several times over, it raises as well.
logging.getLogger('absl').addFilter(
  lambda record: not (record.exc_info and 'orbax' in record.pathname)
)
TIMES = '_CHECKPOINT_METADATA'  # Orbax writes it last, and nothing reads it
FAILURES = (OSError, ValueError, RuntimeError)  # so Orbax says 'disk full'
SECONDS = 3600  # a save that takes longer has failed


class Restored(NamedTuple):
  """What ``restore`` returns."""

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
    """Opens a folder, made if it is missing, and clears what is half.

    Args:
      folder: where the steps go.
      keep_last: how many of the newest steps to keep, >= 1. Another one is
        there while a step is being written.
      keep_every: steps that this number divides are kept for good; 0: none.

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
    self._handler = _Handler()
    self._writer = ocp.AsyncCheckpointer(self._handler, timeout_secs=SECONDS)
    self._step = None  # that is being written, or the last one

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

    Waits for the step before it. One of this number that is there already is
    replaced.

    Args:
      step: its number, >= 0.
      tree: pytree of arrays. In several processes: of arrays on a mesh of all
        of them, and NumPy arrays, of which the first process writes its own.
      note: what belongs to it, as JSON.

    Raises:
      OSError: if this step or the one before it cannot be written: the disk
        is full, say. Says what is still there.
      ValueError: if an array belongs to one of several processes.
    """
    note = json.loads(json.dumps(dict(note)))  # raises here, not in a thread
    _check_global(tree)
    self.wait()
    self._step = step
    path = self._folder / str(step)
    try:
      self._writer.save(path, args=_Save(tree, note), force=True)
    except OSError as error:
      raise step_folders.failed(self._folder, error) from error

  def wait(self) -> None:
    """Returns when the last step is on disk; older ones are deleted then.

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
    except FAILURES as error:
      raise step_folders.failed(self._folder, error) from error

  def _settle(self) -> None:
    """In the first process: deletes what is old, or what has failed."""
    for error in self._handler.errors:
      step_folders.delete(self._folder / str(self._step))
      raise step_folders.failed(self._folder, error) from error
    step_folders.delete_old(self._folder, *self._keep)


def latest_step(folder: Folder) -> int | None:
  """Returns the newest whole step in a folder, None if there is none.

  The first process looks, so that all go the same way.
  """
  return max(step_folders.steps(pathlib.Path(folder)), default=None)


def save(folder: Folder, tree: Tree, note: Mapping[str, Any]) -> None:
  """Saves one tree, waits until it is on disk, and puts its note beside it.

  Args:
    folder: where; an earlier tree there is replaced when the new one is whole.
    tree: pytree of arrays, see ``Series.save``.
    note: JSON, also written to ``note.json`` for people and plots.

  Raises:
    OSError: if it cannot be written.
  """
  step = latest_step(folder)
  with Series(folder, keep_last=1) as series:
    # First, for a step on disk tells the stages that all is there.
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

  Every byte is compared with its checksum before. If the newest step is
  damaged, the one before it is restored with a warning, and the damaged one is
  renamed, so that it is not in the way.

  Args:
    folder: what ``save`` or a ``Series`` wrote.
    like: pytree of arrays or ``jax.ShapeDtypeStruct``. Where it has shardings
      the arrays go there, whatever mesh they were saved from; where not, they
      are on the default device of each process, and not tied to it.
    step: this one and no other; None for the newest.

  Raises:
    FileNotFoundError: if there is no checkpoint.
    ValueError: if it holds another tree, or none that is left is whole.
  """
  folder = pathlib.Path(folder).absolute()
  step = step_folders.whole_step(folder, step)
  like = jax.tree.map(_abstract, like)
  _check_tree(folder / str(step), like)
  return Restored(
    _read(folder / str(step), like),
    workdir_lib.read_json(folder / str(step) / step_folders.NOTE),
    step,
  )


def restore_leaf(folder: Folder, name: str, like: Any) -> jax.Array:
  """Restores one leaf of the newest tree; the others stay on disk.

  For work on trees that are too large to be there as a whole. The first call
  in a process reads all files once, to compare them with their checksums.

  Args:
    folder: what ``save`` or a ``Series`` wrote.
    name: path of the leaf, ``'language_model/layers/mlp/up_proj/kernel'``.
    like: array or ``jax.ShapeDtypeStruct``, with the place where it goes.

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
  _check_once(folder / str(step), step_folders.time_of(folder / str(step)))
  stored = _stored(folder / str(step))
  found = tree_lib.flatten(stored).get(name)
  if found is None or tuple(found.shape) != tuple(like.shape):
    shape = 'no such leaf' if found is None else f'one of shape {found.shape}'
    raise UserError(
      f'the tree in {folder} must have a leaf {name!r} of shape '
      f'{tuple(like.shape)}; it has {shape}. Was it made for another model?'
    )
  like = _abstract(like)
  only = tree_lib.map_with_name(
    lambda n, _: like if n == name else ocp.PLACEHOLDER, stored
  )
  return tree_lib.flatten(_read(folder / str(step), only))[name]


def describe(folder: Folder) -> Tree:
  """Returns shapes and dtypes of the newest tree in a folder; reads no array.

  Raises:
    FileNotFoundError: if there is no checkpoint.
    ValueError: if its description cannot be read.
  """
  folder = pathlib.Path(folder).absolute()
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype),
    _stored(folder / str(step_folders.newest(folder))),
  )


class _Handler(ocp.PyTreeCheckpointHandler):
  """Writes arrays as Orbax does, a note, and at last the checksums.

  All of it is there before the step gets its name. In a job of several
  processes an error is kept until all have come together: Orbax would let the
  others wait for the one that has failed.
  """

  def __init__(self):
    # Compression saves 8 % of float32 weights, and takes more than twice the
    # time to save and to restore them.
    super().__init__(use_compression=False)
    self.errors = []

  async def async_save(self, directory, args):
    started = await super().async_save(
      directory, args=ocp.args.PyTreeSave(args.tree)
    )
    self.errors = []
    folder = pathlib.Path(directory)
    return [_Written(started or [], folder, args.note, self.errors)]

  def finalize(self, directory) -> None:
    """Runs in the first process, when all have written.

    After an error that is kept, Orbax gives the folder its number all the same.
    """
    folder = pathlib.Path(directory)
    with _kept(self.errors):
      if not self.errors:
        step_folders.check_parts(folder)
        super().finalize(directory)
        digests.write(folder, lambda file: file.name != TIMES)
    if self.errors:
      step_folders.give_up(folder)


@ocp.args.register_with_handler(_Handler, for_save=True, for_restore=True)
@dataclasses.dataclass
class _Save(ocp.args.CheckpointArgs):
  """What a handler writes."""

  tree: Tree
  note: dict[str, Any]


@dataclasses.dataclass(frozen=True)  # Orbax would take a tuple apart
class _Written:
  """Done when a process has written its files and summed them up.

  Orbax waits for it in a thread of its own. So every process reads what it
  wrote itself, and none reads all.
  """

  started: list[Any]
  folder: pathlib.Path
  note: dict[str, Any]
  errors: list[Exception]

  def result(self, timeout=None) -> None:
    with _kept(self.errors):
      for each in self.started:
        each.result(timeout)
      index = jax.process_index()
      if index == 0:
        workdir_lib.write_text(
          self.folder / step_folders.NOTE, json.dumps(self.note)
        )
      mine = f'{step_folders.PART}{index}'
      digests.write(
        self.folder,
        lambda file: file.parts[0] == mine,
        f'{digests.NAME}.{index}',
      )

  def cancel(self) -> None:
    for each in self.started:
      each.cancel()


@contextlib.contextmanager
def _kept(errors: list[Exception]):
  """Keeps an error of writing for later, where there are several processes."""
  try:
    yield
  except FAILURES as error:
    if jax.process_count() == 1:
      raise
    errors.append(error)


@functools.cache
def _check_once(path: pathlib.Path, made: int) -> None:
  """Raises if a step, made at this time, is damaged."""
  del made
  step_folders.whole_step(path.parent, int(path.name))


def _read(path: pathlib.Path, like: Tree) -> Tree:
  """Reads the arrays of a step that ``like`` has; others are placeholders."""
  where = jax.tree.map(_where, like)
  try:
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
      found = reader.restore(
        path, args=ocp.args.PyTreeRestore(item=like, restore_args=where)
      )
  except (ValueError, OSError, KeyError) as error:
    raise UserError(
      f'the checkpoint {path} cannot be read. Delete this step to go back '
      f'to the one before, or run the stage again. Orbax says: {error}'
    ) from error
  # New arrays that are not tied to a device: beside tied ones, they would
  # become tied in the first step of a run, and the second step would be
  # compiled again.
  return jax.tree.map(
    lambda x: jnp.array(x) if isinstance(x, np.ndarray) else x, found
  )


def _where(like: Any) -> Any:
  """How Orbax is told where an array goes."""
  if like is ocp.PLACEHOLDER:
    return like
  if like.sharding is None:
    return ocp.RestoreArgs(restore_type=np.ndarray, dtype=like.dtype)
  return ocp.ArrayRestoreArgs(
    sharding=like.sharding, global_shape=like.shape, dtype=like.dtype
  )


def _stored(path: pathlib.Path) -> Tree:
  """The description of the arrays of a step."""
  try:
    stored = ocp.PyTreeCheckpointHandler().metadata(path)
  except (ValueError, OSError, KeyError) as error:
    raise UserError(
      f'the checkpoint {path} is damaged: its description cannot be read. '
      f'Delete this step. Orbax says: {error}'
    ) from error
  return stored.tree


def _check_tree(path: pathlib.Path, like: Tree) -> None:
  """Compares the names and shapes on disk with those wanted."""
  tree_lib.check_same(
    tree_lib.flatten(_stored(path)),
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
