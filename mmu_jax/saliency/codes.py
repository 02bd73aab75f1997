"""Saliencies in one byte a weight, from which masks are exact.

Two float32 importances of a 7B model are 56 GB, but a mask needs only their
ratio, and only its distance from the threshold. A code counts steps of an
eighth of a factor of two, and the threshold is the border between two codes:
the mask at that threshold, or whole steps away, is the float32 mask bit for
bit.
"""

from collections.abc import Iterable, Mapping
import math

import jax
import jax.numpy as jnp
import numpy as np

from mmu_jax import masks
from mmu_jax import tree as tree_lib
from mmu_jax.errors import UserError
from mmu_jax.typing import Mask
from mmu_jax.typing import Params

_STEPS = 8  # for a factor of two
_TIE = 0  # the code of an entry that is never salient
_MIDDLE = 128  # the lowest code that reaches the threshold


def to_codes(
  scores: Params, ties: Mask = None, threshold: float = 1.0
) -> Params:
  r"""Turns scores into codes.

  .. math:: c = 128 + \lfloor 8 \log_2 (s / t) \rfloor

  clipped to 1 ... 255, that is to ratios within 2^16 of the threshold.

  Args:
    scores: a saliency, tree of float32 > 0, or one leaf of it.
    ties: bool tree of entries that are not salient whatever their score, from
      ``saliency.dead``; None if they compete.
    threshold: t > 0, the threshold of the wanted mask.

  Returns:
    A tree of uint8.

  Raises:
    ValueError: if the threshold is not positive, or the trees differ.

  Example:
    >>> to_codes(jnp.array([0.5, 0.99, 1., 2.]))
    Array([120, 127, 128, 136], dtype=uint8)
  """
  edges = jnp.asarray(_edges(threshold))
  if ties is None:
    return jax.tree.map(lambda x: _coded(x, edges, None), scores)
  tree_lib.check_same(ties, scores, got_name='ties', want_name='the scores')
  return jax.tree.map(lambda x, t: _coded(x, edges, t), scores, ties)


def to_mask(codes: Params, threshold: float = 1.0, stored: float = 1.0) -> Mask:
  """Marks the scores that reach a threshold; ties never do.

  Args:
    codes: tree of uint8 from ``to_codes``.
    threshold: ``stored`` times a power of 2^(1/8).
    stored: the threshold that the codes were made with.

  Returns:
    A bool tree, equal to ``saliency.mask_from_saliency`` of the scores.

  Raises:
    ValueError: if the threshold lies within a step, where codes cannot tell;
      names the nearest border.

  Example:
    >>> codes = to_codes(jnp.array([0.5, 1., 2.]))
    >>> to_mask(codes, threshold=2.0)
    Array([False, False,  True], dtype=bool)
  """
  step = _step(threshold, stored)
  return jax.tree.map(lambda c: c >= jnp.uint8(_MIDDLE + step), codes)


def density_by_threshold(
  codes: Params,
  thresholds: Iterable[float],
  components: Mapping[str, str] | None = None,
  stored: float = 1.0,
) -> dict[float, dict[str, float]]:
  """Returns how many weights may change at each of several thresholds.

  Args:
    codes: tree of uint8 from ``to_codes``.
    thresholds: numbers that ``to_mask`` takes.
    components: component -> regex over leaf names; None for the whole alone.
    stored: the threshold that the codes were made with.

  Returns:
    Threshold -> density of its mask, see ``masks.density``.

  Example:
    >>> codes = {'w': to_codes(jnp.array([0.5, 1., 2., 4.]))}
    >>> density_by_threshold(codes, [1.0, 2.0])
    {1.0: {'all': 0.75}, 2.0: {'all': 0.5}}
  """
  return {
    t: masks.density(to_mask(codes, t, stored), components=components)
    for t in thresholds
  }


def _edges(threshold: float) -> np.ndarray:
  """The lowest scores of the codes 2 ... 255, in float32."""
  if not 0 < threshold < math.inf:
    raise UserError(
      f'a threshold of ratios is a positive number, got {threshold}.'
    )
  steps = np.arange(2, 256) - _MIDDLE
  edges = threshold * np.exp2(steps / _STEPS)
  return np.maximum(edges, np.finfo(np.float32).tiny).astype(np.float32)


def _step(threshold: float, stored: float) -> int:
  """How many steps a threshold is above the stored one."""
  _edges(threshold)
  wanted = _STEPS * math.log2(threshold / stored)
  step = round(wanted)
  if abs(wanted - step) > 1e-6 or not 2 - _MIDDLE <= step <= 255 - _MIDDLE:
    step = min(max(step, 2 - _MIDDLE), 255 - _MIDDLE)
    raise UserError(
      'codes tell thresholds apart by whole steps of 2^(1/8), within 2^15 of '
      f'the stored one, {stored}; {threshold} is none, the nearest is '
      f'{stored * 2 ** (step / _STEPS):.6g}. Take that, or keep the '
      "importances: config.saliency.keep='importances'."
    )
  return step


@jax.jit
def _coded(x: jax.Array, edges: jax.Array, tie: jax.Array | None) -> jax.Array:
  """The codes of one leaf: 1 + the number of edges that a score reaches."""
  code = 1 + jnp.searchsorted(edges, x, side='right')
  code = code.astype(jnp.uint8)
  return code if tie is None else jnp.where(tie, jnp.uint8(_TIE), code)
