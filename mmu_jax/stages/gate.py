"""The question before unlearning: does vanilla know the forget set at all?

A model cannot forget a person whom it never knew, and a low score afterwards
proves nothing. So before the first run vanilla is asked some of the
questions to be forgotten, once for each job: it is to find the true answer
among offered ones (the options of a row, or answers that are true of others)
more often than guessing does, than base does where base is another model, and
than vanilla itself does with the picture of somebody else: a model that knows
nobody has favourite answers, and may be right by them. Questions without
offered answers are answered in words instead.
"""

from collections.abc import Iterable, Sequence
import itertools
from typing import Any, NamedTuple

import numpy as np

from mmu_jax import distributed
from mmu_jax import workdir as workdir_lib
from mmu_jax.data.dataset import FORGET
from mmu_jax.data.readers import reading
from mmu_jax.data.row import CLASSIFICATION
from mmu_jax.data.row import GENERATION
from mmu_jax.data.row import Row
from mmu_jax.distributed import progress
from mmu_jax.errors import UserError
from mmu_jax.evaluation.asking import protocols
from mmu_jax.evaluation.asking import tasks as tasks_lib
from mmu_jax.evaluation.scoring import scores
from mmu_jax.evaluation.scoring import summarize
from mmu_jax.metrics import bootstrap_interval
from mmu_jax.stages import origins
from mmu_jax.stages.budgets import settle as budgets
from mmu_jax.stages.job import Job
from mmu_jax.stages.runs import final_params
from mmu_jax.stages.runs import is_finished
from mmu_jax.stages.runs import model_folder
from mmu_jax.stages.runs import scorer
from mmu_jax.workdir import seals

FILE = 'gate.json'
ROWS = 200  # questions; the interval is then 7 points wide to either side


class Known(NamedTuple):
  """How much vanilla knows of the forget set, beside guessing and base.

  Attributes:
    n: number of questions.
    different: number of different ones, however many pictures they are about.
    offered: whether answers were offered, the true one among them.
    vanilla: share of right answers of vanilla.
    low: lower end of its 95 % interval, by person or thing.
    high: upper end of its 95 % interval.
    guess: share that an even guess gives.
    luck: share of right answers that a lucky guesser has; at most one guesser
      in forty has more. It is high where there are few different questions.
    swapped: share of right answers of vanilla with pictures of others; None
      where no question has a picture that can be swapped.
    base: share of right answers of base; None where vanilla is base.
  """

  n: int
  different: int
  offered: bool
  vanilla: float
  low: float
  high: float
  guess: float
  luck: float
  swapped: float | None
  base: float | None

  @property
  def passes(self) -> bool:
    """Whether vanilla does better than whoever knows nothing, for sure."""
    return self.low > max(self.luck, self.swapped or 0.0, self.base or 0.0)

  @property
  def can_tell(self) -> bool:
    """Whether vanilla could do better than luck, with all answers right."""
    return bootstrap_interval([1.0] * self.n)[0] > self.luck

  def sentence(self) -> str:
    """Returns the finding as a sentence.

    Example:
      >>> known = Known(48, 12, True, 0.92, 0.87, 0.96, 0.25, 0.5, 0.1, None)
      >>> print(known.sentence())
      Before unlearning, vanilla found the true answer among offered ones for \
92% of 48 questions to be forgotten (between 87% and 96%); guessing finds 25% \
(50% with luck), and with pictures of others it found 10%.
    """
    share = lambda x: f'{100 * x:.0f}%'
    did = 'found the true answer among offered ones for'
    did = did if self.offered else 'had the right answer to'
    said = (
      f'Before unlearning, vanilla {did} {share(self.vanilla)} of {self.n} '
      f'questions to be forgotten (between {share(self.low)} and '
      f'{share(self.high)}); guessing finds {share(self.guess)} '
      f'({share(self.luck)} with luck)'
    )
    if self.base is not None:
      said += f', base {share(self.base)}'
    if self.swapped is not None:
      said += f', and with pictures of others it found {share(self.swapped)}'
    if self.passes:
      return f'{said}.'
    if self.can_tell:
      doubt = 'So it is not sure that it knew them, and forgetting what was '
      doubt += 'never known proves nothing'
    else:
      doubt = 'These are too few questions to tell knowledge from luck '
      doubt += f'(different ones: {self.different})'
    return f'{said}. {doubt}.'


