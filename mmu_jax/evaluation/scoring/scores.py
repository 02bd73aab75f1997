"""Scores of single answers, in one table by kind of question: ``METRICS``.

A metric is a function of an answer record (see ``asking.answers``); it returns
None for a record that has no such score. Scores are computed whenever results
are written, so a new metric is one line here and costs no model call.
"""

from collections.abc import Callable, Mapping
import functools
import pathlib

import numpy as np

from mmu_jax import metrics
from mmu_jax.data.dataset import Task
from mmu_jax.data.row import CLASSIFICATION
from mmu_jax.data.row import CLOZE
from mmu_jax.data.row import GENERATION
from mmu_jax.evaluation.asking import answers as answers_lib
from mmu_jax.evaluation.asking.answers import Answer
from mmu_jax.evaluation.asking.protocols import PROTOCOLS
from mmu_jax.metrics import forget_score
from mmu_jax.metrics import retain_score

Metric = Callable[[Answer], float | None]


def read_answers(
  folder: pathlib.Path, task: Task, tasks: Mapping[str, Task]
) -> list[Answer]:
  """Reads the answers of one run to a task, as its protocol scores them.

  They are the recorded ones, but for an error of a published evaluation: the
  last text of another task can stand for all texts of this one
  (``Protocol.answers_from``). Then ``unread`` is the text of the model.

  Args:
    folder: answers of a run, one file for each task.
    task: task whose answers are read; its rows are not needed.
    tasks: every task by name.

  Returns:
    Answer records; none if the task was not asked.
  """
  read = lambda task: answers_lib.read_records(
    answers_lib.task_file(folder, task.name)
  )
  found = read(task)
  if not found:
    return []
  source = PROTOCOLS[found[0]['protocol']].answers_from(task, tasks)
  others = read(source) if source else []
  written = [other for other in others if other['kind'] == GENERATION]
  if not written:
    return found
  last = written[-1]['text']
  return [answer | {'text': last, 'unread': answer['text']} for answer in found]


def score(answer: Answer) -> dict[str, float]:
  """Returns every score that an answer has, by metric."""
  found = {name: f(answer) for name, f in METRICS[answer['kind']].items()}
  return {name: value for name, value in found.items() if value is not None}


def shares_of_options(answer: Answer) -> np.ndarray | None:
  """Returns the model's distribution over the options; None without them.

  The nll are taken to six decimals: beyond them float32 sums are noise.
  """
  nll = [round(option['nll'], 6) for option in _given(answer, 'option')]
  return metrics.option_shares(nll) if nll else None


def truth_ratio_of(answer: Answer) -> float | None:
  """Returns how likely wrong answers are beside the paraphrased right one."""
  per_token = lambda given: given['nll'] / given['tokens']
  wrong = [per_token(given) for given in _given(answer, 'perturbed')]
  if not wrong:
    return None
  (paraphrase,) = _given(answer, 'paraphrase')
  return metrics.truth_ratio(per_token(paraphrase), wrong)


def _given(answer: Answer, of: str) -> list[dict]:
  """Likelihoods of the given answers of one name."""
  return [g for g in answer.get('likelihoods', ()) if g['of'] == of]


def _of_text(function: Callable[[Answer], float]) -> Metric:
  """A metric of the generated text; None where nothing was generated."""
  return lambda answer: function(answer) if 'text' in answer else None


def _detail(metric: Metric) -> Metric:
  """A metric that brief protocols leave out."""
  brief = lambda answer: PROTOCOLS[answer['protocol']].brief
  return lambda answer: None if brief(answer) else metric(answer)


# Four metrics are read from one count of words.
_rouge = functools.lru_cache(maxsize=1 << 14)(metrics.rouge)


def _words(kind: str) -> Metric:
  """A ROUGE score of the generated text."""
  return _of_text(lambda a: _rouge(a['text'], a['answer'])[kind])


def _contains(answer: Answer) -> float | None:
  """Whether a generated answer contains the fact, if the row has one."""
  if not answer['fact'].strip():
    return None
  return int(metrics.contains(answer['text'], answer['fact']))


