"""What an answer earns: one row of ``predictions/<run>/<task>.jsonl``."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mmu_jax import metrics
from mmu_jax.data import row as row_lib
from mmu_jax.data.row import Row
from mmu_jax.evaluation.asking.protocols import Protocol
from mmu_jax.metrics.truth_ratio import forget_score
from mmu_jax.metrics.truth_ratio import retain_score

Prediction = dict[str, Any]
Likelihood = tuple[float, int]  # nll in nats of an answer, and its tokens


def asked(row: Row) -> Prediction:
  """What a prediction says of its row."""
  return {
    'key': row.key,
    'task_kind': row.task,
    'person': row.person,
    'image_key': row.image_key,
    'question': row.question,
    'answer': row.answer,
  }


def written(row: Row, text: str, protocol: Protocol) -> Prediction:
  """The scores of a generated answer.

  Args:
    row: what was asked.
    text: what the model said.
    protocol: how a choice among options is read.

  Returns:
    ``prediction``, the text; ``correct`` (0 or 1) by what the row is: the
    letter of the right option, the fact within the answer, or the whole
    answer; ``parsed`` what was read, for options; ROUGE and BLEU of a
    generated answer; and, but for ``plain``, ``contains`` (the fact),
    ``empty`` and ``gibberish``.
  """
  scored: Prediction = {'prediction': text}
  if row.task == row_lib.CLASSIFICATION:
    scored |= protocol.mark(row, text)
    scored['accuracy'] = scored['correct']
  elif row.task == row_lib.CLOZE:
    scored['correct'] = int(metrics.contains(text, row.fact))
  else:
    scored['correct'] = int(metrics.exact_match(text, row.answer))
    scored |= metrics.rouge(text, row.answer)
    scored['bleu'] = metrics.bleu(text, row.answer)
  if protocol.name == 'plain':
    return scored
  if row.task == row_lib.GENERATION and row.fact.strip():
    scored['contains'] = int(metrics.contains(text, row.fact))
  return scored | {
    'empty': int(metrics.is_empty(text)),
    'gibberish': int(metrics.is_gibberish(text)),
  }


def compared(
  row: Row, found: Sequence[Likelihood], protocol: Protocol
) -> Prediction:
  """The scores of given answers, from how likely the model finds them.

  Args:
    row: what was asked.
    found: of the options; or of the answer (of a cloze row, the fact), and,
      where the row has wrong answers, its paraphrase and each of those.
    protocol: ``plain`` takes the likeliest option for the answer.

  Returns:
    Of options: ``choice`` (0 or 1), whether the right one is the likeliest by
    the whole nll, ``chosen``, which is, ``option_nll``, and ``probability``,
    the share of the right one, per token. Of an answer: ``probability``, per
    token, and ``truth_ratio``.
  """
  if row.task == row_lib.CLASSIFICATION:
    return _chosen(row, found, protocol)
  per_token = [nll / tokens for nll, tokens in found]
  scored: Prediction = {'probability': metrics.answer_probability(*found[0])}
  if len(found) > 1:
    ratio = metrics.truth_ratio(per_token[1], per_token[2:])
    scored['truth_ratio'] = ratio
    scored['truth_ratio_forget'] = forget_score(ratio)
    scored['truth_ratio_retain'] = retain_score(ratio)
  return scored


def _chosen(row, found, protocol):
  """Which option is the likeliest."""
  nll, tokens = zip(*found)
  chosen = row.options[int(np.argmin(nll))]
  choice = int(metrics.exact_match(chosen, row.answer))
  if protocol.name == 'plain':
    return {'prediction': chosen, 'correct': choice, 'choice': choice}
  right = row.options.index(row.answer)
  return {
    'choice': choice,
    'chosen': chosen,
    'option_nll': [round(float(x), 6) for x in nll],
    'probability': float(metrics.option_shares(nll, tokens)[right]),
  }
