"""The stage that asks models questions and scores their answers.

Answers to the questions as they are usual for a dataset, its default protocol
without shots, are in ``predictions/<run>``; others are apart, in
``predictions/<protocol>-<shots>shot/<run>``. So a model can be asked in several
ways in one workdir. ``results.jsonl`` of the workdir, and with it the report,
shows the protocol that was asked last. It is computed from the answers anew
each time, so a new metric needs no model.
"""

from collections.abc import Mapping, Sequence
import functools
import json
import pathlib
import re
from typing import Any

import jax

from mmu_jax import checkpoint
from mmu_jax import distributed
from mmu_jax import inputs
from mmu_jax import workdir as workdir_lib
from mmu_jax.data.dataset import Task
from mmu_jax.distributed import progress
from mmu_jax.errors import MissingError
from mmu_jax.errors import UserError
from mmu_jax.evaluation.asking import answers as answers_lib
from mmu_jax.evaluation.asking import protocols
from mmu_jax.evaluation.asking import tasks as tasks_lib
from mmu_jax.evaluation.asking.protocols import Protocol
from mmu_jax.evaluation.asking.protocols import Question
from mmu_jax.evaluation.report.scored import RETRAINED
from mmu_jax.evaluation.scoring import endpoint as chat
from mmu_jax.evaluation.scoring import judge as judge_lib
from mmu_jax.evaluation.scoring import results
from mmu_jax.evaluation.scoring import scores
from mmu_jax.stages import origins
from mmu_jax.stages import runs as runs_lib
from mmu_jax.stages import training
from mmu_jax.stages.job import alone
from mmu_jax.stages.job import Config
from mmu_jax.stages.job import Folder
from mmu_jax.stages.job import Job
from mmu_jax.stages.job import open_job
from mmu_jax.stages.job import write_manifest
from mmu_jax.workdir import seals

_NOTE = 'note.json'  # the rounds of a model, for its parameters may go


@alone
def evaluate(
  config: Config, workdir: Folder, runs: Sequence[str] | None = None
) -> list[dict[str, Any]]:
  """Asks models the questions of every task and scores the answers.

  Questions that were answered are not asked again. Each protocol and number of
  shots has its own answers; ``evaluation.batch_size`` and the judge may change.

  Args:
    config: the whole config.
    workdir: folder of the job; must hold the models that are still to be asked.
    runs: names of models; None for all that are finished.

  Returns:
    The rows of ``results.jsonl``: of every model whose answers are complete,
    asked in the same way.

  Raises:
    ValueError: if a run is unknown.
    FileNotFoundError: if a model is missing, or there is none.
  """
  judge = chat.make_endpoint(dict(config.evaluation.get('judge', {})))
  runs = runs_lib.choose_models(config, workdir, runs)
  job = open_job(config, workdir, begin=False)
  with jax.set_mesh(job.mesh):
    for run in runs:
      _ask(job, run)
  return distributed.first(_collect, job, judge)


def answers_folder(job: Job, protocol: str, shots: int) -> pathlib.Path:
  """Returns the folder of all answers that were asked for in one way."""
  folder = job.folder / 'predictions'
  name, usual = (
    protocols.find_protocol(p, job.data).name for p in (protocol, '')
  )
  if name == usual and not shots:
    return folder
  return folder / f'{name}-{shots}shot'


def _folder(job: Job) -> pathlib.Path:
  """The folder of the answers in the config's way."""
  return answers_folder(job, _protocol(job).name, _shots(job))


def _answers_of(job: Job, run: str) -> pathlib.Path:
  """The folder of the answers of a model."""
  return _folder(job) / inputs.check_name(run, 'run', runs_lib.DEEPEST)


def _protocol(job: Job) -> Protocol:
  """The protocol of a config, checked against its other settings."""
  spec = job.config.evaluation
  protocol = protocols.find_protocol(spec.get('protocol', ''), job.data)
  if protocol.max_new_tokens not in (None, spec.max_new_tokens):
    raise UserError(
      f'the protocol {protocol.name!r} generates '
      f'{protocol.max_new_tokens} tokens, got '
      f'max_new_tokens={spec.max_new_tokens}. Set evaluation.max_new_tokens '
      "to that, or use protocol='fixed'."
    )
  return protocol


def _shots(job: Job) -> int:
  """The number of people whose questions stand before each question."""
  return job.config.evaluation.get('shots', 0)


