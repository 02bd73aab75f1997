"""The stages that score models and show the scores.

Answers to the questions as they are usual for a dataset, its default protocol
without shots, are in ``predictions/<run>``; those of another protocol or number
of shots are apart, in ``predictions/<protocol>-<shots>shot/<run>``. So a model
can be asked in several ways in one workdir, and no way takes over the scores of
another. ``results.jsonl`` of the workdir, and with it the report, is of the
protocol that was asked last.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import functools
import pathlib
from typing import Any

import jax

from mmu_jax import checkpoint
from mmu_jax import distributed
from mmu_jax import workdir as workdir_lib
from mmu_jax.data import row as row_lib
from mmu_jax.distributed import preemption
from mmu_jax.distributed import progress
from mmu_jax.errors import MissingError
from mmu_jax.errors import UserError
from mmu_jax.evaluation.asking import protocols
from mmu_jax.evaluation.asking import tasks as tasks_lib
from mmu_jax.evaluation.asking.protocols import Protocol
from mmu_jax.evaluation.asking.protocols import Question
from mmu_jax.evaluation.report import gallery
from mmu_jax.evaluation.report import page as report_lib
from mmu_jax.evaluation.scoring import comparison
from mmu_jax.evaluation.scoring import endpoint as chat
from mmu_jax.evaluation.scoring import judge as judge_lib
from mmu_jax.evaluation.scoring.scores import Prediction
from mmu_jax.stages.job import Config
from mmu_jax.stages.job import final_folder
from mmu_jax.stages.job import final_params
from mmu_jax.stages.job import Folder
from mmu_jax.stages.job import Job
from mmu_jax.stages.job import open_job
from mmu_jax.stages.job import run_folder
from mmu_jax.training import loop

RESULTS = 'results.jsonl'
RETRAINED = 'retrained'
SCORED = ('vanilla', RETRAINED)  # before the runs of the config


def evaluate(
  config: Config, workdir: Folder, runs: Sequence[str] | None = None
) -> list[dict[str, Any]]:
  """Asks models the questions of every task and scores the answers.

  Models whose scores exist are skipped, and of a model whose evaluation was
  stopped the questions that were answered. Each protocol and number of shots
  has its own answers; ``evaluation.batch_size`` and the judge may change.

  Args:
    config: the whole config.
    workdir: of the job; must hold the models that are still to be asked.
    runs: which; None for all that are finished.

  Returns:
    The rows of ``results.jsonl``: of these runs and of those scored before,
    asked in the same way.

  Raises:
    ValueError: if a run is unknown.
    FileNotFoundError: if a model is missing, or there is none.
  """
  every = [*SCORED, *config.runs]
  unknown = [run for run in runs or () if run not in every]
  if unknown:
    raise UserError(
      f'unknown run {", ".join(map(repr, unknown))}; what can be evaluated '
      f'is {", ".join(every)}.'
    )
  judge = chat.read(dict(config.evaluation.get('judge', {})))
  job = open_job(config, workdir)
  if runs is None:
    final = lambda run: run_folder(job, run) / loop.FINAL
    runs = [r for r in every if checkpoint.latest_step(final(r)) is not None]
  with jax.set_mesh(job.mesh):
    for run in runs:
      _evaluate(job, run)
  return distributed.first(_collect, job, every, judge)


def _collect(
  job: Job, runs: Sequence[str], judge: chat.Endpoint | None
) -> list[dict[str, Any]]:
  """Writes ``results.jsonl`` of all runs that have been scored."""
  scored = _scored(job, runs)
  results = [row for rows in scored.values() for row in rows]
  if not results:
    raise MissingError(
      f'there is no model to evaluate in {job.folder}. Train one first: mmu '
      'train --run=vanilla, or mmu pipeline for everything.'
    )
  protocol = _protocol(job)
  if protocol.name != 'plain':
    results += _comparisons(job, scored)
  if judge is not None:
    results += _judged(job, scored, judge)
  if protocol.name != 'plain':
    asked = {'protocol': protocol.name, 'shots': _shots(job)}
    results = [row | asked for row in results]
  workdir_lib.write_jsonl(job.folder / RESULTS, results)
  return results


def report(config: Config, workdir: Folder) -> pathlib.Path:
  """Writes plots and ``report.html`` from the files of a workdir.

  Args:
    config: the whole config.
    workdir: of the job; must hold ``results.jsonl``.

  Returns:
    The path of the page.

  Raises:
    FileNotFoundError: if there are no results.
  """
  job = open_job(config, workdir)
  return pathlib.Path(distributed.first(_report, job))


def _report(job: Job) -> str:
  """Writes the report; returns its path."""
  row = report_lib.read_results(job.folder)[0]
  folder = _apart(job, row.get('protocol', ''), row.get('shots', 0))
  done = lambda run: (folder / run / RESULTS).exists()
  names = [run for run in (*SCORED, *job.config.runs) if done(run)]
  tasks = {name: task.rows for name, task in job.data.tasks.items()}
  gallery.save(job.folder, names, tasks, job.data.names, predictions=folder)
  return str(report_lib.write_report(job.folder, predictions=folder))


def _apart(job: Job, protocol: str, shots: int) -> pathlib.Path:
  """The folder of all answers that were asked for in one way."""
  folder = job.folder / 'predictions'
  name, usual = (_find(job, p).name for p in (protocol, ''))
  if name == usual and not shots:
    return folder
  return folder / f'{name}-{shots}shot'


def _folder(job: Job, run: str) -> pathlib.Path:
  """Where the predictions of a run are."""
  return _apart(job, _protocol(job).name, _shots(job)) / run


def _scored(job: Job, runs: Iterable[str]) -> dict[str, list[dict[str, Any]]]:
  """The scores of every run that has some; its parameters may be gone."""
  files = {run: _folder(job, run) / RESULTS for run in runs}
  found = {
    run: workdir_lib.read_jsonl(f) for run, f in files.items() if f.exists()
  }
  return {run: rows for run, rows in found.items() if rows}


def _evaluate(job: Job, run: str) -> None:
  """Scores one model on every reported task, unless that is done."""
  folder, made = _folder(job, run), run_folder(job, run) / workdir_lib.CONFIG
  done = distributed.first((folder / RESULTS).exists)
  if not done or not distributed.first(made.exists):
    final_folder(job, run)  # says what to do where there is none
  model = distributed.first(workdir_lib.read_json, made)
  workdir_lib.claim(folder, {'evaluation': _settings(job), 'model': model})
  if done:
    progress.say(f'evaluate {run}: found in {folder}')
    return
  found = _answers(job, run, folder)
  distributed.first(_summarize, job, run, folder, found)


def _summarize(
  job: Job,
  run: str,
  folder: pathlib.Path,
  found: Mapping[str, Sequence[Prediction]],
) -> None:
  """Writes the scores of a model that has answered everything."""
  step = checkpoint.read_note(final_folder(job, run))['rounds']
  results = [
    row
    for task, predictions in found.items()
    for row in tasks_lib.summarize(predictions, task=task, run=run, step=step)
  ]
  if _protocol(job).name != 'plain':
    results += comparison.utility(found, run=run, step=step)
  workdir_lib.write_jsonl(folder / RESULTS, results)


def _settings(job: Job) -> dict[str, Any]:
  """What the answers of a folder depend on; its name says the rest.

  The judge may be asked later, and fewer questions at a time if memory is out.
  """
  elsewhere = ('judge', 'batch_size', 'protocol', 'shots')
  spec = job.config.evaluation.to_dict()
  return {k: v for k, v in spec.items() if k not in elsewhere}


def _answers(
  job: Job, run: str, folder: pathlib.Path
) -> dict[str, list[Prediction]]:
  """Asks a model every question that is left; returns all its predictions."""
  spec, protocol = job.config.evaluation, _protocol(job)
  questions = _questions(job, protocol)
  params = functools.cache(lambda: final_params(job, run))
  ask = lambda questions, done: tasks_lib.predict(
    job.model,
    params(),
    questions,
    job.scorer,
    protocol=protocol,
    max_new_tokens=spec.max_new_tokens,
    size=spec.batch_size,
    done=done,
  )
  total = sum(map(len, questions.values()))
  found: dict[str, list[Prediction]] = {}
  with progress.track(None, f'evaluate {run}', total=total) as bar:
    for task, asked in questions.items():
      bar.set_postfix_str(task)
      path = folder / f'{task}.jsonl'
      found[task] = _predict(ask, asked, path, bar)
      source = protocol.answers_from(task)
      if source in questions:
        found[task] = _reread(found, asked, task, source, protocol)
        distributed.first(workdir_lib.write_jsonl, path, found[task])
  return found


def _find(job: Job, name: str) -> Protocol:
  """The protocol of a name; a prepared dataset is known by its folder."""
  data = job.config.data
  return protocols.find(name, data.name, data.get('path', ''))


def _protocol(job: Job) -> Protocol:
  """The protocol of a config, checked against its other settings."""
  spec = job.config.evaluation
  protocol = _find(job, spec.get('protocol', ''))
  if protocol.max_new_tokens not in (None, spec.max_new_tokens):
    raise UserError(
      f'the protocol {protocol.name!r} generates '
      f'{protocol.max_new_tokens} tokens, got '
      f'max_new_tokens={spec.max_new_tokens}. Set evaluation.max_new_tokens '
      "to that, or use protocol='fixed'."
    )
  return protocol


def _shots(job: Job) -> int:
  """How many people's questions stand before each question."""
  return job.config.evaluation.get('shots', 0)