def _probability(answer: Answer) -> float | None:
  """The probability of the given answer, per token."""
  given = _given(answer, 'answer')
  if not given:
    return None
  return metrics.answer_probability(given[0]['nll'], given[0]['tokens'])


def _nll(answer: Answer) -> float | None:
  """The nats of the given answer, all of it."""
  given = _given(answer, 'answer')
  return given[0]['nll'] if given else None


def _truth(function: Callable[[float], float]) -> Metric:
  """A score of the truth ratio."""

  def metric(answer):
    ratio = truth_ratio_of(answer)
    return None if ratio is None else function(ratio)

  return metric


def _choice(answer: Answer) -> float | None:
  """Whether the likeliest option, by its whole nll, is the right one."""
  options = _given(answer, 'option')
  if not options:
    return None
  likeliest = options[int(np.argmin([given['nll'] for given in options]))]
  return int(metrics.exact_match(likeliest['text'], answer['answer']))


def _chance(answer: Answer) -> float | None:
  """The share of right choices that guessing gives."""
  return 1 / len(answer['options']) if _given(answer, 'option') else None


def _choice_probability(answer: Answer) -> float | None:
  """The share of the right option, per token."""
  options = _given(answer, 'option')
  if not options:
    return None
  shares = metrics.option_shares(
    [given['nll'] for given in options], [given['tokens'] for given in options]
  )
  right = [given['text'] for given in options].index(answer['answer'])
  return float(shares[right])


def _exposure(answer: Answer) -> float | None:
  """The exposure of the right answer among the wrong ones that were given."""
  wrong = [given['nll'] for given in _given(answer, 'perturbed')]
  right = [given['nll'] for given in _given(answer, 'answer')]
  return _among(right, wrong)


def _choice_exposure(answer: Answer) -> float | None:
  """The exposure of the right option among the others."""
  options = _given(answer, 'option')
  nll = lambda right: [
    given['nll']
    for given in options
    if (given['text'] == answer['answer']) == right
  ]
  return _among(nll(True), nll(False))


def _among(right: list[float], wrong: list[float]) -> float | None:
  """The exposure of one of some nll; beyond six decimals they are noise."""
  if not right or not wrong:
    return None
  return metrics.exposure(round(right[0], 6), [round(x, 6) for x in wrong])


def _marked(name: str) -> Metric:
  """A mark that the protocol gives a generated choice; None if it has none."""
  mark = lambda a: PROTOCOLS[a['protocol']].mark(a).get(name)
  return _of_text(mark)


_exact_match = _of_text(
  lambda a: int(metrics.exact_match(a['text'], a['answer']))
)
_empty = _of_text(lambda a: int(metrics.is_empty(a['text'])))
_gibberish = _of_text(lambda a: int(metrics.is_gibberish(a['text'])))

METRICS: dict[str, dict[str, Metric]] = {
  GENERATION: {
    'exact_match': _exact_match,
    'rouge1': _words('rouge1'),
    'rouge2': _words('rouge2'),
    'rougeL': _words('rougeL'),
    'rougeL_recall': _words('rougeL_recall'),
    'bleu': _of_text(lambda a: metrics.bleu(a['text'], a['answer'])),
    'contains': _of_text(_contains),
    'probability': _detail(_probability),
    'nll': _nll,
    'exposure': _exposure,
    'truth_ratio_forget': _truth(forget_score),
    'truth_ratio_retain': _truth(retain_score),
    'empty': _empty,
    'gibberish': _gibberish,
  },
  CLOZE: {
    'cloze': _of_text(lambda a: int(metrics.contains(a['text'], a['fact']))),
    'cloze_probability': _probability,
    'cloze_empty': _empty,
    'cloze_gibberish': _gibberish,
  },
  CLASSIFICATION: {
    'choice': _choice,
    'choice_chance': _detail(_chance),
    'choice_exposure': _choice_exposure,
    'accuracy': _marked('accuracy'),
    'accuracy_first_letter': _marked('accuracy_first_letter'),
    'choice_probability': _detail(_choice_probability),
    'unparsed': _marked('unparsed'),
    'choice_empty': _empty,
    'choice_gibberish': _gibberish,
  },
}
