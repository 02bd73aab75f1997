"""The same work in torch, as the published scripts do it: row by row, eager.

Plain rows in batches that are padded, a backward pass, a clip, AdamW; squared
gradients summed leaf by leaf; answers by ``generate``. Only LLaVA.
"""

from collections.abc import Callable, Sequence
import copy
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from mmu_jax.data.batches import batching
from mmu_jax.data.encoding.processors import Processor
from mmu_jax.data.row import Row
from mmu_jax.evaluation.asking import decoding
from mmu_jax.typing import Batch

RATE, CLIP = 3e-4, 1.0
UNLABELLED = -100  # transformers leaves it out of the loss


def given(batch: Batch) -> dict[str, Any]:
  """A batch of plain rows as transformers takes it."""
  targets = np.where(batch['weights'] > 0, batch['targets'], UNLABELLED)
  labels = np.full_like(targets, UNLABELLED)
  labels[:, 1:] = targets[:, :-1]
  pixels = batch['pixel_values']
  found = dict(
    input_ids=batch['tokens'].astype(np.int64),
    attention_mask=(batch['documents'] > 0).astype(np.int64),
    labels=labels.astype(np.int64),
    pixel_values=pixels.reshape(-1, *pixels.shape[2:]),
  )
  return {name: torch.tensor(x) for name, x in found.items()}


def _log_probs(logits, labels):
  """log p ``[B, L - 1, V]``, the labels, and which of them count."""
  labels = labels[:, 1:]
  return logits[:, :-1].log_softmax(-1), labels, labels != UNLABELLED


def _nll(logits, labels):
  """The nll of the answer of each row."""
  log_p, labels, real = _log_probs(logits, labels)
  picked = log_p.gather(-1, labels.clamp(min=0)[..., None])[..., 0]
  return -(picked * real).sum(1)


def _cross_entropy(model, reference, batch):
  del reference
  return model(**batch).loss


def _ascent(model, reference, batch):
  return -_cross_entropy(model, reference, batch)


def _near_reference(model, reference, batch):
  """Cross-entropy, and KL to the reference over the answers."""
  out = model(**batch)
  with torch.no_grad():
    ref, labels, real = _log_probs(reference(**batch).logits, batch['labels'])
  log_p, _, _ = _log_probs(out.logits, labels=batch['labels'])
  kl = functional.kl_div(log_p, ref, log_target=True, reduction='none').sum(-1)
  return out.loss + kl[real].mean()


def _preference(model, reference, batch, beta=0.1):
  """NPO, a term for each answer."""
  nll = _nll(model(**batch).logits, batch['labels'])
  with torch.no_grad():
    ref = _nll(reference(**batch).logits, batch['labels'])
  return -2 / beta * functional.logsigmoid(beta * (nll - ref)).mean()


# method -> turns: split, loss, whether the mask acts
METHODS = {
  'ga_diff': (('forget', _ascent, 0), ('retain', _cross_entropy, 0)),
  'kl_min': (('forget', _ascent, 0), ('retain', _near_reference, 0)),
  'npo': (('forget', _preference, 0),),
  'mmunlearner': (('forget', _ascent, 1), ('retain', _cross_entropy, 0)),
}


def rounds(
  model: Any, method: str, made: dict[str, Any], mask: list[Any] | None
) -> Callable[[], float]:
  """Returns a function that takes one round and returns its last loss.

  Args:
    model: model of transformers; is copied.
    method: key of ``METHODS``.
    made: batches of each split, see ``given``.
    mask: weights that a masked turn may change, as bits; None for no mask.
  """
  reference = copy.deepcopy(model) if method in ('kl_min', 'npo') else None
  model = copy.deepcopy(model).train()
  adamw = torch.optim.AdamW(model.parameters(), RATE, weight_decay=0.0)

  def take():
    for split, loss, masked in METHODS[method]:
      adamw.zero_grad()
      value = loss(model, reference, made[split])
      value.backward()
      if masked:
        for p, m in zip(model.parameters(), mask):
          if p.grad is not None:
            p.grad *= m
      torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
      adamw.step()
    return value.item()

  return take


def importance(model: Any, batches: Sequence[Batch]) -> Callable[[], list[Any]]:
  """Returns a function that gives the mean squared gradient of batches."""
  made = [given(batch) for batch in batches]
  params = list(model.parameters())

  def measure():
    sums = [torch.zeros_like(p) for p in params]
    for batch in made:
      model.zero_grad()
      model(**batch).loss.backward()
      for total, p in zip(sums, params):
        if p.grad is not None:
          total += p.grad**2
    return [total / len(made) for total in sums]

  return measure


def mask(forget: list[Any], retain: list[Any], eps=1e-15) -> list[Any]:
  """The published mask: where the ratio of two importances is 1 or more."""
  return [(f + eps) / (r + eps) >= 1 for f, r in zip(forget, retain)]


def answers(
  model: Any,
  rows: Sequence[Row],
  processor: Processor,
  new_tokens: int,
  size: int,
) -> list[str]:
  """Answers questions by ``generate``, so many in a batch, padded left."""
  encoder = batching.Encoder(processor)
  texts = []
  for i in range(0, len(rows), size):
    here = rows[i : i + size]
    (batch,) = decoding.prompt_batches(
      here, encoder, size=len(here), padding='left'
    )
    start = int(np.argmax((batch['documents'] > 0).any(0)))
    made = {k: x for k, x in given(batch).items() if k != 'labels'}
    for name in ('input_ids', 'attention_mask'):
      made[name] = made[name][:, start:]
    with torch.no_grad():
      out = model.generate(
        **made,
        do_sample=False,
        max_new_tokens=new_tokens,
        eos_token_id=None,
        pad_token_id=0,
      )
    said = out[:, made['input_ids'].shape[1] :]
    texts += processor.tokenizer.batch_decode(said, skip_special_tokens=True)
  return [text.strip() for text in texts]