def _questions(job: Job, protocol: Protocol) -> dict[str, list[Question]]:
  """The questions of every reported task, those read by others first."""
  tasks = {
    name: task.rows for name, task in job.data.tasks.items() if task.reported
  }
  names = sorted(tasks, key=lambda task: protocol.answers_from(task) in tasks)
  return {
    task: protocol.questions(task, tasks, _shots(job), job.config.seed)
    for task in names
  }


def _predict(
  ask: Callable[..., Iterable[list[Prediction]]],
  questions: Sequence[Question],
  path: pathlib.Path,
  bar: Any,
) -> list[Prediction]:
  """Asks what is left of a task; every batch is on disk when it is answered.

  Until all are answered they are in ``<task>.partial.jsonl``. A process that
  is killed loses the batch that it was at. Of several processes the first
  reads and writes.
  """
  partial = path.with_suffix('.partial.jsonl')
  found = {p['key']: p for p in distributed.first(_begin, path, partial)}
  bar.update(len(found))
  if any(question.row.key not in found for question in questions):
    for number, batch in enumerate(ask(questions, found.keys()), 1):
      distributed.first(workdir_lib.append_jsonl, partial, batch)
      new = {p['key']: p for p in batch}
      bar.update(len(new.keys() - found.keys()))
      found |= new
      if preemption.requested(number):
        raise preemption.Preempted(
          f'{path.parent.name}: the answers to {path.stem} so far are kept'
        )
  predictions = [found[question.row.key] for question in questions]
  distributed.first(_finish, path, partial, predictions)
  return predictions


