"""Ours against the reference: what is equal, and how nearly."""

from collections.abc import Callable, Sequence
import functools
import re
from typing import Any

import families
import hub_folder
import jax
import numpy as np
import parity_reference as reference
import parity_rows as rows
import pytest

from mmu_jax import losses
from mmu_jax import models
from mmu_jax import tree as tree_lib
from mmu_jax.models.hub import weights

LOGITS, FEATURES, LOSS = 1e-4, 1e-5, 1e-5  # absolute
GRADIENTS = 1e-4  # of the norm of each tensor's gradient
# Softmax does not feel what is added to all keys, and CLIP does not rotate
# them: the gradient of this bias is rounding, compared with the whole one.
ZERO = re.compile(r'vision_tower\..*\.self_attn\.k_proj\.bias')


@functools.cache
def evaluate(model: models.Model) -> Callable[..., Any]:
  """``(params, batch) -> (loss, logits [B, L, V]), gradients``, jitted."""

  def loss(params, batch):
    logits = model.forward(params, batch)
    return losses.nll(logits, batch['targets'], batch['weights']), logits

  return jax.jit(jax.value_and_grad(loss, has_aux=True))


@functools.cache
def forward(model: models.Model) -> Callable[..., Any]:
  """``(params, batch) -> logits``, jitted."""
  return jax.jit(model.forward)


def everything(
  pair: reference.Pair,
  made: Sequence[rows.Row],
  side: str,
  record: Callable[[str, float], None],
) -> list[str]:
  """Runs both models on the same rows and compares all that they give.

  Args:
    pair: the models.
    made: the rows.
    side: where short ones are padded.
    record: is given the largest difference of logits, loss and gradients.

  Returns:
    The hub names of the tensors that have a gradient in torch.
  """
  batch = rows.batch(pair.torch, made, side)
  pair.torch.zero_grad()
  want = reference.forward(
    pair.torch, rows.inputs(pair.torch.config, made, side)
  )
  want.loss.backward()
  (loss, logits), grads = evaluate(pair.ours)(pair.ours.params, batch)
  real = batch['documents'] > 0
  difference = np.asarray(logits)[real] - want.logits.detach().numpy()[real]
  record('logits', float(np.abs(difference).max()))
  assert np.abs(difference).max() <= LOGITS
  record('loss', abs(float(loss) - want.loss.item()))
  assert float(loss) == pytest.approx(want.loss.item(), abs=LOSS)
  worst = _gradients(pair, grads)
  record('gradients', max(worst.values()))
  return list(worst)


def _gradients(pair, grads) -> dict[str, float]:
  """Compares tensor by tensor; returns hub name -> relative difference."""
  want = reference.gradients(pair.torch)
  got = by_tensor(pair.ours, grads)
  assert set(got) == set(want)
  whole = np.sqrt(sum((x**2).sum() for x in want.values() if x is not None))
  found = {}
  for name, x in want.items():
    if x is None:  # torch did not run this layer
      np.testing.assert_array_equal(got[name], 0, name)
      continue
    scale = whole if ZERO.fullmatch(name) else np.linalg.norm(x)
    assert scale > 0, f'{name}: nothing is compared'
    found[name] = float(np.linalg.norm(got[name] - x) / scale)
    assert found[name] <= GRADIENTS, name
  return found


def by_tensor(model: models.Model, tree: Any) -> dict[str, np.ndarray]:
  """Our parameters, or their gradients, as the tensors of a checkpoint."""
  leaves = {k: np.asarray(x) for k, x in tree_lib.flatten(tree).items()}
  found = {}
  for name, place in weights.table(model).places.items():
    leaf = leaves[place.leaf]
    entry = leaf if place.layer is None else leaf[place.layer]
    found[name] = hub_folder.to_file(entry, place)
  return found


def image_features(
  pair: reference.Pair, batch: dict[str, np.ndarray], made: Sequence[rows.Row]
) -> list[np.ndarray]:
  """Our tokens of every image, in the order of the batch."""
  found = np.asarray(jax.jit(pair.ours.image_features)(pair.ours.params, batch))
  split = families.CASES[pair.ours.family].pictures.split
  return split(found, pair.torch.config, batch, made)
