"""A few questions with the answers of every model, for people to look at."""

from collections.abc import Mapping, Sequence
import itertools
import pathlib
from typing import Any

import numpy as np

from mmu_jax import workdir as workdir_lib
from mmu_jax.data.row import GENERATION
from mmu_jax.data.row import Row
from mmu_jax.evaluation.scoring import scores

# task -> the group that the report shows it under, and how many people of it
SHOWN = {
  'forget_vqa_holdout': ('forget', 3),
  'forget_vqa': ('forget', 3),
  'forget_qa': ('forget', 3),
  'retain_vqa': ('retain', 2),
  'real_vqa': ('real', 2),
}


def pick(tasks: Mapping[str, Sequence[Row]]) -> list[tuple[str, str, Row]]:
  """Picks the questions to show: another fact for each person.

  The choice looks at no answer: the first people of a task in their order.

  Returns:
    (task, group, row) of each.
  """
  picked = []
  for task, (group, number) in _shown(tasks).items():
    rows = [r for r in tasks.get(task, ()) if r.task == GENERATION]
    by_subject = {
      subject: list(found)
      for subject, found in itertools.groupby(
        rows, key=lambda r: r.person or r.image_key
      )
    }
    for i, found in enumerate(list(by_subject.values())[:number]):
      picked.append((task, group, found[i % len(found)]))
  return picked


def save(
  folder: pathlib.Path,
  runs: Sequence[str],
  tasks: Mapping[str, Sequence[Row]],
  names: Mapping[str, str],
  *,
  predictions: pathlib.Path,
) -> None:
  """Writes ``gallery.json`` and ``gallery.npz`` from the predictions.

  Args:
    folder: the workdir.
    runs: models to show.
    tasks: rows by task.
    names: person -> the name to show.
    predictions: the folder with the answers, ``<run>/<task>.jsonl``.
  """
  answers = {
    (run, task): {
      answer['key']: answer.get('text', '')
      for answer in scores.read_answers(predictions / run, task)
    }
    for run in runs
    for task in _shown(tasks)
  }
  # Those whose questions stand before the others are not asked themselves.
  asked = {
    task: [
      r for r in tasks[task] if all(r.key in answers[run, task] for run in runs)
    ]
    for task in _shown(tasks)
  }
  entries, images = [], {}
  for task, group, row in pick(asked):
    entry: dict[str, Any] = {
      'person': names.get(row.person, ''),
      'group': group,
      'question': row.question,
      'answer': row.answer,
      'answers': {run: answers[run, task][row.key] for run in runs},
    }
    if row.image is not None:
      entry['image'] = f'img_{len(images)}'
      images[entry['image']] = np.asarray(row.image)
    entries.append(entry)
  np.savez(folder / 'gallery.npz', **images)
  workdir_lib.write_json(folder / 'gallery.json', entries)


def _shown(tasks: Mapping[str, Any]) -> dict[str, tuple[str, int]]:
  """The tasks of ``SHOWN`` that there are, new pictures before trained ones."""
  shown = {task: SHOWN[task] for task in SHOWN if task in tasks}
  if 'forget_vqa_holdout' in shown:
    shown.pop('forget_vqa', None)
  return shown
