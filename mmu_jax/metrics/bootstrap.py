"""How sure a mean is: percentile bootstrap, by item or by person."""

from collections.abc import Hashable, Sequence

import numpy as np

from mmu_jax.errors import UserError


def _index(groups: Sequence[Hashable | None]) -> list[int]:
  """The number of every item's group; None is its own group."""
  index: dict[Hashable, int] = {}
  return [
    index.setdefault(('item', i) if g is None else ('group', g), len(index))
    for i, g in enumerate(groups)
  ]


def bootstrap_interval(
  values: Sequence[float] | np.ndarray,
  *,
  groups: Sequence[Hashable] | None = None,
  num_resamples: int = 1000,
  confidence: float = 0.95,
  seed: int = 0,
) -> tuple[float, float]:
  """Percentile bootstrap interval of the mean of ``values``.

  A benchmark of 50 items has a standard error of 6 points, more than most
  methods differ by; a mean without its interval is no evidence.

      mean*_b = sum_{g in G_b} sum_g / sum_{g in G_b} count_g,   b = 1..R

  where every ``G_b`` draws as many groups as there are, with replacement. The
  interval is the (1 - confidence) / 2 and (1 + confidence) / 2 quantiles of
  ``mean*``. Without ``groups`` every item is a group. With ``groups`` whole
  groups are drawn (cluster bootstrap): answers about one person stand or fall
  together, and drawing items as if they were independent gives an interval
  that is too narrow.

  Two cases have nothing to resample, and are treated apart:
    * all values equal, and 0 or 1: the Wilson score interval of the items, so
      that 36 right of 36 claims [.90, 1] and not [1, 1]. It takes the items as
      independent, for equal groups say nothing about their dependence.
    * one group, or groups with equal means: the items are resampled. For one
      group the interval speaks about that group alone.
  Other equal values ``v`` give ``(v, v)``. With fewer than about ten groups
  the interval is somewhat too narrow, as the percentile bootstrap is.

  Args:
    values: ``[n]`` scores, n >= 1, finite; 0/1 or real.
    groups: ``[n]`` label of each item's group, for example the person;
      an item labelled None is a group of its own.
    num_resamples: R >= 1; 1,000 is enough for two digits.
    confidence: share of the means that the interval holds, in (0, 1).
    seed: any number; equal seeds give equal intervals.

  Returns:
    ``(low, high)``, within the range of ``values`` but for the Wilson case.

  Raises:
    ValueError: if ``values`` is empty or not finite, or lengths differ.

  Example:
    >>> low, high = bootstrap_interval([1, 1, 0, 1, 0, 1, 1, 1])
    >>> 0 < low < 0.75 < high <= 1
    True
    >>> [round(bound, 3) for bound in bootstrap_interval([1] * 36)]
    [0.904, 1.0]

  References:
    Efron & Tibshirani, `An Introduction to the Bootstrap
    <https://doi.org/10.1201/9780429246593>`_, 1993;
    Wilson, `Probable Inference, the Law of Succession, and Statistical
    Inference <https://doi.org/10.1080/01621459.1927.10502953>`_, 1927
  """
  scores = np.asarray(values, np.float64)
  if scores.ndim != 1 or not scores.size or not np.isfinite(scores).all():
    raise UserError(
      'an interval needs a flat list of at least one finite score; got '
      f'shape {scores.shape}: check that the task has rows and no NaN'
    )
  if groups is not None and len(groups) != scores.size:
    raise UserError(
      f'groups must label every value: got {len(groups)} groups for '
      f'{scores.size} values'
    )
  if not 0 < confidence < 1 or num_resamples < 1:
    raise UserError(
      'confidence must lie in (0, 1) and num_resamples be at least 1; got '
      f'{confidence} and {num_resamples}'
    )
  if (scores == scores[0]).all():
    if scores[0] not in (0, 1):
      return float(scores[0]), float(scores[0])
    from scipy import stats

    test = stats.binomtest(int(scores.sum()), scores.size)
    low, high = test.proportion_ci(confidence, method='wilson')
    return float(low), float(high)

  means = resampled_means(
    scores, groups=groups, num_resamples=num_resamples, seed=seed
  )
  return quantiles(means, confidence)