def _reported(job: Job) -> dict[str, Task]:
  """The reported tasks; those whose answers others are scored by come first."""
  tasks = {name: t for name, t in job.data.tasks.items() if t.reported}
  source = lambda name: _protocol(job).answers_from(tasks[name], tasks)
  return {n: tasks[n] for n in sorted(tasks, key=lambda n: bool(source(n)))}


def _questions(job: Job) -> dict[str, list[Question]]:
  """The questions of every reported task."""
  tasks, make = _reported(job), _protocol(job).questions
  return {
    name: make(task, tasks, _shots(job), job.config.seed)
    for name, task in tasks.items()
  }


def asked(job: Job) -> tuple[Protocol, dict[str, list[Question]]]:
  """Returns the protocol of a job, and its questions by task."""
  return _protocol(job), _questions(job)


def _ask(job: Job, run: str) -> None:
  """Asks one model every question that it has not answered."""
  folder, questions = _answers_of(job, run), _questions(job)
  made = runs_lib.model_folder(job, run)
  origins.check(job, made)
  claim = distributed.first(_claim_of, job, run)
  if claim['model'] is None:
    runs_lib.final_folder(job, run)  # says what to do where there is none
  if runs_lib.is_finished(made):
    wanted = training.settings_of(job, run)
    if wanted is not None:
      workdir_lib.claim(made, wanted)
  workdir_lib.claim(folder, claim)
  if distributed.first(_fault, job, run, questions) == '':
    progress.say(f'evaluate {run}: found in {folder}')
    return
  note = checkpoint.read_note(runs_lib.final_folder(job, run))
  known = {'rounds': note['rounds'], 'model': note['content']}
  distributed.first(_claim_note, folder, run, known)
  source = _source(job, run, note['content'])
  _answer(job, run, folder, questions, source)


def _source(job: Job, run: str, model: str) -> str:
  """Names who answers what, and how: world, protocol, shots, parameters."""
  asked = [_protocol(job).name, _shots(job), run]
  return seals.hash_json([job.world, asked, model])


def _claim_of(job: Job, run: str) -> dict[str, Any]:
  """All that the answers of a model depend on."""
  model = training.settings_of(job, run)
  path = runs_lib.model_folder(job, run) / workdir_lib.CONFIG
  if model is None and path.exists():
    model = workdir_lib.read_json(path)
  claim = {'evaluation': _settings(job), 'model': model}
  return json.loads(workdir_lib.to_json(claim))  # tuples become lists


def _claim_note(folder: pathlib.Path, run: str, note: dict[str, Any]) -> None:
  """Writes which parameters answer, or checks that they are the same."""
  path = folder / _NOTE
  wrong = seals.fault(path, run)
  if wrong and not any(folder.glob('*.jsonl')):
    workdir_lib.write_json(path, note)
    seals.seal(path, run)
  elif wrong:
    raise UserError(f'{wrong}. Delete {folder} to ask again.')
  elif workdir_lib.read_json(path) != note:
    raise UserError(
      f'{folder} holds answers of other parameters than the model {run!r} has '
      'now. Delete that folder to ask again.'
    )


def _settings(job: Job) -> dict[str, Any]:
  """The settings that answers depend on, beside the name of their folder."""
  # The judge may be asked later, and fewer questions at a time to save memory.
  elsewhere = ('judge', 'batch_size', 'protocol', 'shots')
  spec = job.config.evaluation.to_dict()
  made = {k: v for k, v in spec.items() if k not in elsewhere}
  penalty = runs_lib.scorer(job).processor.repetition_penalty
  return made | {'repetition_penalty': penalty}


def _answer(
  job: Job,
  run: str,
  folder: pathlib.Path,
  questions: Mapping[str, Sequence[Question]],
  source: str,
) -> None:
  """Lets a model answer the questions that are left."""
  spec = job.config.evaluation
  params = functools.cache(lambda: runs_lib.final_params(job, run))
  scorer = runs_lib.scorer(job)
  total = sum(map(len, questions.values()))
  with progress.track(None, f'evaluate {run}', total=total) as bar:
    for task, asked in questions.items():
      bar.set_postfix_str(task)
      ask = lambda done, asked=asked: tasks_lib.predict(
        job.model,
        params(),
        asked,
        scorer,
        protocol=_protocol(job),
        max_new_tokens=spec.max_new_tokens,
        size=spec.batch_size,
        done=done,
      )
      path = answers_lib.task_file(folder, task)
      answers_lib.complete(ask, asked, path, bar.update, source=source)


