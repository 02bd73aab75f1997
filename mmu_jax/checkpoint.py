"""Save and restore any pytree with a JSON note. The only import of Orbax."""

from collections.abc import Mapping
import json
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from mmu_jax import tree as tree_lib

Tree = Any


class Restored(NamedTuple):
  """What ``restore`` returns."""

  tree: Tree
  note: dict[str, Any]
  step: int


class Series:
  """The checkpoints of one run: numbered steps in a folder, newest kept.

  A checkpoint is written beside its final name and renamed when it is whole,
  so a process that is killed leaves the earlier ones as they were.

  Example:
    >>> import tempfile, jax.numpy as jnp
    >>> folder = tempfile.mkdtemp()
    >>> with Series(folder) as series:
    ...   series.save(3, {'w': jnp.arange(2.)}, {'loss': 0.5})
    >>> restored = restore(folder, like={'w': jnp.zeros(2)})
    >>> restored.step, restored.note, restored.tree
    (3, {'loss': 0.5}, {'w': Array([0., 1.], dtype=float32)})
  """

  def __init__(self, folder: str | pathlib.Path, *, keep: int = 1):
    """Opens a folder, which is made if it is missing.

    Args:
      folder: where the steps go.
      keep: how many of the newest steps to keep, >= 1.
    """
    self._folder = pathlib.Path(folder).absolute()
    self._manager = _manager(
        self._folder, ocp.CheckpointManagerOptions(max_to_keep=keep)
    )

  def __enter__(self) -> 'Series':
    return self

  def __exit__(self, *error) -> None:
    self._manager.close()  # waits for what is still being written

  def save(self, step: int, tree: Tree, note: Mapping[str, Any]) -> None:
    """Starts to write a step; the arrays may be used and donated at once.

    Args:
      step: its number, larger than those before.
      tree: pytree of arrays.
      note: what belongs to it, as JSON.
    """
    self._manager.save(
        step,
        args=ocp.args.Composite(
            tree=ocp.args.StandardSave(tree),
            note=ocp.args.JsonSave(dict(note)),
        ),
        force=True,
    )


def latest_step(folder: str | pathlib.Path) -> int | None:
  """Returns the newest whole step in a folder, None if there is none."""
  folder = pathlib.Path(folder)
  if not folder.is_dir():
    return None
  steps = [int(p.name) for p in folder.iterdir() if p.name.isdigit()]
  return max(steps, default=None)


def save(folder: str | pathlib.Path, tree: Tree, note: Mapping[str, Any]):
  """Saves one tree, waits until it is on disk, and puts its note beside it.

  Args:
    folder: where; an earlier tree there is replaced.
    tree: pytree of arrays.
    note: JSON, also written to ``note.json`` for people and plots.
  """
  folder = pathlib.Path(folder)
  step = latest_step(folder)
  folder.mkdir(parents=True, exist_ok=True)
  # First, for a step on disk tells the stages that all is there.
  (folder / 'note.json').write_text(json.dumps(note, indent=2) + '\n')
  with Series(folder) as series:
    series.save(0 if step is None else step + 1, tree, note)


def read_note(folder: str | pathlib.Path) -> dict[str, Any]:
  """Returns the note that ``save`` put beside a tree.

  Raises:
    FileNotFoundError: if there is none.
  """
  path = pathlib.Path(folder) / 'note.json'
  if not path.exists():
    raise FileNotFoundError(
        f'{folder} holds no finished tree with a note. Run the stage that '
        'writes it, or give another folder.'
    )
  return json.loads(path.read_text())


def restore(
    folder: str | pathlib.Path, like: Tree, *, step: int | None = None
) -> Restored:
  """Restores a tree, with the shapes, dtypes and shardings of another.

  Args:
    folder: what ``save`` or a ``Series`` wrote.
    like: pytree of arrays or ``jax.ShapeDtypeStruct``.
    step: which one; None for the newest.

  Raises:
    FileNotFoundError: if there is no checkpoint.
    ValueError: if it holds another tree, or cannot be read.
  """
  folder = pathlib.Path(folder).absolute()
  step = latest_step(folder) if step is None else step
  if step is None or not (folder / str(step)).is_dir():
    raise FileNotFoundError(
        f'there is no checkpoint in {folder} (step {step}). Run the stage '
        'that writes it, or give another folder.'
    )
  like = jax.tree.map(_abstract, like)
  with _manager(folder) as manager:
    _check_tree(manager, step, like, folder)
    try:
      found = manager.restore(
          step,
          args=ocp.args.Composite(
              tree=ocp.args.StandardRestore(like),
              note=ocp.args.JsonRestore(),
          ),
      )
    except (ValueError, OSError, KeyError) as error:
      raise ValueError(
          f'the checkpoint {folder / str(step)} is damaged and cannot be '
          'read. Delete this step to go back to the one before, or run the '
          f'stage again. Orbax says: {error}'
      ) from error
  tree = jax.tree.map(_free, found['tree'], like)
  return Restored(tree, found['note'], step)


def describe(folder: str | pathlib.Path) -> Tree:
  """Returns shapes and dtypes of the newest tree in a folder; reads no array.

  Raises:
    FileNotFoundError: if there is no checkpoint.
    ValueError: if its description cannot be read.
  """
  folder = pathlib.Path(folder).absolute()
  step = latest_step(folder)
  if step is None:
    raise FileNotFoundError(f'there is no checkpoint in {folder}.')
  with _manager(folder) as manager:
    stored = _stored(manager, step, folder)
  return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), stored
  )


def _manager(
    folder: pathlib.Path, options: ocp.CheckpointManagerOptions | None = None
) -> ocp.CheckpointManager:
  """Opens a folder whose steps hold a tree and a note."""
  handlers = {
      'tree': ocp.StandardCheckpointHandler(),
      'note': ocp.JsonCheckpointHandler(),
  }
  return ocp.CheckpointManager(folder, options=options, item_handlers=handlers)


def _check_tree(manager, step: int, like: Tree, folder: pathlib.Path) -> None:
  """Compares the names and shapes on disk with those wanted."""
  tree_lib.check_same(
      tree_lib.flatten(_stored(manager, step, folder)),
      tree_lib.flatten(like),
      got_name=f'the checkpoint {folder / str(step)}',
      want_name='the wanted tree',
  )


def _stored(manager, step: int, folder: pathlib.Path) -> Tree:
  """The description of the arrays of a step."""
  try:
    stored = manager.item_metadata(step)['tree']
  except (ValueError, OSError, KeyError) as error:
    raise ValueError(
        f'the checkpoint {folder / str(step)} is damaged: its description '
        f'cannot be read. Delete this step. Orbax says: {error}'
    ) from error
  if stored is None:
    raise ValueError(
        f'the checkpoint {folder / str(step)} is damaged: it has no '
        'description of its arrays. Delete this step.'
    )
  return getattr(stored, 'tree', stored)


def _free(x: jax.Array, like: jax.ShapeDtypeStruct) -> jax.Array:
  """Unties an array from its device, if no sharding was wanted.

  Beside tied arrays, new ones (optimizer states) become tied in the first step
  of a run, and the second step compiles everything again.
  """
  return x if like.sharding is not None else jnp.array(np.asarray(x))


def _abstract(x: Any) -> jax.ShapeDtypeStruct:
  """The shape, dtype and sharding of an array."""
  if isinstance(x, jax.Array):
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
  if isinstance(x, jax.ShapeDtypeStruct):
    return x
  x = np.asarray(x)
  return jax.ShapeDtypeStruct(x.shape, x.dtype)
