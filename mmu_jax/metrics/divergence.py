"""How far a model is from the retrained one: KS test and JS divergence."""

from collections.abc import Sequence

import numpy as np

from mmu_jax.errors import UserError


def forget_quality(
  ratios: Sequence[float], retrained: Sequence[float]
) -> float:
  """The p-value that two sets of truth ratios come from one distribution.

  A model that forgot perfectly has the truth ratios of the retrained model on
  the forget set. The test is the two-sample one of Kolmogorov and Smirnov, of

      D = sup_x |F(x) - F_retrained(x)|

  More is better, and above 0.05 the two cannot be told apart at that level. A
  small forget set is told apart less easily, so compare p-values of one n.

  Args:
    ratios: ``[n]`` truth ratios of the unlearned model on the forget set.
    retrained: ``[m]`` truth ratios of the retrained model.

  Returns:
    p in [0, 1].

  Raises:
    ValueError: if a set is empty or holds NaN.

  Example:
    >>> forget_quality([0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.3, 0.4])
    1.0

  References:
    Maini et al., `TOFU: A Task of Fictitious Unlearning for LLMs
    <https://arxiv.org/abs/2401.06121>`_, 2024;
    Smirnov, `Table for Estimating the Goodness of Fit of Empirical
    Distributions <https://doi.org/10.1214/aoms/1177730256>`_, 1948
  """
  from scipy import stats

  for values in (ratios, retrained):
    if not len(values) or np.isnan(values).any():
      raise UserError(
        'forget quality needs truth ratios of both models, and no NaN; got '
        f'{len(ratios)} and {len(retrained)}. Evaluate both on the forget '
        'set, with perturbed answers.'
      )
  return float(stats.ks_2samp(ratios, retrained).pvalue)


def js_divergence(p: Sequence[float], q: Sequence[float]) -> float:
  """Jensen-Shannon divergence of two distributions, in bits.

      JS(p, q) = KL(p || m) / 2 + KL(q || m) / 2,   m = (p + q) / 2

  Between the answers of an unlearned and the retrained model; 0 is best. It is
  symmetric, and finite also where one of them rules an answer out.

  Args:
    p: ``[n]`` shares >= 0 that sum to 1.
    q: ``[n]`` shares of the other model.

  Returns:
    A value in [0, 1]: 0 for equal ones, 1 where they share nothing.

  Raises:
    ValueError: if they are not two distributions over the same answers.

  Example:
    >>> js_divergence([1, 0], [0, 1]), js_divergence([0.5, 0.5], [0.5, 0.5])
    (1.0, 0.0)

  References:
    Lin, `Divergence Measures Based on the Shannon Entropy
    <https://doi.org/10.1109/18.61115>`_, 1991
  """
  from scipy.spatial import distance

  a, b = np.asarray(p, np.float64), np.asarray(q, np.float64)
  sums = a.sum(), b.sum()
  negative = (a < 0).any() or (b < 0).any()
  if a.shape != b.shape or not np.allclose(sums, 1) or negative:
    raise UserError(
      'a divergence is between two distributions over the same answers; got '
      f'shapes {a.shape} and {b.shape} with sums {sums[0]:.4g} and '
      f'{sums[1]:.4g}.'
    )
  with np.errstate(invalid='ignore'):  # the root of -1e-17, for equal ones
    root = distance.jensenshannon(p, q, base=2)
  return max(0.0, float(root) ** 2)