def _begin(path: pathlib.Path, partial: pathlib.Path) -> list[Prediction]:
  """What is answered of a task; all that the partial file will go on from."""
  if path.exists():
    return workdir_lib.read_jsonl(path)
  found = workdir_lib.read_jsonl(partial) if partial.exists() else []
  workdir_lib.write_jsonl(partial, found)  # without a cut-off line
  return found


def _finish(
  path: pathlib.Path, partial: pathlib.Path, rows: Sequence[Prediction]
) -> None:
  """Puts the answers of a task where those of a finished one are."""
  if not path.exists():
    workdir_lib.write_jsonl(path, rows)
  # A kill behind the last line leaves it.
  partial.unlink(missing_ok=True)


def _reread(found, questions, task, source, protocol):
  """What a published evaluation makes of a task: another's last answer."""
  written = [p for p in found[source] if p['task_kind'] == row_lib.GENERATION]
  if not written or not found[task] or 'unread' in found[task][0]:
    return found[task]
  last = written[-1]['prediction']
  return tasks_lib.reread(questions, found[task], last, protocol)


def _comparisons(
  job: Job, scored: Mapping[str, Sequence[Mapping[str, Any]]]
) -> list[dict[str, Any]]:
  """The runs beside the retrained model, where both have been scored."""
  if RETRAINED not in scored:
    return []
  read = lambda run, task: workdir_lib.read_jsonl(
    _folder(job, run) / f'{task}.jsonl'
  )
  results = []
  for run, (first, *_) in scored.items():
    if run == RETRAINED:
      continue
    step = first['step']
    for task in _questions(job, _protocol(job)):
      results += comparison.against(
        read(run, task), read(RETRAINED, task), task=task, run=run, step=step
      )
  return results


def _judged(
  job: Job,
  scored: Mapping[str, Sequence[Mapping[str, Any]]],
  judge: chat.Endpoint,
) -> list[dict[str, Any]]:
  """What a judge says of the answers of the runs that have been scored."""
  results = []
  for run, (first, *_) in scored.items():
    folder = _folder(job, run)
    found = {
      task: workdir_lib.read_jsonl(folder / f'{task}.jsonl')
      for task in job.data.tasks
      if job.data.tasks[task].reported
    }
    results += judge_lib.factuality(
      judge,
      found,
      folder,
      job.folder / 'judge.jsonl',
      run=run,
      step=first['step'],
    )
  return results
