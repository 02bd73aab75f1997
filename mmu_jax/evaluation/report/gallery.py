"""A few questions with the answers of every model, for people to look at."""

from collections.abc import Mapping, Sequence
import io
import itertools
import pathlib
from typing import Any

import numpy as np

from mmu_jax import workdir as workdir_lib
from mmu_jax.data.dataset import Dataset
from mmu_jax.data.dataset import FORGET
from mmu_jax.data.dataset import Task
from mmu_jax.data.row import GENERATION
from mmu_jax.data.row import Row
from mmu_jax.evaluation.scoring import scores

_PEOPLE = {FORGET: 3}  # split -> people of it in each task; of others two


def pick(tasks: Mapping[str, Task]) -> list[tuple[Task, Row]]:
  """Picks questions of the headline tasks: another fact for each person.

  The choice looks at no answer: it takes the first people of a task.

  Args:
    tasks: tasks by name.
  """
  picked = []
  for task in _shown(tasks):
    rows = [row for row in task.rows if row.task == GENERATION]
    by_subject = [
      list(found)
      for _, found in itertools.groupby(
        rows, key=lambda r: r.person or r.picture_key
      )
    ]
    for i, found in enumerate(by_subject[: _PEOPLE.get(task.split, 2)]):
      picked.append((task, found[i % len(found)]))
  return picked


def save_gallery(
  folder: pathlib.Path,
  runs: Sequence[str],
  data: Dataset,
  *,
  predictions: pathlib.Path,
) -> None:
  """Writes ``gallery.json`` and ``gallery.npz`` from the predictions.

  Args:
    folder: folder of the job.
    runs: names of the models to show.
    data: the dataset that they were asked about.
    predictions: folder with the answers, ``<run>/<task>.jsonl``.
  """
  answers = {
    (run, task.name): {
      answer['key']: answer.get('text', '')
      for answer in scores.read_answers(predictions / run, task, data.tasks)
    }
    for run in runs
    for task in _shown(data.tasks)
  }
  # Rows that stand before the others as shots are not asked themselves.
  answered = lambda task, row: all(row.key in answers[r, task] for r in runs)
  asked = {
    t.name: t._replace(rows=[row for row in t.rows if answered(t.name, row)])
    for t in _shown(data.tasks)
  }
  entries, images = [], {}
  for task, row in pick(asked):
    entry: dict[str, Any] = {
      'person': data.names.get(row.person, ''),
      'group': task.split,
      'role': task.role,
      'question': row.question,
      'answer': row.answer,
      'answers': {run: answers[run, task.name][row.key] for run in runs},
    }
    if row.picture is not None:
      entry['image'] = f'img_{len(images)}'
      images[entry['image']] = np.asarray(row.picture.image)
    entries.append(entry)
  buffer = io.BytesIO()
  np.savez(buffer, **images)
  workdir_lib.write_bytes(folder / 'gallery.npz', buffer.getvalue())
  workdir_lib.write_json(folder / 'gallery.json', entries)


def _shown(tasks: Mapping[str, Task]) -> list[Task]:
  """The tasks that stand for the rest."""
  return [t for t in tasks.values() if t.headline and t.reported]
