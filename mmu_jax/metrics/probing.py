r"""A linear probe: can labels be read off features by one matrix?

Ridge regression on one-hot labels, in closed form, so that the result needs
neither tuning nor a seed:

.. math:: W = X^T (X X^T + \lambda n I)^{-1} (Y - \bar Y)

X are n rows, every feature with mean 0, all divided by one number so that their
mean variance is 1.
"""

from collections.abc import Sequence

import numpy as np


def mean_accuracy(
  train: np.ndarray,
  labels: Sequence[str],
  test: np.ndarray,
  test_labels: Sequence[str],
  ridge: float,
  number: int,
) -> float:
  """Returns the mean accuracy of probes that learn from few pictures each.

  Args:
    train: ``[n, D]`` features to train on.
    labels: n names.
    test: ``[m, D]`` features to test on.
    test_labels: m names.
    ridge: lambda > 0.
    number: pictures of each person that a probe learns from; there are as
      many probes as pictures last, without one twice. 0 for one probe of all.
  """
  names = np.asarray(list(labels))
  of = [np.flatnonzero(names == name) for name in np.unique(names)]
  least = min(map(len, of))
  number = min(number, least)
  draws = [slice(i, i + number) for i in range(0, least, number or least)]
  draws = [d for d in draws if d.stop <= least] if number else [slice(None)]
  chosen = [np.concatenate([rows[draw] for rows in of]) for draw in draws]
  return float(
    np.mean(
      [accuracy(train[i], names[i], test, test_labels, ridge) for i in chosen]
    )
  )


def accuracy(
  train: np.ndarray,
  labels: Sequence[str],
  test: np.ndarray,
  test_labels: Sequence[str],
  ridge: float,
) -> float:
  """Returns how many of some features a trained probe names rightly.

  Args:
    train: ``[n, D]`` features to train on.
    labels: n names.
    test: ``[m, D]`` features to test on.
    test_labels: m names.
    ridge: lambda > 0, a penalty in units of the features' mean variance.

  Example:
    >>> x = np.array([[0.0, 1.0], [1.0, 0.0]])
    >>> accuracy(x, 'ab', 2 * x, 'ab', 0.1)
    1.0
  """
  names, index = np.unique(np.asarray(list(labels)), return_inverse=True)
  mean = train.mean(0, dtype=np.float64)
  std = np.sqrt(np.mean(np.square(train - mean)))
  scaled = lambda x: (x - mean) / (std or 1.0)
  y = np.eye(len(names))[index]
  weights = ridge_weights(scaled(train), y - y.mean(0), ridge)
  guessed = names[np.argmax(scaled(test) @ weights + y.mean(0), axis=1)]
  return float(np.mean(guessed == np.asarray(list(test_labels))))


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
