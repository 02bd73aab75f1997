"""Optax transformations that mask and project updates, and an exact apply.

optax's own ``masked`` and ``freeze`` choose whole leaves, once, when the
optimizer is built. These choose single weights, and the mask is an *extra
argument* of ``update``, so it is neither baked into the program nor stored in
the optimizer state, and can be sharded like the parameters::

  tx = optax.chain(
      mask_updates(),              # clip and moments see trained weights
      project_updates('conflict'),
      clip_updates(1.0),
      optax.adamw(1e-5),
      mask_updates(),              # stops weight decay and momentum
  )
  updates, state = tx.update(grads, state, params, mask=mask, against=retain)
  params = apply_updates(params, updates)  # the frozen bits stay

Each extra argument may be None, which makes its transformation the identity.
``apply_updates`` keeps the bits of a weight whose update is exactly 0; it takes
the mask too, for a chain that does not end in ``mask_updates``.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mmu_jax import masks
from mmu_jax import tree as tree_lib
from mmu_jax.errors import UserError
from mmu_jax.typing import Mask
from mmu_jax.typing import Params


def mask_updates() -> optax.GradientTransformationExtraArgs:
  r"""Sets the updates of frozen weights to zero.

  .. math:: u \leftarrow m \odot u

  Placed before an optimizer it masks gradients: the frozen moments stay zero
  and a later clip sees only trained weights. Placed after it, it also stops
  weight decay and the momentum of earlier turns. The published code had only
  the first, and frozen weights moved.

  Returns:
    A transformation whose ``update`` takes ``mask=``: a tree like the
    parameters, bool or packed (``mmu_jax.masks``), or None for no mask.

  Raises:
    ValueError: from ``update``, before compiling, if the mask is not a tree
      like the updates.

  Example:
    >>> import jax.numpy as jnp
    >>> grads = {'w': jnp.array([1., 2.])}
    >>> tx = mask_updates()
    >>> mask = {'w': jnp.array([True, False])}
    >>> tx.update(grads, tx.init(grads), mask=mask)[0]
    {'w': Array([1., 0.], dtype=float32)}

  References:
    Huo et al., MMUnlearner, 2025 (https://arxiv.org/abs/2502.11051);
    Fan et al., SalUn, 2024 (https://arxiv.org/abs/2310.12508).
  """

  def update(
    updates: Any,
    state: Any,
    params: Any = None,
    *,
    mask: Mask = None,
    **extra: Any,
  ) -> tuple[Any, Any]:
    del params, extra
    return _masked(updates, mask), state

  return optax.GradientTransformationExtraArgs(_no_state, update)


def project_updates(
  when: str = 'conflict',
) -> optax.GradientTransformationExtraArgs:
  r"""Removes from the updates the part that works against another gradient.

  .. math:: g \leftarrow g - \frac{\langle g, r \rangle}{\|r\|^2} r

  Here r is the gradient of the retain loss, over all leaves as one vector. With
  ``when='conflict'`` it acts only where the inner product is negative, that is
  where a step along -g would raise that loss; afterwards <g, r> >= 0 (up to
  rounding). With ``when='always'`` the component along r goes in either case.

  Where a mask is given too, r is masked first, so that the result stays within
  the mask.

  Args:
    when: 'conflict' (PCGrad) or 'always' (orthogonal projection).

  Returns:
    A transformation whose ``update`` takes ``against=``: the gradient r, a tree
    like the updates, or None for no projection; and ``mask=``.

  Raises:
    ValueError: if ``when`` is neither word, or the trees differ.

  Example:
    >>> import jax.numpy as jnp
    >>> grads = {'w': jnp.array([1., -2.])}
    >>> tx = project_updates()
    >>> retain = {'w': jnp.array([0., 1.])}
    >>> tx.update(grads, tx.init(grads), against=retain)[0]
    {'w': Array([1., 0.], dtype=float32)}

  References:
    Yu et al., Gradient Surgery for Multi-Task Learning, 2020
    (https://arxiv.org/abs/2001.06782); Geometric-Disentanglement Unlearning,
    2025 (https://arxiv.org/abs/2511.17100).
  """
  if when not in ('conflict', 'always'):
    raise UserError(
      f"project_updates takes when='conflict' or 'always', got {when!r}."
    )

  def update(
    updates: Any,
    state: Any,
    params: Any = None,
    *,
    against: Any = None,
    mask: Mask = None,
    **extra: Any,
  ) -> tuple[Any, Any]:
    del params, extra
    if against is None:
      return updates, state
    tree_lib.check_same(
      against, updates, got_name='against=', want_name='the updates'
    )
    against = _masked(against, mask)
    inner, norm = _dot(updates, against), _dot(against, against)
    scale = jnp.where(norm > 0, inner / jnp.where(norm > 0, norm, 1), 0)
    if when == 'conflict':
      scale = jnp.minimum(scale, 0)
    projected = jax.tree.map(
      lambda u, r: (u - scale * r).astype(u.dtype), updates, against
    )
    return projected, state

  return optax.GradientTransformationExtraArgs(_no_state, update)


def clip_updates(
  max_norm: jax.Array | float,
) -> optax.GradientTransformationExtraArgs:
  r"""Scales updates whose global norm is too large.

  .. math:: u \leftarrow u \min(1, c / \|u\|)

  Bit for bit ``optax.clip_by_global_norm``, with half of its memory. That one
  chooses between two trees, so both stand until the moments have read them.
  Here two scalars are chosen, and a leaf is written over the one before.

  Args:
    max_norm: largest norm c > 0; inf for no clip.

  Returns:
    An optax transformation.

  Example:
    >>> import jax.numpy as jnp
    >>> tx = clip_updates(1.0)
    >>> grads = {'w': jnp.array([0., 4.])}
    >>> tx.update(grads, tx.init(grads))[0]
    {'w': Array([0., 1.], dtype=float32)}

  References:
    Pascanu et al., On the difficulty of training recurrent neural networks,
    2012 (https://arxiv.org/abs/1211.5063).
  """

  def update(
    updates: Any, state: Any, params: Any = None, **extra: Any
  ) -> tuple[Any, Any]:
    del params, extra
    norm = optax.tree.norm(updates)
    fits = norm < max_norm  # not where it is NaN: the step must show it
    over, under = (jnp.where(fits, 1, x) for x in (norm, max_norm))
    scaled = lambda u: u / over.astype(u.dtype) * under.astype(u.dtype)
    return jax.tree.map(scaled, updates), state

  return optax.GradientTransformationExtraArgs(_no_state, update)


def apply_updates(
  params: Params, updates: optax.Updates, mask: Mask = None
) -> Params:
  """Adds updates to the parameters; frozen weights keep their exact bits.

  ``p + 0`` is not always p: -0.0 becomes +0.0 and subnormal numbers are
  flushed to zero. Where the update is 0, and where the mask is False, the old
  value is selected instead. So a weight that ``mask_updates`` froze at the end
  of a chain keeps its bits; with a mask here it does whatever the chain did.

  Args:
    params: tree of float arrays.
    updates: tree of the same structure and shapes.
    mask: bool or packed tree, True = may change; None for every weight.

  Returns:
    New parameters, each of its old dtype.

  Raises:
    ValueError: if updates or mask do not belong to ``params``.

  Example:
    >>> import jax.numpy as jnp
    >>> params = {'w': jnp.array([-0., 1.])}
    >>> updates = {'w': jnp.array([0., 1.])}
    >>> apply_updates(params, updates, {'w': jnp.array([False, True])})
    {'w': Array([-0.,  2.], dtype=float32)}
  """
  tree_lib.check_same(
    updates, params, got_name='the updates', want_name='the parameters'
  )
  new = jax.tree.map(
    lambda p, u: jnp.where(u == 0, p, (p + u).astype(p.dtype)), params, updates
  )
  if mask is None:
    return new
  return jax.tree.map(jnp.where, masks.unpack(mask, params), new, params)


class _HfAdamState(NamedTuple):
  """Moments of ``hf_adamw``."""

  count: jax.Array  # type: ignore[assignment]  # [] int32; tuples count too
  mu: optax.Updates
  nu: optax.Updates


def hf_adamw(
  learning_rate: optax.ScalarOrSchedule,
  *,
  b1: float = 0.9,
  b2: float = 0.999,
  eps: float = 1e-6,
  weight_decay: float = 0.0,
) -> optax.GradientTransformationExtraArgs:
  r"""AdamW as the ``transformers`` library had it, until 4.49.

  The published unlearning runs used this form. It adds eps to sqrt(v)
  *before* the bias correction, so at the first step the effective eps is
  eps / sqrt(1 - b2), 32 times larger: with a gradient of 1e-5 the first update
  is 0.24 lr instead of lr. ``optax.adamw`` is one word away.

  .. math:: p \leftarrow (1 - \eta \lambda) \left( p - \eta
            \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t}
            \frac{m_t}{\sqrt{v_t} + \epsilon} \right)

  Args:
    learning_rate: eta > 0, a number or a schedule over steps.
    b1: decay of the first moment, in [0, 1).
    b2: decay of the second moment, in [0, 1).
    eps: number > 0, added to the root of the second moment.
    weight_decay: rate lambda >= 0.

  Returns:
    An optax transformation; ``update`` needs ``params`` where lambda > 0.

  Example:
    >>> import jax.numpy as jnp
    >>> params = {'w': jnp.array([1.0])}
    >>> tx = hf_adamw(1.0)
    >>> grads = {'w': jnp.array([1e-5])}
    >>> updates, _ = tx.update(grads, tx.init(params), params)
    >>> updates['w'].round(2)
    Array([-0.24], dtype=float32)

  References:
    Loshchilov and Hutter, Decoupled Weight Decay Regularization, 2019
    (https://arxiv.org/abs/1711.05101).
  """

  def init(params: Any) -> _HfAdamState:
    return _HfAdamState(
      count=jnp.zeros([], jnp.int32),
      mu=optax.tree.zeros_like(params),
      nu=optax.tree.zeros_like(params),
    )

  def update(
    updates: Any, state: Any, params: Any = None, **extra: Any
  ) -> tuple[Any, Any]:
    del extra
    count = optax.safe_increment(state.count)
    lr = learning_rate
    lr = lr(state.count) if callable(lr) else lr
    mu = optax.tree.update_moment(updates, state.mu, b1, 1)
    nu = optax.tree.update_moment(updates, state.nu, b2, 2)
    correction = jnp.sqrt(1 - b2**count) / (1 - b1**count)
    updates = jax.tree.map(
      lambda m, v: (-lr * correction * m / (jnp.sqrt(v) + eps)).astype(m.dtype),
      mu,
      nu,
    )
    if not isinstance(weight_decay, (int, float)) or weight_decay:
      if params is None:
        raise UserError(
          'hf_adamw with weight_decay > 0 needs params: call '
          'tx.update(grads, state, params).'
        )
      updates = jax.tree.map(
        lambda u, p: (u - lr * weight_decay * (p + u)).astype(u.dtype),
        updates,
        params,
      )
    return updates, _HfAdamState(count, mu, nu)

  return optax.GradientTransformationExtraArgs(init, update)


def _no_state(params: Params) -> optax.EmptyState:
  """The initial state of a transformation that has none."""
  del params
  return optax.EmptyState()


def _masked(updates: Any, mask: Mask) -> Any:
  """Zeroes where the mask is False; None is the identity."""
  if mask is None:
    return updates
  hidden = lambda x: isinstance(x, optax.MaskedNode)
  count = lambda t: sum(map(hidden, jax.tree.leaves(t, is_leaf=hidden)))
  if count(updates) > count(mask):
    raise UserError(
      'optax.partition or optax.masked hides leaves of the updates, and not '
      'of the mask. Give it mask_compatible_extra_args=True, or put '
      'mask_updates around it.'
    )
  return jax.tree.map(
    lambda u, m: jnp.where(m, u, jnp.zeros_like(u)),
    updates,
    masks.unpack(mask, updates),
  )


def _dot(a: Any, b: Any) -> jax.Array:
  """The inner product of two trees in float32, whatever their dtypes.

  Leaf by leaf, each where it is: a product of flattened leaves would gather
  split leaves from their devices.
  """
  f32 = lambda x: x.astype(jnp.float32)
  products = jax.tree.map(lambda x, y: jnp.sum(f32(x) * f32(y)), a, b)
  total: Any = sum(jax.tree.leaves(products))
  return total
