"""The stage that asks a teacher for other answers about the forgotten.

Its rows are the split ``relabelled`` of the streams of a run. It runs after
vanilla, once for each teacher: ``relabelled/<teacher>/`` holds the questions
that were asked with their likelihoods (``asked.jsonl``; ``said.jsonl`` of the
base model) and the rows (``rows.jsonl``), whose note has the margin. A further
run with the teacher and other splits to keep has ``<teacher>-<hash>``.
"""

from collections.abc import Sequence
import functools
import pathlib
from typing import Any, NamedTuple

from mmu_jax import distributed
from mmu_jax import workdir as workdir_lib
from mmu_jax.data.row import Row
from mmu_jax.distributed import progress
from mmu_jax.errors import UserError
from mmu_jax.evaluation.asking import answers as answers_lib
from mmu_jax.evaluation.asking import tasks
from mmu_jax.evaluation.asking.protocols import plain
from mmu_jax.evaluation.asking.protocols import Question
from mmu_jax.stages import origins
from mmu_jax.stages import runs
from mmu_jax.stages.budgets import drawing
from mmu_jax.stages.job import Config
from mmu_jax.stages.job import Job
from mmu_jax.stages.job import recipe
from mmu_jax.stages.relabelling import teachers
from mmu_jax.workdir import seals


class Relabelled(NamedTuple):
  """Rows with other answers, as many true ones, the margin, the folder.

  Attributes:
    rows: rows with the answers of the teacher.
    true: row of the data for each of them: the same question, its own answer.
    margin: nll in nats from which an answer counts as forgotten.
    folder: folder of the teacher in the workdir.
  """

  rows: list[Row]
  true: list[Row]
  margin: float
  folder: pathlib.Path


def relabel(job: Job, run: Config) -> Relabelled:
  """Returns the rows of a run's teacher, from the workdir or made now.

  Args:
    job: the job, whose mesh is set.
    run: run with a teacher.

  Raises:
    ValueError: if the workdir has rows of other settings, or the data have no
      answers of others.
    FileNotFoundError: if vanilla or base is missing.
  """
  forget, stay = _rows(job, run)
  settings = _settings(job, run)
  parent = job.unlearned / 'relabelled'
  folder = parent / distributed.first(_name, parent, settings)
  path = folder / origins.ROWS
  workdir_lib.claim(folder, settings)
  origins.check(job, folder)
  if distributed.first(seals.hash_of, path) == '':
    _make(job, run.teacher, folder, forget, stay)
  advice = f'Delete {folder} to ask again.'
  records, note = distributed.first(seals.read_rows, path, path.stem, advice)
  progress.say(
    f'relabelled by {run.teacher}: {len(records)} rows; an answer counts as '
    f'forgotten from {note["margin"]:.4g} nats on, as on pictures of others'
  )
  rows, by_key = (
    teachers.relabelled(forget, records),
    {r.key: r for r in forget},
  )
  true = [by_key[record['of']] for record in records]
  return Relabelled(rows, true, note['margin'], folder)


def with_rows(job: Job, made: Relabelled) -> Job:
  """Returns a job whose data have the rows as the split ``relabelled``."""
  train = {**job.data.train, drawing.RELABELLED: made.rows}
  return job._replace(data=job.data._replace(train=train))


def _name(parent: pathlib.Path, settings: dict[str, Any]) -> str:
  """The folder of a teacher; where a run with other splits has it, a new one.

  Splits of the retain stream are of a run; all other settings are of the job.
  """
  teacher, mixed = settings['teacher'], settings['mixed']
  own = f'{teacher}-{seals.hash_json(mixed)[:8]}'
  claimed = parent / teacher / workdir_lib.CONFIG
  taken = claimed.is_file() and (
    workdir_lib.read_json(claimed).get('mixed') != mixed
  )
  return own if taken or (parent / own).is_dir() else teacher


