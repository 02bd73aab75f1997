r"""A linear probe: can labels be read off features by one matrix?

Ridge regression on one-hot labels, in closed form, so that the result needs
neither tuning nor a seed:

.. math:: W = X^T (X X^T + \lambda n I)^{-1} (Y - \bar Y)

X are n rows, every feature with mean 0, all divided by one number so that their
mean variance is 1.
"""

from collections.abc import Sequence

import numpy as np


def mean_hits(
  train: np.ndarray,
  labels: Sequence[str],
  test: np.ndarray,
  test_labels: Sequence[str],
  *,
  ridge: float,
  number: int,
) -> np.ndarray:
  """Returns how many probes, each trained on a few rows, name a row rightly.

  Args:
    train: ``[n, D]`` features to train on.
    labels: n names.
    test: ``[m, D]`` features to test on.
    test_labels: m names.
    ridge: lambda > 0.
    number: rows of each name that a probe learns from; there are as many
      probes as rows last, without one twice. 0 for one probe of all rows.

  Returns:
    ``[m]`` shares in [0, 1].
  """
  names = np.asarray(list(labels))
  of = [np.flatnonzero(names == name) for name in np.unique(names)]
  least = min(map(len, of))
  number = min(number, least)
  draws = [slice(i, i + number) for i in range(0, least, number or least)]
  draws = [d for d in draws if d.stop <= least] if number else [slice(None)]
  chosen = [np.concatenate([rows[draw] for rows in of]) for draw in draws]
  found = [
    hits(train[i], names[i], test, test_labels, ridge=ridge) for i in chosen
  ]
  return np.mean(found, axis=0)


def hits(
  train: np.ndarray,
  labels: Sequence[str],
  test: np.ndarray,
  test_labels: Sequence[str],
  *,
  ridge: float,
) -> np.ndarray:
  """Returns which rows a trained probe names rightly.

  Args:
    train: ``[n, D]`` features to train on.
    labels: n names.
    test: ``[m, D]`` features to test on.
    test_labels: m names.
    ridge: lambda > 0, a penalty in units of the features' mean variance.

  Returns:
    ``[m]`` bool.

  Example:
    >>> x = np.array([[0.0, 1.0], [1.0, 0.0]])
    >>> hits(x, 'ab', 2 * x, 'aa', ridge=0.1).tolist()
    [True, False]
  """
  names, index = np.unique(np.asarray(list(labels)), return_inverse=True)
  mean = train.mean(0, dtype=np.float64)
  std = np.sqrt(np.mean(np.square(train - mean)))
  scaled = lambda x: (x - mean) / (std or 1.0)
  y = np.eye(len(names))[index]
  weights = ridge_weights(scaled(train), y - y.mean(0), ridge)
  guessed = names[np.argmax(scaled(test) @ weights + y.mean(0), axis=1)]
  return guessed == np.asarray(list(test_labels))


def ridge_weights(x: np.ndarray, y: np.ndarray, ridge: float) -> np.ndarray:
  r"""Returns W, ``[D, C]``, that minimizes a squared error and its own size.

  .. math:: \min_W |X W - Y|^2 + \lambda n |W|^2

  Args:
    x: ``[n, D]`` features of mean 0.
    y: ``[n, C]`` targets of mean 0.
    ridge: lambda > 0.
  """
  penalty = ridge * len(x) * np.eye(len(x))
  return x.T @ np.linalg.solve(x @ x.T + penalty, y)
