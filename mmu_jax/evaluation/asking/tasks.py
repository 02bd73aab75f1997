"""What a model is asked, batch by batch, and what its answers come to."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mmu_jax import sharding
from mmu_jax.data import row as row_lib
from mmu_jax.data.batches import batching
from mmu_jax.data.encoding.patches import bucket
from mmu_jax.data.encoding.processing import Example
from mmu_jax.errors import UserError
from mmu_jax.evaluation.asking import decoding
from mmu_jax.evaluation.asking.protocols import Protocol
from mmu_jax.evaluation.asking.protocols import Question
from mmu_jax.evaluation.asking.protocols.question import split_of
from mmu_jax.evaluation.scoring import scores
from mmu_jax.evaluation.scoring.scores import Prediction
from mmu_jax.metrics import bootstrap_interval
from mmu_jax.models import Model
from mmu_jax.typing import Batch
from mmu_jax.typing import Params

# What each kind of row is averaged into: metric -> field of the prediction.
# A metric is left out where no prediction has its field.
_SAID = {'empty': 'empty', 'gibberish': 'gibberish'}
METRICS = {
  row_lib.GENERATION: {
    'exact_match': 'correct',
    'rouge1': 'rouge1',
    'rouge2': 'rouge2',
    'rougeL': 'rougeL',
    'bleu': 'bleu',
    'contains': 'contains',
    'probability': 'probability',
    'truth_ratio_forget': 'truth_ratio_forget',
    'truth_ratio_retain': 'truth_ratio_retain',
    **_SAID,
  },
  row_lib.CLOZE: {
    'cloze': 'correct',
    'cloze_probability': 'probability',
    **{f'cloze_{name}': field for name, field in _SAID.items()},
  },
  row_lib.CLASSIFICATION: {
    'choice': 'choice',
    'accuracy': 'accuracy',
    'accuracy_first_letter': 'first_letter_correct',
    'choice_probability': 'probability',
    'unparsed': 'unparsed',
    **{f'choice_{name}': field for name, field in _SAID.items()},
  },
}
# The truth ratio is scored by what was to become of the knowledge.
_NOT_OF = {'forget': 'truth_ratio_retain'}


class Values(NamedTuple):
  """The scores of one metric, and whom each is about."""

  values: list[float]
  groups: list[str | None]


def predict(
  model: Model,
  params: Params,
  questions: Sequence[Question],
  encoder: batching.Encoder,
  *,
  protocol: Protocol,
  max_new_tokens: int,
  size: int,
  done: Collection[str] = (),
) -> Iterator[list[Prediction]]:
  """Asks every question and scores every answer, batch by batch.

  Questions with options come after the others. The shape of a batch is that of
  all questions, so what is done already changes no other answer.

  Args:
    model: from ``models.build``.
    params: its parameters.
    questions: of one task.
    encoder: encodes them.
    protocol: asks, and reads the answers.
    max_new_tokens: longest answer.
    size: B, questions a batch.
    done: keys of rows; a batch that has no others is left out.

  Yields:
    One prediction for each question of a batch: what was asked, the raw
    answer, what was read from it, and its scores.

  Raises:
    ValueError: if a prompt and its answer are longer than what the model was
      trained on, where its config says so; before anything is asked.
  """
  has_options = lambda q: q.row.task == row_lib.CLASSIFICATION
  for chosen in (False, True):
    group = [q for q in questions if has_options(q) == chosen]
    chunks = [group[i : i + size] for i in range(0, len(group), size)]
    left = [c for c in chunks if any(q.row.key not in done for q in c)]
    if not left:
      continue
    ask = _Stack(encoder, size, (_prompts(q, protocol, encoder) for q in group))
    given = _Stack(encoder, size, (protocol.answers(q, encoder) for q in group))
    _check_length(model, max(ask.end + max_new_tokens, given.end))
    for chunk in left:
      texts = _texts(
        model, params, chunk, protocol, ask, max_new_tokens=max_new_tokens
      )
      found = _likelihoods(model, params, chunk, protocol, given)
      yield [
        _prediction(question, texts.get(i), found.get(i), protocol)
        for i, question in enumerate(chunk)
      ]


def _check_length(model: Model, length: int) -> None:
  """Raises where a model would see positions that it was not trained on."""
  limit = model.config.text_config.max_position_embeddings
  if 0 < limit < length:
    raise UserError(
      f'a prompt with its answer has at most {limit} positions, the '
      "max_position_embeddings of the model's config.json; got "
      f'{length}. Set evaluation.shots to fewer, or lower '
      'evaluation.max_new_tokens; or use a model with a longer context.'
    )


class _Stack:
  """Makes batches of one static shape; an entry is a list of examples.

  Attributes:
    encoder: encodes them.
    end: the position behind the last one of any entry; 0 if there are none.
  """

  def __init__(
    self,
    encoder: batching.Encoder,
    size: int,
    entries: Iterable[Sequence[Example]],
  ):
    """Measures all entries, and keeps none of them."""
    self.encoder, self.end = encoder, 0
    self._size, longest, room = size, 0, 0
    for examples in entries:
      if examples:
        tokens, pictures = self._document(examples)
        longest = max(longest, len(tokens['tokens']))
        self.end = max(self.end, int(tokens['positions'].max()) + 1)
        room = max(room, encoder.room(pictures))
    self._shape = bucket(longest), encoder.pixel_shape(room)

  def batch(self, entries: Sequence[Sequence[Example]]) -> Batch:
    """The entries, one a row, packed; none of them empty.

    On the mesh that is set, if one is: each process makes its own rows.
    """
    rows = sharding.share(self._size)
    sequences = [
      [self._document(entries[row])] for row in rows if row < len(entries)
    ]
    made = self.encoder.batch(sequences, *self._shape, len(rows))
    return sharding.place_shared(made, self._size)

  def _document(self, examples):
    """Packs examples; a placeholder without a picture is a plain token."""
    tokens, pictures = self.encoder.document(examples)
    if not pictures:
      tokens['image_slots'] = np.full_like(tokens['image_slots'], -1)
    return tokens, pictures


def _prompts(question, protocol, encoder) -> list[Example]:
  """The prompt of a question, if its answer is generated."""
  asked = protocol.ask(question, encoder)
  return [asked.example] if asked else []


def _texts(model, params, chunk, protocol, stack, *, max_new_tokens):
  """Place in the chunk -> the prompt and the answer, of what is generated."""
  asked = {
    i: x
    for i, q in enumerate(chunk)
    if (x := protocol.ask(q, stack.encoder)) is not None
  }
  if not asked:
    return {}
  said = decoding.texts(
    model,
    params,
    stack.batch([[x.example] for x in asked.values()]),
    stack.encoder.processor,
    max_new_tokens=max_new_tokens,
  )
  return {i: (x.text, text) for (i, x), text in zip(asked.items(), said)}


def _likelihoods(model, params, chunk, protocol, stack):
  """Place in the chunk -> (nll, tokens) of each given answer."""
  given = {
    i: x
    for i, q in enumerate(chunk)
    if (x := protocol.answers(q, stack.encoder))
  }
  if not given:
    return {}
  found = decoding.answer_nll(model, params, stack.batch([*given.values()]))
  return {
    i: [
      (float(x), int(example.labelled.sum()))
      for x, example in zip(nll, examples, strict=True)
    ]
    for (i, examples), nll in zip(given.items(), found)
  }


def _prediction(question, said, found, protocol) -> Prediction:
  """One row of predictions/<run>/<task>.jsonl."""
  row = question.row
  prediction = scores.asked(row)
  if said:
    prompt, text = said
    prediction |= scores.written(row, text, protocol)
    if protocol.name != 'plain':
      prediction['prompt'] = prompt
  if found:
    prediction |= scores.compared(row, found, protocol)
  return prediction


def reread(
  questions: Sequence[Question],
  predictions: Sequence[Prediction],
  text: str,
  protocol: Protocol,
) -> list[Prediction]:
  """Scores one text as the answer to every question: a published error.

  Args:
    questions: of a task.
    predictions: of the same, in their order.
    text: what is scored for all of them.
    protocol: whose error it is.

  Returns:
    Predictions whose ``unread`` is what the model did answer.
  """
  return [
    prediction
    | scores.written(question.row, text, protocol)
    | {'unread': prediction['prediction']}
    for question, prediction in zip(questions, predictions, strict=True)
  ]


def collect(predictions: Sequence[Prediction], task: str) -> dict[str, Values]:
  """Sorts the scores of a task by metric.

  Args:
    predictions: of one task.
    task: its name.

  Returns:
    metric -> its scores, for the metrics that some prediction has.
  """
  found = {}
  for kind, metrics in METRICS.items():
    of_kind = [p for p in predictions if p['task_kind'] == kind]
    for metric, field in metrics.items():
      scored = [p for p in of_kind if field in p]
      if scored and metric != _NOT_OF.get(split_of(task), 'truth_ratio_forget'):
        groups = [p['person'] or p['image_key'] for p in scored]
        found[metric] = Values([p[field] for p in scored], groups)
  return found


def summarize(
  predictions: Sequence[Mapping[str, Any]], *, task: str, run: str, step: int
) -> list[dict[str, Any]]:
  """Averages predictions into results, each with n and a 95 % interval.

  The interval is a bootstrap over people where rows name them: answers about
  one person stand and fall together.

  Args:
    predictions: of one task.
    task: its name: ``'forget_vqa'``.
    run: whose answers they are: ``'mmunlearner'``.
    step: the round that the run had reached.

  Returns:
    Rows of ``results.jsonl``.
  """
  results = []
  for metric, (values, groups) in collect(predictions, task).items():
    low, high = bootstrap_interval(values, groups=groups)
    value = float(np.mean(values))
    results.append(
      result(run, step, task, metric, value, (low, high), len(values))
    )
  return results


def result(
  run: str,
  step: int,
  task: str,
  metric: str,
  value: float,
  interval: tuple[float, float],
  n: int,
) -> dict[str, Any]:
  """One row of ``results.jsonl``; a p-value is small, and not 0."""
  shorten = lambda x: float(f'{x:.6g}')
  return {
    'run': run,
    'step': step,
    'task': task,
    'split': split_of(task),
    'metric': metric,
    'value': shorten(value),
    'n': n,
    'low': shorten(interval[0]),
    'high': shorten(interval[1]),
  }