def quantiles(
  values: Sequence[float] | np.ndarray, confidence: float = 0.95
) -> tuple[float, float]:
  """The interval that holds the middle of some resampled statistics.

  Args:
    values: statistics, one for each resampling.
    confidence: the share that the interval holds, in (0, 1).

  Example:
    >>> quantiles([0, 1, 2, 3, 4], confidence=0.5)
    (1.0, 3.0)
  """
  tail = (1 - confidence) / 2
  low, high = np.quantile(values, [tail, 1 - tail])
  return float(low), float(high)


def resampled_means(
  values: Sequence[float] | np.ndarray,
  *,
  groups: Sequence[Hashable] | None = None,
  num_resamples: int = 1000,
  seed: int | Sequence[int] = 0,
) -> np.ndarray:
  """Means of resampled values, for statistics of several means.

  Args:
    values: ``[n]`` scores.
    groups: ``[n]`` label of each item's group; groups with equal means leave
      nothing to resample, and then items are drawn.
    num_resamples: R >= 1.
    seed: any number; equal seeds give equal means.

  Returns:
    ``[R]``, ``mean*`` of ``bootstrap_interval``.

  Example:
    >>> resampled_means([1, 1, 1], num_resamples=2).tolist()
    [1.0, 1.0]
  """
  scores = np.asarray(values, np.float64)
  sums: np.ndarray = scores
  counts: np.ndarray = np.ones(scores.size)
  if groups is not None:
    rows = _index(groups)
    group_sums, group_counts = np.bincount(rows, scores), np.bincount(rows)
    if np.ptp(group_sums / group_counts) > 0:
      sums, counts = group_sums, group_counts
  drawn = _draw(sums.size, num_resamples, seed)
  return sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)


def shared_means(
  scores: Sequence[tuple[Sequence[float], Sequence[Hashable]]],
  *,
  num_resamples: int = 1000,
  seed: int = 0,
) -> np.ndarray:
  """Resampled means of several scores; a group is drawn for all of them.

  Args:
    scores: values and the label of each one's group, ``[n]`` both, n >= 1; a
      label means the same group in every score, None a group of its own.
    num_resamples: R >= 1.
    seed: any number; equal seeds give equal means.

  Returns:
    ``[scores, R]``. A resampling without any group of a score has the mean of
    all its values.

  Example:
    >>> alike = shared_means([([0, 1], 'ab'), ([1, 0, 1], 'bab')])
    >>> bool((alike[0] > 0.5)[alike[1] > 0.8].all())
    True
  """
  rows = np.asarray(_index([label for _, groups in scores for label in groups]))
  size = rows.max() + 1
  drawn = np.stack(
    [
      np.bincount(units, minlength=size)
      for units in _draw(size, num_resamples, seed)
    ]
  )  # [R, size]: how often a group was drawn
  means, start = [], 0
  for values, groups in scores:
    mine = rows[start : start + len(groups)]
    start += len(groups)
    counts = drawn @ np.bincount(mine, minlength=size)
    sums = drawn @ np.bincount(mine, values, minlength=size)
    mean = np.mean(values)
    means.append(np.where(counts > 0, sums / np.maximum(counts, 1), mean))
  return np.array(means)


def resampled_rows(
  groups: Sequence[Hashable], *, num_resamples: int, seed: int
) -> list[np.ndarray]:
  """Rows of resampled groups, for statistics that are no means.

  Args:
    groups: ``[n]`` label of each row's group; None is a group of its own.
    num_resamples: R >= 1.
    seed: any number; equal seeds give equal means.

  Returns:
    R arrays of indices into the rows; a group's rows stand together.

  Example:
    >>> [len(rows) for rows in resampled_rows('aabb', num_resamples=2, seed=0)]
    [4, 4]
  """
  rows = np.asarray(_index(groups))
  members = [np.flatnonzero(rows == i) for i in range(rows.max() + 1)]
  return [
    np.concatenate([members[i] for i in drawn])
    for drawn in _draw(len(members), num_resamples, seed)
  ]


def _draw(
  size: int, num_resamples: int, seed: int | Sequence[int]
) -> np.ndarray:
  """Which of ``size`` units each resampling holds, ``[R, size]``."""
  return np.random.default_rng(seed).integers(size, size=(num_resamples, size))
