"""Saliencies in one byte a weight, with the mask at their threshold exact.

Two float32 importances of a 7B model are 56 GB; a mask needs their ratio alone,
and of it no more than how far it is from the threshold. So a score becomes one
of 255 steps of an eighth of a factor of two, and the threshold is the border
between two of them: whoever asks for the mask of that threshold, or of one some
whole steps away, gets that of the float32 scores, bit for bit.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from mmu_jax import tree as tree_lib
from mmu_jax.errors import UserError
from mmu_jax.typing import Mask
from mmu_jax.typing import Params

STEPS = 8  # for a factor of two
TIE = 0  # the code of what is never salient
MIDDLE = 128  # the lowest code that reaches the threshold


def quantize(
  scores: Params, ties: Mask = None, threshold: float = 1.0
) -> Params:
  r"""Turns scores into codes.

  .. math:: c = 128 + \lfloor 8 \log_2 (s / t) \rfloor

  clipped to 1 ... 255, that is to ratios within 2^16 of the threshold.

  Args:
    scores: a saliency, tree of float32 > 0, or one leaf of it.
    ties: bool tree of entries that are not salient whatever their score, from
      ``saliency.dead``; None where they compete.
    threshold: t > 0, of the mask that is wanted.

  Returns:
    A tree of uint8.

  Raises:
    ValueError: if the threshold is not positive, or the trees differ.

  Example:
    >>> quantize(jnp.array([0.5, 0.99, 1., 2.]))
    Array([120, 127, 128, 136], dtype=uint8)
  """
  edges = jnp.asarray(_edges(threshold))
  if ties is None:
    return jax.tree.map(lambda x: _quantize(x, edges, None), scores)
  tree_lib.check_same(ties, scores, got_name='ties', want_name='the scores')
  return jax.tree.map(lambda x, t: _quantize(x, edges, t), scores, ties)


def to_mask(codes: Params, threshold: float = 1.0, stored: float = 1.0) -> Mask:
  """Marks the scores that reach a threshold; ties never do.

  Args:
    codes: from ``quantize``.
    threshold: ``stored`` times a power of 2^(1/8).
    stored: the threshold that they were made with.

  Returns:
    A bool tree, that of ``saliency.mask_from_saliency``.

  Raises:
    ValueError: if the threshold is within a step: the codes cannot tell; names
      the nearest that they can.

  Example:
    >>> codes = quantize(jnp.array([0.5, 1., 2.]))
    >>> to_mask(codes, threshold=2.0)
    Array([False, False,  True], dtype=bool)
  """
  step = _step(threshold, stored)
  return jax.tree.map(lambda c: c >= jnp.uint8(MIDDLE + step), codes)


def dequantize(codes: Params, stored: float = 1.0) -> Params:
  """Turns codes into scores: the middle of a step; 0 for a tie.

  They are off by at most 2^(1/16), 4.4 %, where they are not clipped.

  Args:
    codes: from ``quantize``.
    stored: the threshold that they were made with.

  Returns:
    A tree of float32.

  Example:
    >>> dequantize(jnp.array([0, 128, 136], jnp.uint8)).round(3)
    Array([0.   , 1.044, 2.089], dtype=float32)
  """
  steps = np.arange(256) - MIDDLE + 0.5
  values = stored * np.exp2(steps / STEPS)
  values[TIE] = 0
  table = jnp.asarray(values, jnp.float32)
  return jax.tree.map(lambda c: table[c], codes)


def _edges(threshold: float) -> np.ndarray:
  """The lowest scores of the codes 2 ... 255, as float32 compares them."""
  if not 0 < threshold < math.inf:
    raise UserError(
      f'a threshold of ratios is a positive number, got {threshold}.'
    )
  steps = np.arange(2, 256) - MIDDLE
  edges = threshold * np.exp2(steps / STEPS)
  return np.maximum(edges, np.finfo(np.float32).tiny).astype(np.float32)


def _step(threshold: float, stored: float) -> int:
  """How many steps a threshold is above the stored one."""
  _edges(threshold)
  wanted = STEPS * math.log2(threshold / stored)
  step = round(wanted)
  if abs(wanted - step) > 1e-6 or not 2 - MIDDLE <= step <= 255 - MIDDLE:
    step = min(max(step, 2 - MIDDLE), 255 - MIDDLE)
    raise UserError(
      'codes tell thresholds apart by whole steps of 2^(1/8), within 2^15 of '
      f'the stored one, {stored}; {threshold} is none, the nearest is '
      f'{stored * 2 ** (step / STEPS):.6g}. Take that, or keep the '
      "importances: config.saliency.keep='importances'."
    )
  return step


@jax.jit
def _quantize(x, edges, tie):
  """The codes of one leaf: 1 + the number of edges that a score reaches."""
  code = 1 + jnp.searchsorted(edges, x, side='right')
  code = code.astype(jnp.uint8)
  return code if tie is None else jnp.where(tie, jnp.uint8(TIE), code)
