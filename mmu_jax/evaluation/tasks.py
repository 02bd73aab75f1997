"""What a model is asked, and how its answers are scored."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmu_jax.data import batching
from mmu_jax.data import row as row_lib
from mmu_jax.data.row import Row
from mmu_jax.evaluation import decoding
from mmu_jax.metrics import bleu
from mmu_jax.metrics import bootstrap_interval
from mmu_jax.metrics import contains
from mmu_jax.metrics import exact_match
from mmu_jax.metrics import rouge
from mmu_jax.models import Model
from mmu_jax.typing import Params

# What each kind of row is averaged into: metric -> field of the prediction.
METRICS = {
    row_lib.GENERATION: {
        'exact_match': 'correct',
        'rouge1': 'rouge1',
        'rouge2': 'rouge2',
        'rougeL': 'rougeL',
        'bleu': 'bleu',
    },
    row_lib.CLOZE: {'cloze': 'correct'},
    row_lib.CLASSIFICATION: {'choice': 'correct'},
}


def predict(
    model: Model,
    params: Params,
    rows: Sequence[Row],
    encoder: batching.Encoder,
    *,
    max_new_tokens: int,
    size: int,
) -> list[dict[str, Any]]:
  """Asks every row and scores every answer.

  Generation and cloze rows are answered by greedy decoding, classification
  rows by the option with the lowest nll.

  Args:
    model: from ``models.build``.
    params: its parameters.
    rows: of one task; all with a picture, or all without.
    encoder: encodes them.
    max_new_tokens: longest answer.
    size: B, questions a batch.

  Returns:
    One prediction for each row, in the order of the rows: what was asked, what
    was answered, ``correct`` (0 or 1), and for generation its ROUGE and BLEU.
  """
  chosen = [r for r in rows if r.task == row_lib.CLASSIFICATION]
  written = [r for r in rows if r.task != row_lib.CLASSIFICATION]
  answers: dict[str, str] = {}
  if written:
    texts = decoding.generate(
        model,
        params,
        written,
        encoder,
        max_new_tokens=max_new_tokens,
        size=size,
    )
    answers |= {row.key: text for row, text in zip(written, texts)}
  if chosen:
    nll = decoding.option_nll(model, params, chosen, encoder, size=size)
    answers |= {
        row.key: row.options[int(np.argmin(x))] for row, x in zip(chosen, nll)
    }
  return [_score(row, answers[row.key]) for row in rows]


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
  for kind, metrics in METRICS.items():
    of_kind = [p for p in predictions if p['task_kind'] == kind]
    for metric, field in metrics.items() if of_kind else ():
      values = [p[field] for p in of_kind]
      groups = [p['person'] or p['image_key'] for p in of_kind]
      low, high = bootstrap_interval(values, groups=groups)
      results.append({
          'run': run,
          'step': step,
          'task': task,
          'split': task.removeprefix('validation_').split('_')[0],
          'metric': metric,
          'value': round(float(np.mean(values)), 6),
          'n': len(values),
          'low': round(low, 6),
          'high': round(high, 6),
      })
  return results


def _score(row: Row, prediction: str) -> dict[str, Any]:
  """One row of predictions/<task>.jsonl."""
  scored = {
      'key': row.key,
      'task_kind': row.task,
      'person': row.person,
      'image_key': row.image_key,
      'question': row.question,
      'answer': row.answer,
      'prediction': prediction,
  }
  if row.task == row_lib.CLOZE:
    return scored | {'correct': int(contains(prediction, row.fact))}
  scored['correct'] = int(exact_match(prediction, row.answer))
  if row.task == row_lib.GENERATION:
    scored |= rouge(prediction, row.answer)
    scored['bleu'] = bleu(prediction, row.answer)
  return scored
