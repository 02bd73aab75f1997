"""What two finished workdirs hold, side by side."""

import json
import pathlib

import jax
import numpy as np

from mmu_jax import checkpoint
from mmu_jax import tree as tree_lib

# Files that say where and when a job ran, and pictures of what others hold.
APART = ('timing.jsonl', 'manifest.json', 'report.html')


def trees(workdir: pathlib.Path) -> dict[str, dict[str, np.ndarray]]:
  """Every final tree (parameters, importances, masks) by its folder."""
  found = {}
  for note in sorted(workdir.rglob('note.json')):
    if checkpoint.latest_step(note.parent) is None:
      continue  # the note of answers
    like = jax.tree.map(_on_host, checkpoint.describe(note.parent))
    made = checkpoint.restore(note.parent, like).tree
    name = str(note.parent.relative_to(workdir))
    found[name] = {k: np.asarray(x) for k, x in tree_lib.flatten(made).items()}
  return found


def _on_host(x):
  """The shape of an array, to be restored on one device."""
  return jax.ShapeDtypeStruct(x.shape, x.dtype)


def texts(workdir: pathlib.Path) -> dict[str, bytes]:
  """The bytes of every JSON file: metrics, predictions, results, notes."""
  return {
    str(path.relative_to(workdir)): path.read_bytes()
    for path in sorted(workdir.rglob('*.json*'))
    if path.name not in APART and not _inside_a_tree(path)
  }


def losses(workdir: pathlib.Path) -> dict[tuple[str, int, str], float]:
  """(run, round, turn) -> loss, of every logged turn."""
  found = {}
  for path in sorted(workdir.rglob('metrics.jsonl')):
    run = str(path.parent.relative_to(workdir))
    for line in path.read_text().splitlines():
      row = json.loads(line)
      if 'loss' in row:
        found[run, row['round'], row['turn']] = row['loss']
  return found


def scores(workdir: pathlib.Path) -> dict[tuple[str, str, str], float]:
  """(run, task, metric) -> value."""
  rows = (workdir / 'results.jsonl').read_text().splitlines()
  return {
    (row['run'], row['task'], row['metric']): row['value']
    for row in map(json.loads, rows)
  }


def _inside_a_tree(path: pathlib.Path) -> bool:
  """Whether a file is a part of a checkpoint: those are compared as trees."""
  return any(part.isdigit() for part in path.parts)