def guard(job: Job, runs: Iterable[str]) -> None:
  """Stops a job whose vanilla does not know the forget set.

  Vanilla is asked once; the finding is kept in ``gate.json``. Nothing is done
  for runs without forget turns, and none is stopped that is finished, or with
  ``config.unlearn.require_memorised=False``.

  Args:
    job: the job, whose mesh is set.
    runs: names of runs of the config that are to be made.

  Raises:
    ValueError: if vanilla does no better than without any knowledge; says the
      numbers and the ways out.
  """
  forgetting, rows = _that_forget(job, runs), _questions(job)
  if not (forgetting and rows and is_finished(model_folder(job, 'vanilla'))):
    return  # where vanilla is missing, the run itself says so
  found, _ = distributed.first(_read, job)
  if found is None:
    found = ask_both(job, rows)._asdict()
    progress.say(f'gate: {Known(**found).sentence()}')
    distributed.first(_write, job, found)
  known = Known(**found)
  left = [run for run in forgetting if not is_finished(model_folder(job, run))]
  needed = job.config.unlearn.get('require_memorised', True)
  if left and needed and not known.passes:
    raise UserError(_refusal(job, known))


def told(job: Job, runs: Iterable[str]) -> tuple[str, str]:
  """Returns the sentence for a report, or a remark on why there is none.

  Args:
    job: the job.
    runs: names of the models that the report is about.

  Returns:
    Sentence and remark, at least one of them ''.
  """
  ours = [run for run in runs if run in job.config.runs]
  if not _questions(job) or not _that_forget(job, ours):
    return '', ''
  found, fault = _read(job)
  if found is not None:
    return Known(**found).sentence(), ''
  return '', (
    f'Whether vanilla knew what was to be forgotten is not said: {fault}. '
    '`mmu pipeline` asks it.'
  )


def ask_both(job: Job, rows: Sequence[Row]) -> Known:
  """Asks vanilla, and base where it is another model, the same questions.

  Args:
    job: the job, whose mesh is set.
    rows: questions, all with options or all without.
  """
  from scipy import stats

  values, groups = _ask(job, 'vanilla', rows)
  low, high = bootstrap_interval(values, groups=groups)
  other = job.config.vanilla.rounds != 0
  swapped = swap(rows, itertools.chain(*job.data.train.values()))
  different = len({(_who(row), row.question) for row in rows})
  shown = lambda values: round(float(np.mean(values)), 4)
  guess = shown([1 / len(row.options) if row.options else 0 for row in rows])
  return Known(
    n=len(values),
    different=different,
    offered=bool(rows[0].options),
    vanilla=shown(values),
    low=shown(low),
    high=shown(high),
    guess=guess,
    luck=shown(stats.binom.ppf(0.975, different, guess) / different),
    swapped=shown(_ask(job, 'vanilla', swapped)[0]) if swapped else None,
    base=shown(_ask(job, 'base', rows)[0]) if other else None,
  )


def swap(rows: Sequence[Row], others: Iterable[Row]) -> list[Row]:
  """Returns questions with pictures of others, without those in text.

  The picture is of another one to be forgotten if there is one, and else of
  anybody, but never of one of whom a row gives the same answer to this
  question. A question without such a picture is left out.

  Args:
    rows: questions about some people or things.
    others: rows about all others, which may hold the same ones.

  Example:
    >>> ada, bo = (Row(x, 'Who?', x, x, person=x, image=np.zeros((1, 1, 3)),
    ...                image_key=x) for x in ('ada', 'bo'))
    >>> [(row.answer, row.picture_key) for row in swap([ada, bo], [])]
    [('ada', 'bo'), ('bo', 'ada')]
  """
  everybody = [*rows, *others]
  near, far = [[o for o in x if o.picture] for x in (rows, everybody)]
  found = []
  for i, row in enumerate(rows):
    alike = lambda o: (o.question, o.answer) == (row.question, row.answer)
    same = {_who(o) for o in everybody if alike(o)}
    there = [o for o in near if _who(o) not in same]
    there = there or [o for o in far if _who(o) not in same]
    if row.picture and there:
      shown = there[i % len(there)]
      # It is another question, and keys are unique.
      key = f'{row.key}@{shown.picture_key}'
      found.append(row._replace(key=key, picture=shown.picture))
  return found


def _who(row: Row) -> str:
  """The person or thing of a row, or else its picture."""
  return row.person or row.picture_key or row.key


