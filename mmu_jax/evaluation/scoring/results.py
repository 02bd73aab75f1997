"""All scores of a workdir: how they are computed, written and read."""

from collections.abc import Mapping, Sequence
import math
import pathlib
from typing import Any

from mmu_jax import workdir as workdir_lib
from mmu_jax.data.dataset import Task
from mmu_jax.errors import MissingError
from mmu_jax.errors import UserError
from mmu_jax.evaluation.asking.answers import Answer
from mmu_jax.evaluation.scoring import comparison
from mmu_jax.evaluation.scoring import summarize
from mmu_jax.workdir import seals

NAME = 'results.jsonl'
_AGAIN = 'Run `mmu evaluate` again: it scores the answers that are there.'
_FIELDS = (
  *('run', 'task', 'split', 'modality', 'role', 'holdout', 'headline'),
  *('metric', 'layout', 'protocol', 'shots'),
)
_SETTINGS = (workdir_lib.CONFIG, workdir_lib.MANIFEST)
Asked = Sequence[tuple[Task, Sequence[Answer]]]  # every task and its answers


def score_all(
  answers: Mapping[str, Asked],
  steps: Mapping[str, int],
  *,
  retrained: str = '',
  names: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
  """Scores every model, and compares it with the retrained one.

  Args:
    answers: tasks with their answers, by model.
    steps: round that each model had reached.
    retrained: name of the model that the others are compared with; '' for
      neither a comparison nor a utility.
    names: name by person or thing, for scores of each of them.

  Returns:
    Rows of ``results.jsonl``: of every task in turn, model by model, each with
    its utility; then the comparisons.
  """
  rows = []
  for run, asked in answers.items():
    named = {'run': run, 'step': steps[run]}
    collected = [(t, summarize.collect(found, t, names)) for t, found in asked]
    for task, found in collected:
      rows += summarize.summarize(found, task=task, names=names, **named)
    if retrained:
      rows += comparison.model_utility(collected, **named)
  for run, asked in answers.items():
    if run == retrained or retrained not in answers:
      continue
    for (task, found), (_, gold) in zip(asked, answers[retrained], strict=True):
      rows += comparison.against(
        found, gold, task=task, run=run, step=steps[run]
      )
  return rows


def write(
  workdir: pathlib.Path, rows: Sequence[Mapping[str, Any]], note: dict[str, Any]
) -> None:
  """Writes ``results.jsonl``, sealed together with the settings of the job.

  Args:
    workdir: folder of the job, with its ``config.json`` and ``manifest.json``.
    rows: scores.
    note: JSON that belongs to them: ``predictions``, the folder of the answers;
      ``answers``, the hash of each file; ``models``, the content of each
      model; ``left_out``, models without scores and why.
  """
  settings = {name: _hash(workdir / name) for name in _SETTINGS}
  seals.write_rows(workdir / NAME, rows, NAME, {**note, 'settings': settings})


def read(
  workdir: str | pathlib.Path,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
  """Returns the scores of a workdir and the note that ``write`` got.

  Each score is checked for the fields that tables need.

  Raises:
    FileNotFoundError: if nothing has been evaluated.
    ValueError: if the file, or the settings beside it, are not as they were
      written; if there is no score, one whose value is neither finite nor
      null (undefined), or one that lacks a field, as scores of earlier
      versions do.
  """
  path = pathlib.Path(workdir) / NAME
  if not path.is_file():
    raise MissingError(
      f'a report is made from scores, and there is no {path}: run '
      '`mmu evaluate` with this workdir first'
    )
  rows, note = seals.read_rows(path, NAME, _AGAIN)
  for name, was in note.get('settings', {}).items():
    if _hash(path.with_name(name)) != was:
      raise UserError(
        f'{path.with_name(name)} is not the one that the scores were made '
        f'with. {_AGAIN}'
      )
  for row in rows:
    _check(row, path)
  if not rows:
    raise UserError(f'{path} holds no score: run `mmu evaluate` again')
  return rows, note


def _check(row: dict[str, Any], path: pathlib.Path) -> None:
  """Raises unless a score has what tables need."""
  missing = [f for f in (*_FIELDS, 'value') if f not in row]
  if missing or not _is_number(row['value']):
    lacks = f'{", ".join(missing)} missing in' if missing else 'got'
    raise UserError(
      f'{path}: a score has a finite value, or null where it is undefined, and '
      f'says how it was asked and what its task means; {lacks} {row}. Scores '
      'of an earlier version do not: run `mmu evaluate` again.'
    )


def _is_number(value: object) -> bool:
  """Whether the value of a score is finite, or null: undefined."""
  if value is None:
    return True
  return isinstance(value, (int, float)) and math.isfinite(value)


def _hash(path: pathlib.Path) -> str:
  """Names the content of a JSON file; '' if there is none."""
  return seals.hash_json(workdir_lib.read_json(path)) if path.exists() else ''
