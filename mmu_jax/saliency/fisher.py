"""Importance: how strongly a set of batches depends on every weight.

The mean squared gradient, always float32, and on the devices throughout.
"""

from collections.abc import Callable, Iterable
import functools
from typing import Any

from mmu_jax import gradients
from mmu_jax import sharding
from mmu_jax.errors import UserError
from mmu_jax.gradients import BatchLoss
from mmu_jax.gradients import Measure
from mmu_jax.gradients import Sums
from mmu_jax.sharding import Rules
from mmu_jax.typing import Batch
from mmu_jax.typing import Params


def importance(
  loss: BatchLoss,
  params: Params,
  batches: Iterable[Batch],
  *,
  granularity: str = 'batch',
  rules: Rules = (),
  micro_batches: int = 1,
  measure: Measure | None = None,
  start: Sums | None = None,
  seen: int = 0,
  on_batch: Callable[[int, Sums], None] | None = None,
) -> Params:
  r"""Mean squared gradient of a loss: the diagonal of the empirical Fisher.

  Two definitions are in use, and they differ in more than scale:

  * ``'batch'``: the gradient of the batch's mean loss is squared, and averaged
    over batches. It depends on the batch size; the published code does this.
  * ``'example'``: the gradient of each row's own loss is squared, and averaged
    over rows: the Fisher diagonal proper. Give it plain rows, one question
    each. Rows without any weight (padding of a last batch) do not count.

  .. math:: F = \frac{1}{n} \sum_{b=1}^{n} \left( \nabla_\theta L_b(\theta)
            \right)^2

  Args:
    loss: ``loss(params, batch) -> scalar``; keep it one object over calls, so
      that it compiles once.
    params: theta_0, a tree of float arrays.
    batches: batches of the set, at least one; the remaining ones if ``start``
      is given. For ``'example'`` every leaf has a leading axis of rows.
    granularity: ``'batch'`` or ``'example'``.
    rules: a tuple of partition rules, if ``params`` are on the mesh that is
      set.
    micro_batches: number of parts of a batch for ``'batch'``; the gradient
      stays the whole batch's, see ``gradients.value_and_grad``. ``'example'``
      always takes one row at a time.
    measure: the denominator of the loss, needed for more than one part.
    start: sums to go on from; their buffers are given away.
    seen: number of batches in ``start``.
    on_batch: ``on_batch(seen, sums)`` after each batch, for example to save
      them; the next batch takes their buffers.

  Returns:
    A tree like ``params``, float32, >= 0.

  Raises:
    ValueError: if there is no batch, the granularity is unknown, or the loss
      cannot be taken in parts.
    FloatingPointError: if an importance is not finite; names the leaves.

  Example:
    >>> import jax.numpy as jnp
    >>> loss = lambda w, x: jnp.mean(x @ w)
    >>> w = jnp.zeros(2)
    >>> x = jnp.array([[1., 0.], [3., 2.]])
    >>> importance(loss, w, [x])  # the squared mean
    Array([4., 1.], dtype=float32)
    >>> importance(loss, w, [x], granularity='example')  # the mean square
    Array([5., 2.], dtype=float32)

  References:
    Huo et al., MMUnlearner, 2025 (https://arxiv.org/abs/2502.11051);
    Kirkpatrick et al., Overcoming catastrophic forgetting in neural networks,
    2017 (https://arxiv.org/abs/1612.00796).
  """
  if granularity not in ('batch', 'example'):
    raise UserError(
      f"granularity is 'batch' or 'example', got {granularity!r}."
    )
  if granularity == 'batch':
    gradients.check_micro_batches(measure, micro_batches)
    how: dict[str, Any] = {'parts': micro_batches, 'measure': measure}
    step: Callable[..., Any] = functools.partial(gradients.add_batch, **how)
  else:
    step = gradients.add_examples
  sums = gradients.zero_sums(params, rules) if start is None else start
  for batch in batches:
    sums = step(loss, sums, params, batch, rules=rules)
    seen += 1
    if on_batch is not None:
      on_batch(seen, sums)
  if not seen:
    raise UserError(
      'importance needs at least one batch, got none. Is the split empty?'
    )
  found = gradients.mean_square(*sums, rules=rules)
  _check_finite(found)
  return found


def _check_finite(tree: Params) -> None:
  """Raises if an importance is NaN or infinite."""
  bad = sharding.not_finite(tree)
  if bad:
    raise FloatingPointError(
      f'an importance must be finite; {len(bad)} leaves are not, the first '
      f'is {bad[0]!r}. Look for a NaN loss in the batches, or compute in '
      'float32.'
    )