def _that_forget(job: Job, runs: Iterable[str]) -> list[str]:
  """The runs that take forget turns."""
  turns = lambda run: budgets.turns_of(job.config.runs[run])
  forgets = lambda run: any(FORGET in (t.split, t.beside) for t in turns(run))
  return [run for run in runs if forgets(run)]


def _questions(job: Job) -> list[Row]:
  """Questions to be forgotten, with offered answers if there are some."""
  ours = lambda task: task.role == FORGET and task.reported != job.validation
  tasks = [task for task in job.data.tasks.values() if ours(task)]
  trained = [task for task in tasks if not task.holdout]
  rows = [row for task in trained or tasks for row in task.rows]
  offered = [offer for row in rows if (offer := _offered(row)).options]
  written = [row for row in rows if row.task == GENERATION]
  return reading.thin(offered or written, ROWS, job.config.seed)


def _offered(row: Row) -> Row:
  """A row as a choice, if there is something to choose from.

  Of equally likely options the first is taken, so the true one stands last.
  """
  others = row.options or row.perturbed
  others = tuple(other for other in others if other != row.answer)
  if row.task not in (GENERATION, CLASSIFICATION) or not others:
    return row._replace(options=())
  return row._replace(task=CLASSIFICATION, options=(*others, row.answer))


def _ask(
  job: Job, model: str, rows: Sequence[Row]
) -> tuple[list[float], list[str | None]]:
  """Whether a model gives each right answer, and whom each is about."""
  spec = job.config.evaluation
  protocol = protocols.find_protocol('', job.data)
  if rows[0].options:  # nothing is written
    protocol = protocol._replace(ask=lambda question, encoder: None)
  batches = tasks_lib.predict(
    job.model,
    final_params(job, model),
    [protocols.Question(row) for row in rows],
    scorer(job),
    protocol=protocol,
    max_new_tokens=spec.max_new_tokens,
    size=spec.batch_size,
  )
  answers = [answer for batch in batches for answer in batch]
  return [_right(a) for a in answers], [summarize.group_of(a) for a in answers]


def _right(answer: dict[str, Any]) -> float:
  """Whether an answer is the right choice, or holds the fact of its row."""
  found = scores.score(answer)
  kinds = ('choice', 'contains', 'exact_match')
  return next(found[kind] for kind in kinds if kind in found)


def _read(job: Job) -> tuple[dict[str, Any] | None, str]:
  """The earlier finding; or None, and why it cannot be used."""
  path = job.folder / FILE
  if fault := seals.fault(path, FILE):
    return None, fault
  found = workdir_lib.read_json(path)
  if set(found) != set(Known._fields):
    return None, f'{path} is of another version'
  if seals.read_note(path) != _source(job):
    about = 'vanilla, base, dataset or evaluation.max_new_tokens'
    return None, f'{path} is about another {about}'
  return found, ''


def _source(job: Job) -> dict[str, Any]:
  """World, vanilla and base by content, and the longest answer in words."""
  content = lambda name: origins.content(model_folder(job, name))
  models = {name: content(name) for name in ('vanilla', 'base')}
  length = job.config.evaluation.max_new_tokens
  return {'world': job.world, 'max_new_tokens': length, **models}


def _write(job: Job, found: dict[str, Any]) -> None:
  """Keeps a finding, sealed."""
  workdir_lib.write_json(job.folder / FILE, found)
  seals.seal(job.folder / FILE, FILE, _source(job))


def _refusal(job: Job, found: Known) -> str:
  """The error: numbers, why they matter, ways out."""
  rounds = job.config.vanilla.rounds
  ways = 'teach it first (--config.vanilla.rounds above 0)'
  if rounds:
    ways = f'train vanilla for longer in a new --workdir (it had {rounds} '
    ways += f'rounds: --config.vanilla.rounds={3 * rounds}, say)'
  ways += '; or give a checkpoint that knows them (--config.model.path, with '
  ways += '--config.vanilla.rounds=0)'
  if not found.can_tell:  # no model could pass
    ways = 'give more questions about the forget set, or more offered answers, '
    ways += 'in the data (more pictures are no more questions)'
  return (
    f'vanilla must know what it is to forget. {found.sentence()} Either '
    f'{ways}; or set --config.unlearn.require_memorised=False to go on all the '
    'same.'
  )