def _rows(job: Job, run: Config) -> tuple[list[Row], list[Row]]:
  """Rows about pictures: to forget, and of people who stay."""
  train, streams = job.data.train, job.config.unlearn.streams
  draw = functools.partial(drawing.draw, train, job.groups)
  pictured = lambda parts: [
    row for part in draw(parts) for row in part.rows if row.picture
  ]
  forget = pictured(streams.forget)
  gone = {row.person for row in forget} | {None}
  kept = [p for p in streams[run.retain] if not drawing.is_relabelled(p)]
  stay = [row for row in pictured(kept) if row.person not in gone]
  if not stay:
    raise UserError(
      'there is nobody to compare with: the stream '
      f'config.unlearn.streams.{run.retain} has no pictures of people who stay '
      'and are named (own data: the column `person`). Add a part with them.'
    )
  return forget, stay


def _make(job, teacher, folder, forget, stay) -> None:
  """Asks vanilla, and base if it is the teacher, and writes the rows."""
  seed, others = job.config.seed, teachers.by_question(stay)
  of_margin = teachers.margin_rows(forget, stay, seed)
  who = teachers.who_rows(forget, others) if teacher == 'others' else []
  found = _ask(job, 'vanilla', folder / 'asked.jsonl', of_margin + who)
  margin = teachers.margin(found[: len(of_margin)])
  if teacher in ('others', 'random'):
    nll = teachers.candidates(found[len(of_margin) :], others) if who else None
    records = list(teachers.drawn(forget, others, nll, seed))
  elif teacher == 'base':
    said = _ask(job, 'base', folder / 'said.jsonl', forget)
    records = teachers.said_by_base(forget, said)
  else:
    records = teachers.refused(forget, job.scorer.processor.tokenizer)
  if not records:
    raise UserError(
      f'the teacher {teacher!r} has no answer to any of the {len(forget)} '
      "questions. Set the run's teacher to another one: "
      f'{", ".join(teachers.TEACHERS)}.'
    )
  asked = [runs.model_folder(job, name) for name in ('vanilla', 'base')]
  note = {'margin': margin, 'content': seals.hash_json(records)}
  note |= origins.origin(job, folder, asked[: 1 + (teacher == 'base')])
  path = folder / origins.ROWS
  distributed.first(seals.write_rows, path, records, path.stem, note)


def _ask(
  job: Job, model: str, path: pathlib.Path, rows: Sequence[Row]
) -> list[dict[str, Any]]:
  """The answers of a model, as choices are scored; goes on after a kill."""
  runs.require(job, model)
  content = distributed.first(origins.content, runs.model_folder(job, model))
  keys = [[row.key, row.question, row.options] for row in rows]
  source = seals.hash_json([job.world, model, content, keys])
  if distributed.first(answers_lib.mismatch, path, source):
    asked, spec = [Question(row) for row in rows], job.config.evaluation
    with progress.track(None, f'ask {model}', total=len(rows)) as bar:
      ask = functools.partial(
        tasks.predict,
        job.model,
        runs.final_params(job, model),
        asked,
        runs.scorer(job),
        protocol=plain.PROTOCOL,
        max_new_tokens=spec.max_new_tokens,
        size=spec.batch_size,
      )
      answers_lib.complete(
        lambda done: ask(done=done), asked, path, bar.update, source=source
      )
  return distributed.first(answers_lib.read_records, path)


def _settings(job: Job, run: Config) -> dict[str, Any]:
  """All that the rows depend on."""
  streams = job.config.unlearn.streams
  splits = lambda parts: sorted({s for part in parts for s in part['splits']})
  longest = job.config.evaluation.max_new_tokens
  return {
    'teacher': run.teacher,
    'max_new_tokens': longest if run.teacher == 'base' else None,
    'forget': splits(streams.forget),
    'mixed': splits(streams[run.retain]),
    'vanilla': recipe(job.config.vanilla),
    'base': recipe(job.config.base),
    'groups': job.groups.to_dict(),
  }
