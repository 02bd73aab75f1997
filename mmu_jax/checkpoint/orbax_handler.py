"""The arrays of a step as Orbax writes and reads them; the one use of Orbax.

A step is written beside its final name: the arrays, then the note, and at last
the checksums. Each of several processes writes the parts of the arrays that it
holds.
"""

import contextlib
import dataclasses
import logging
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from mmu_jax import workdir as workdir_lib
from mmu_jax.checkpoint import digests
from mmu_jax.checkpoint import steps as step_folders
from mmu_jax.errors import UserError

# Orbax logs every error with a traceback, several times over, and raises it.
logging.getLogger('absl').addFilter(
  lambda record: not (record.exc_info and 'orbax' in record.pathname)
)
FAILURES = (OSError, ValueError, RuntimeError)  # so Orbax says 'disk full'
LEFT_OUT = ocp.PLACEHOLDER  # stands for a leaf that is not read
_TIMES = '_CHECKPOINT_METADATA'  # Orbax writes it last, and nothing reads it
_SECONDS = 3600  # a save that takes longer has failed


class Handler(ocp.PyTreeCheckpointHandler):
  """Writes the arrays, the note, and at last the checksums of a step.

  The step gets its name only when all of them are on disk. In a job of several
  processes an error is kept until all have come together: Orbax would let the
  others wait for the one that has failed.

  Attributes:
    errors: the errors of this process in the last step.
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
        digests.write_digests(folder, lambda file: file.name != _TIMES)
    if self.errors:
      step_folders.give_up(folder)


@ocp.args.register_with_handler(Handler, for_save=True, for_restore=True)
@dataclasses.dataclass
class Save(ocp.args.CheckpointArgs):
  """The tree and the note that a handler writes."""

  tree: Any
  note: dict[str, Any]


@dataclasses.dataclass(frozen=True)  # Orbax would take a tuple apart
class _Written:
  """Done when a process has written its files and summed them up.

  Orbax waits for it in a thread of its own. So every process reads its own
  files again, and none reads all.
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
          self.folder / step_folders.NOTE, workdir_lib.to_json(self.note)
        )
      mine = f'{step_folders.PART}{index}'
      digests.write_digests(
        self.folder,
        lambda file: file.parts[0] == mine,
        f'{digests.NAME}.{index}',
      )

  def cancel(self) -> None:
    for each in self.started:
      each.cancel()


def open_writer(handler: Handler) -> ocp.AsyncCheckpointer:
  """Returns a writer that goes on while the arrays are used."""
  return ocp.AsyncCheckpointer(handler, timeout_secs=_SECONDS)


def read_arrays(path: pathlib.Path, like: Any) -> Any:
  """Reads the arrays of a step, each as ``like`` says, or ``LEFT_OUT``."""
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


def describe_arrays(path: pathlib.Path) -> Any:
  """Returns the names, shapes and dtypes of the arrays of a step."""
  try:
    stored = ocp.PyTreeCheckpointHandler().metadata(path)
  except (ValueError, OSError, KeyError) as error:
    raise UserError(
      f'the checkpoint {path} is damaged: its description cannot be read. '
      f'Delete this step. Orbax says: {error}'
    ) from error
  return stored.tree


@contextlib.contextmanager
def _kept(errors: list[Exception]):
  """Keeps an error of writing for later, where there are several processes."""
  try:
    yield
  except FAILURES as error:
    if jax.process_count() == 1:
      raise
    errors.append(error)