def _fault(
  job: Job, run: str, questions: Mapping[str, Sequence[Question]]
) -> str:
  """Why the answers of a model cannot be scored; '' if they can.

  Its parameters may be gone.
  """
  folder = _answers_of(job, run)
  for name in (workdir_lib.CONFIG, _NOTE):
    if not (folder / name).exists():
      return f'there is no {folder / name}'
  claim = workdir_lib.read_json(folder / workdir_lib.CONFIG)
  wanted = _claim_of(job, run)
  if wanted['model'] is None:  # a model of another stage, which is gone
    wanted['model'] = claim.get('model')
  wrong = workdir_lib.differences(claim, wanted)
  if wrong:
    return f'{folder} was made from other settings: {wrong[0]}'
  wrong = seals.fault(folder / _NOTE, run)
  if wrong:
    return wrong
  model = workdir_lib.read_json(folder / _NOTE)['model']
  made = runs_lib.model_folder(job, run)
  if origins.content(made) not in ('', model):
    return f'{folder} holds answers of other parameters than {made} has'
  for task, asked in questions.items():
    path = answers_lib.task_file(folder, task)
    wrong = answers_lib.mismatch(path, _source(job, run, model))
    if wrong:
      return wrong
    left = answers_lib.unanswered(asked, answers_lib.read_records(path))
    if left:
      return f'{path} lacks {len(left)} of {len(asked)} answers'
  return ''


def _asked(job: Job) -> list[str]:
  """Every model that has answers in the config's way."""
  folder = _folder(job)
  # Any of its files will do: a run that lost one is named, not left out.
  found = {
    path.parent.relative_to(folder).as_posix()
    for path in folder.rglob('*.json*')
    if path.parent != folder
  }
  apart = re.compile(rf'({"|".join(protocols.PROTOCOLS)})-\d+shot/')
  return runs_lib.in_order(
    job.config, {run for run in found if not apart.match(run)}
  )


def _collect(job: Job, judge: chat.Endpoint | None) -> list[dict[str, Any]]:
  """Scores all answers and writes ``results.jsonl``."""
  folder, protocol = _folder(job), _protocol(job)
  tasks, questions = _reported(job), _questions(job)
  faults = {run: _fault(job, run, questions) for run in _asked(job)}
  runs = [run for run, fault in faults.items() if not fault]
  left_out = {run: fault for run, fault in faults.items() if fault}
  for run, fault in left_out.items():
    progress.say(f'evaluate: {run} is left out: {fault}')
  read = lambda run: [
    (task, scores.read_answers(folder / run, task, tasks))
    for task in tasks.values()
  ]
  answers = {run: read(run) for run in runs}
  steps = {
    run: workdir_lib.read_json(folder / run / _NOTE)['rounds'] for run in runs
  }
  if not answers:
    raise MissingError(
      f'there is no model to evaluate in {job.folder}. Train one first: mmu '
      'train --run=vanilla, or mmu pipeline for everything.'
    )
  rows = results.score_all(
    answers,
    steps,
    retrained='' if protocol.brief else RETRAINED,
    names=job.data.names,
  )
  for run, asked in answers.items() if judge else ():
    rows += judge_lib.factuality(
      judge,
      asked,
      folder / run,
      job.folder / 'judge.jsonl',
      run=run,
      step=steps[run],
    )
  asked = {'protocol': protocol.name, 'shots': _shots(job)}
  rows = [row | asked | {'layout': job.data.layout} for row in rows]
  write_manifest(job.config, job.folder, job.mesh)
  file, page = job.folder / results.NAME, job.folder / 'report.html'
  was = seals.hash_of(file)
  results.write(job.folder, rows, _sources(job, runs) | {'left_out': left_out})
  if page.exists() and seals.hash_of(file) != was:
    progress.say(f'evaluate: {page} shows earlier scores: run `mmu report`')
  return rows


def _sources(job: Job, runs: Sequence[str]) -> dict[str, Any]:
  """All that the scores of some models were made from, by content."""
  folder = _folder(job)
  hashed = lambda run, task: seals.hash_of(
    answers_lib.task_file(folder / run, task)
  )
  tasks = _reported(job)
  return {
    'predictions': folder.relative_to(job.folder).as_posix(),
    'answers': {run: {t: hashed(run, t) for t in tasks} for run in runs},
    'models': {
      run: workdir_lib.read_json(folder / run / _NOTE)['model'] for run in runs
    },
  }
