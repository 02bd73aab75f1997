"""A dataset: rows to train on, tasks to score, and how its scores are shown."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mmu_jax.data.encoding.processors import Processor
from mmu_jax.data.row import Row

FORGET, RETAIN, REAL = 'forget', 'retain', 'real'  # splits
KEEP = 'keep'  # the other role, beside FORGET
VQA, QA = 'vqa', 'qa'  # modalities


class Task(NamedTuple):
  """Questions that are scored together, and how their score is meant.

  Attributes:
    name: name of its scores and files, for example ``'forget_vqa_holdout'``;
      nothing is read from it.
    rows: questions with their reference answers.
    split: people it is about: ``'forget'``, ``'retain'`` or ``'real'``.
    modality: ``'vqa'`` (about pictures) or ``'qa'`` (in text).
    role: ``'forget'`` if the score is to go down, ``'keep'`` if it is to stay.
    holdout: the second task of its split and modality, about pictures, or in
      words, that no model was trained on.
    reported: False for a task that only chooses settings (validation).
    headline: one of the few tasks that stand for the rest: they are probed
      during training, averaged into U and shown in the gallery, and
      ``mmu tune`` chooses by them.
  """

  name: str
  rows: Sequence[Row]
  split: str
  modality: str
  role: str
  holdout: bool = False
  reported: bool = True
  headline: bool = False


class Dataset(NamedTuple):
  """Rows to train on, tasks to score, and how the scores are shown.

  Attributes:
    train: rows by split: ``'vqa/forget'``, ``'qa/retain'``, ``'general'``.
    tasks: tasks by name.
    names: person -> the name that people know them by, for reports.
    processor: tokenizer and image processor; None for a benchmark, which is
      encoded with the processor of a checkpoint.
    notes: rows that were left out of the files and why, one line each.
    layout: name of the tables that show its scores.
    protocol: name of the protocol that asks its questions by default.
    official: name of its published protocol; '' if it has none.
  """

  train: Mapping[str, Sequence[Row]]
  tasks: Mapping[str, Task]
  names: Mapping[str, str]
  processor: Processor | None = None
  notes: Sequence[str] = ()
  layout: str = 'mllmu_bench'
  protocol: str = 'fixed'
  official: str = ''


def sibling(task: Task, tasks: Mapping[str, Task], **other: Any) -> Task | None:
  """Returns the task about the same people that differs in some fields.

  Args:
    task: the task to begin with.
    tasks: tasks by name.
    **other: ``modality`` or ``holdout`` of the wanted task.

  Example:
    >>> tasks = by_name(Task('a', [], 'forget', 'vqa', 'forget'),
    ...                 Task('b', [], 'forget', 'qa', 'keep'))
    >>> sibling(tasks['a'], tasks, modality='qa').name
    'b'
  """
  meaning = lambda task: (task.split, task.modality, task.holdout)
  wanted = meaning(task._replace(**other))
  return next((t for t in tasks.values() if meaning(t) == wanted), None)


def by_name(*tasks: Task) -> dict[str, Task]:
  """Tasks as ``Dataset.tasks`` holds them.

  Example:
    >>> list(by_name(Task('ours', [], 'forget', 'vqa', 'forget')))
    ['ours']
  """
  return {task.name: task for task in tasks}


def role_of(split: str, modality: str) -> str:
  """The role of a task in the benchmarks: pictures are forgotten, text stays.

  Example:
    >>> role_of('forget', 'vqa'), role_of('forget', 'qa')
    ('forget', 'keep')
  """
  return FORGET if (split, modality) == (FORGET, VQA) else KEEP
