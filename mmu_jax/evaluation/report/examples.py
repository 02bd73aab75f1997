"""Single questions and answers, as a report shows them."""

import base64
import collections
from collections.abc import Mapping
import io
import itertools
from pathlib import Path

import numpy as np

from mmu_jax.data.dataset import FORGET
from mmu_jax.data.dataset import KEEP
from mmu_jax.data.dataset import REAL
from mmu_jax.data.dataset import RETAIN
from mmu_jax.data.dataset import Task
from mmu_jax.errors import UserError
from mmu_jax.evaluation.report import scored
from mmu_jax.evaluation.report.layouts.columns import Layout
from mmu_jax.evaluation.scoring import scores
from mmu_jax.metrics import exact_match
from mmu_jax.metrics import rouge

_EXAMPLES = 6  # mistakes shown of each kind
_SIDE = 240  # pixels of a picture, at most: a page of photographs stays small
_GROUPS = (FORGET, RETAIN, REAL)


def _judged(folder: Path, task: Task, tasks, judged) -> list[dict]:
  """The answers of one kind of one run to one task, right or wrong."""
  kind, metric, least = judged
  # The same question may also have been asked with options.
  rated = [
    (answer, scores.METRICS[kind][metric](answer))
    for answer in scores.read_answers(folder, task, tasks)
    if answer['kind'] == kind
  ]
  return [a | {'correct': x >= least} for a, x in rated if x is not None]


def mistakes(
  predictions: Path, run: str, layout: Layout, tasks: Mapping[str, Task]
) -> list[dict]:
  """Answers that still recognise, and answers lost against vanilla.

  Args:
    predictions: the folder with the answers, ``<run>/<task>.jsonl``.
    run: name of the run whose mistakes are shown.
    layout: layout of the results; its ``judged`` says when answers are right.
    tasks: every scored task by name.

  Returns:
    Sections with ``title``, ``rows`` (some of them), ``count`` and ``n``.
  """
  read = lambda run, task: _judged(
    predictions / run, task, tasks, layout.judged
  )
  sections = []
  to_go = [task for task in tasks.values() if task.role == FORGET]
  for task in sorted(to_go, key=lambda task: not task.headline):
    held = read(run, task)
    if held:
      left = [row for row in held if row['correct']]
      title = f'Still answered: {_title(task, layout)}'
      if task.holdout:
        title = 'Still answered about new pictures of the forgotten '
        title += layout.beings[1]
      sections.append({'title': title, 'rows': left, 'n': len(held)})
      break
  for task in scored.headlines(tasks, KEEP):
    before = {
      row['key'] for row in read(scored.VANILLA, task) if row['correct']
    }
    lost = [
      row
      for row in read(run, task)
      if row['key'] in before and not row['correct']
    ]
    if before:
      title = f'Right before and wrong now: {_title(task, layout)}'
      sections.append({'title': title, 'rows': lost, 'n': len(before)})
  for section in sections:
    section['count'] = len(section['rows'])
    section['rows'] = _spread(section['rows'])[:_EXAMPLES]
  return sections


def _spread(rows: list[dict]) -> list[dict]:
  """Every answer once, one about each person before the next ones."""
  words = lambda row: (row.get('person'), row['question'], row['text'])
  by_person = collections.defaultdict(list)
  for key, row in {words(row): row for row in rows}.items():
    by_person[key[0]].append(row)
  turns = itertools.zip_longest(*by_person.values())
  return [row for turn in turns for row in turn if row]


def _title(task: Task, layout: Layout) -> str:
  """The title of a task where single answers are shown."""
  columns = [c for block in layout.blocks for c in block.columns]
  shown = [c for c in columns if c.of({task.name: task})]
  judged = [c for c in shown if c.metric == layout.judged[1]]
  return (judged or shown)[0].title if shown else task.name


def _png(picture: np.ndarray) -> str:
  """A picture ``[height, width, 3]`` uint8 as a data URI."""
  from PIL import Image

  buffer, image = io.BytesIO(), Image.fromarray(picture)
  image.thumbnail((_SIDE, _SIDE))
  image.save(buffer, 'PNG')
  return data_uri(buffer.getvalue())


def data_uri(png: bytes) -> str:
  """PNG bytes as text that an <img> can show."""
  return 'data:image/png;base64,' + base64.b64encode(png).decode()


def cards(
  workdir: Path, entries: list[dict] | None, run: str | None, whole: bool
) -> list[dict] | None:
  """Cards of questions with the answers before, after and retrained.

  Args:
    workdir: folder with the pictures.
    entries: entries of ``gallery.json``, if there is one.
    run: name of the model after unlearning.
    whole: whether answers are right as a whole or wrong, not near or far.

  Returns:
    Cards, those about the people to forget first; None if there are none.

  Raises:
    ValueError: if a picture is missing.
  """
  path = workdir / 'gallery.npz'
  if not entries or not path.is_file():
    return None
  made = []
  with np.load(path) as pictures:
    for entry in entries:
      key = entry.get('image')
      if key is not None and key not in pictures:
        raise UserError(
          f'{path} must hold every picture of gallery.json; {key!r} is '
          'missing: run `mmu report` again'
        )
      picture = None if key is None else _png(pictures[key])
      marks = _marks(entry, run, whole)
      made.append(entry | {'picture': picture, 'marks': marks})
  order = lambda c: (_GROUPS.index(c['group']), c['picture'] is None)
  return sorted(made, key=order)


def _marks(entry: dict, run: str | None, whole: bool) -> list[dict]:
  """The three answers of a card: text, how right, and whether as wanted.

  Where whole answers are compared they are right or wrong; a sentence of a
  benchmark is near its reference or far from it, and ROUGE-L says how near.
  """
  wanted = entry['role'] != FORGET  # everything else should be right
  marks = []
  for label, name in (
    ('before', scored.VANILLA),
    ('after', run),
    ('retrained', scored.RETRAINED),
  ):
    if name not in entry['answers']:
      continue
    text = entry['answers'][name]
    mark = {'label': label, 'text': text, 'near': None, 'good': None}
    if whole:
      right = entry.get('correct', {}).get(name)
      right = (
        exact_match(text, entry['answer']) if right is None else bool(right)
      )
      mark['right'] = right
      mark['good'] = right == wanted if label == 'after' else None
    else:
      mark['near'] = rouge(text, entry['answer'])['rougeL']
    marks.append(mark)
  return marks
