"""Other words and other pictures: does another way to ask find the answer?

Every case changes questions to forget, and as many to keep: a change that
breaks those, too, says nothing. Where the change names the person, a control
shows somebody else's picture. The cases are in ``asking.changes``.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import functools
import pathlib
from typing import Any

import numpy as np

from mmu_jax import distributed
from mmu_jax.attacks import asking
from mmu_jax.attacks.attack import ATTACKS
from mmu_jax.attacks.attack import Rows
from mmu_jax.data import pictured
from mmu_jax.data.dataset import FORGET
from mmu_jax.data.dataset import RETAIN
from mmu_jax.data.dataset import VQA
from mmu_jax.data.row import GENERATION
from mmu_jax.data.row import Row
from mmu_jax.distributed import progress
from mmu_jax.errors import UserError
from mmu_jax.evaluation.asking import answers as answers_lib
from mmu_jax.evaluation.asking import changes
from mmu_jax.evaluation.asking import protocols
from mmu_jax.evaluation.asking import tasks
from mmu_jax.evaluation.asking.protocols import Question
from mmu_jax.evaluation.scoring import scores
from mmu_jax.stages import origins
from mmu_jax.stages import runs
from mmu_jax.stages.job import Job
from mmu_jax.workdir import seals


def prompts(job: Job, model: str, folder: pathlib.Path) -> Rows:
  """Returns the share of answers that hold the fact, in every case.

  Args:
    job: the job, whose mesh is set.
    model: name of the model.
    folder: folder of the result; answers are in its ``answers.jsonl``.

  Raises:
    ValueError: if the data have no questions about pictures to forget that are
      answered in words.
  """
  asked = changed_questions(job)
  records = _ask(job, model, folder / 'answers.jsonl', asked)
  scored = {record['key']: scores.score(record) for record in records}
  rows = []
  for (case, split), questions in asked.items():
    found = [_is_right(scored[question.row.key]) for question in questions]
    row = dict(case=case, metric=split, value=float(np.mean(found)))
    rows.append(row | dict(n=len(found), step=None))
  return rows


def _is_right(score: Mapping[str, float]) -> float:
  """Whether an answer holds the fact; without one, whether it is the same."""
  return score.get('contains', score['exact_match'])


def changed_questions(job: Job) -> dict[tuple[str, str], list[Question]]:
  """Returns the questions of every case, by case and split.

  Cases without a question to forget are left out, with a sentence.

  Args:
    job: the job.

  Raises:
    ValueError: if there is nothing to ask about.
  """
  aids, most = aids_of(job), ATTACKS['prompts'].spec(job.config).rows
  rows = {
    split: asking.headline_rows(job, VQA, split, most)
    for split in (FORGET, RETAIN)
  }
  if not rows[FORGET]:
    raise UserError(
      'the attack prompts asks about pictures to forget, and no reported task '
      'has a question about one that is answered in words. See `mmu data '
      'check`.'
    )
  found = {}
  for case, change in changes.CASES.items():
    made = {
      split: changes.change_all(rows[split], case, change, aids)
      for split in rows
    }
    if made[FORGET]:
      found |= {(case, split): x for split, x in made.items() if x}
    else:
      progress.say(
        f'prompts: left out: the case {case!r} has no question that gives no '
        'answer away and whose words the tokenizer knows'
      )
  return found


def aids_of(job: Job) -> changes.Aids:
  """Returns everything that changes may use, of a job."""
  tokenizer = job.scorer.processor.tokenizer
  unknown = getattr(tokenizer, 'unk_token_id', None)
  knows = lambda text: (
    unknown is None or unknown not in tokenizer(text).input_ids
  )
  train = [row for rows in job.data.train.values() for row in rows]
  text = [r for r in train if r.picture is None and r.task == GENERATION]
  kept = pictured.learned(job.data, job.groups, RETAIN)
  return changes.Aids(
    names=job.data.names,
    text=_by(lambda row: row.person or '', text),
    shown=_by(lambda row: row.question, kept),
    strangers=pictured.stranger_pictures(job.data),
    knows=functools.cache(lambda words: knows(f'\n{words}')),
    seed=job.config.seed,
  )


def _by(key: Callable[[Row], str], rows: Iterable[Row]) -> dict[str, list[Row]]:
  """Rows by a key."""
  found: dict[str, list[Row]] = {}
  for row in rows:
    found.setdefault(key(row), []).append(row)
  return found


def _ask(
  job: Job,
  model: str,
  path: pathlib.Path,
  asked: Mapping[tuple[str, str], Sequence[Question]],
) -> list[dict[str, Any]]:
  """The answers of a model; goes on after a kill."""
  questions = [question for made in asked.values() for question in made]
  content = distributed.first(origins.content, runs.model_folder(job, model))
  said = [[*q.row[:3], [shot.key for shot in q.shots]] for q in questions]
  source = seals.hash_json([job.world, content, said])
  if distributed.first(answers_lib.mismatch, path, source):
    params = runs.final_params(job, model)
    with progress.track(None, f'ask {model}', total=len(questions)) as bar:
      answers_lib.complete(
        functools.partial(_batches, job, params, questions),
        questions,
        path,
        bar.update,
        source=source,
      )
  return distributed.first(answers_lib.read_records, path)


def _batches(job, params, questions, done) -> Iterator[list[dict[str, Any]]]:
  """Asks in the dataset's usual way; longer prompts in batches of their own."""
  spec = job.config.evaluation
  usual = protocols.find_protocol('', job.data)
  for shots in sorted({len(question.shots) for question in questions}):
    yield from tasks.predict(
      job.model,
      params,
      [question for question in questions if len(question.shots) == shots],
      runs.scorer(job),
      protocol=usual._replace(answers=lambda question, encoder: []),
      max_new_tokens=spec.max_new_tokens,
      size=spec.batch_size,
      done=done,
    )
