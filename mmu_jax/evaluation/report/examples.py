"""Single questions and answers, as a report shows them."""

import base64
import io
from pathlib import Path

import numpy as np

from mmu_jax.errors import UserError
from mmu_jax.evaluation.report import plots
from mmu_jax.evaluation.report import table
from mmu_jax.evaluation.report.columns import Layout
from mmu_jax.evaluation.scoring import scores
from mmu_jax.metrics import exact_match
from mmu_jax.metrics import rouge

_EXAMPLES = 6  # mistakes shown of each kind
_SIDE = 240  # pixels of a picture, at most: a page of photographs stays small
_GROUPS = ('forget', 'retain', 'real')


def _judged(folder: Path, run: str, task: str, judged) -> list[dict]:
  """The answers of one kind of one run to one task, right or wrong."""
  kind, metric, least = judged
  # The same question may also have been asked with options.
  rated = [
    (answer, scores.METRICS[kind][metric](answer))
    for answer in scores.read_answers(folder / run, task)
    if answer['kind'] == kind
  ]
  return [a | {'correct': x >= least} for a, x in rated if x is not None]


def mistakes(predictions: Path, run: str, layout: Layout) -> list[dict]:
  """What is still recognised, and what was lost against the vanilla model.

  Args:
    predictions: the folder with the answers, ``<run>/<task>.jsonl``.
    run: whose mistakes.
    layout: says what makes an answer right.

  Returns:
    Sections with ``title``, ``rows`` (some of them), ``count`` and ``n``.
  """
  read = lambda run, task: _judged(predictions, run, task, layout.judged)
  sections, titles = [], _titles(layout)
  for task in plots.FORGET_TASKS:
    held = read(run, task)
    if held:
      left = [row for row in held if row['correct']]
      title = f'Still answered: {titles.get(task, task)}'
      if task == 'forget_vqa_holdout':
        title = 'Still answered about new pictures of the forgotten people'
      sections.append({'title': title, 'rows': left, 'n': len(held)})
      break
  for task in table.UTILITY_TASKS:
    before = {row['key'] for row in read(table.VANILLA, task) if row['correct']}
    lost = [
      row
      for row in read(run, task)
      if row['key'] in before and not row['correct']
    ]
    if before:
      title = f'Right before and wrong now: {titles.get(task, task)}'
      sections.append({'title': title, 'rows': lost, 'n': len(before)})
  for section in sections:
    section['count'] = len(section['rows'])
    section['rows'] = section['rows'][:_EXAMPLES]
  return sections


def _titles(layout) -> dict[str, str]:
  """What each task is called where single answers are shown."""
  every = [c for block in layout.blocks for c in block.columns if c.task]
  first = {c.task: c.title for c in reversed(every)}
  _, field, _ = layout.judged
  return first | {c.task: c.title for c in every if c.metric == field}


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
    workdir: has the pictures.
    entries: of ``gallery.json``, if there is one.
    run: the model after unlearning.
    whole: answers are right as a whole or wrong; else they are near or far.

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
  """The three answers of a card: text, how right, and what was wanted.

  Where whole answers are compared they are right or wrong; a sentence of a
  benchmark is near its reference or far from it, and ROUGE-L says how near.
  """
  # A forgotten face should not be recognised; everything else should.
  wanted = not (entry['group'] == 'forget' and entry.get('image'))
  marks = []
  for label, name in (
    ('before', table.VANILLA),
    ('after', run),
    ('retrained', table.RETRAINED),
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
