"""One number for everything that was to be kept."""

from collections.abc import Sequence
import statistics

import numpy as np

from mmu_jax.errors import UserError


def harmonic_mean(values: Sequence[float]) -> float:
  """``n / sum_i(1 / x_i)``: near its lowest value, 0 if one of them is 0.

  As model utility it follows the worst score: a model that lost one ability
  cannot make up for it by the others.

  Args:
    values: ``[n]`` scores >= 0, n >= 1.

  Returns:
    A value between the least and the largest.

  Raises:
    ValueError: if there are none, or one is negative or NaN.

  Example:
    >>> round(harmonic_mean([1, 0.5, 0.25]), 6), harmonic_mean([1, 0])
    (0.428571, 0.0)

  References:
    Maini et al., `TOFU: A Task of Fictitious Unlearning for LLMs
    <https://arxiv.org/abs/2401.06121>`_, 2024
  """
  found = np.asarray(values, np.float64)
  if not found.size or not (found >= 0).all():
    raise UserError(
      'a harmonic mean is of at least one score, none negative or NaN; got '
      f'{found.tolist()}.'
    )
  return float(statistics.harmonic_mean(found.tolist()))
