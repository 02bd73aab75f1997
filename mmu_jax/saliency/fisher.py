"""Importance, saliency and the mask: which weights hold what must go.

The walk: ``importance`` of the forget batches and of each preserve set ->
``saliency``, their ratio -> ``mask_from_saliency``. All of it is float32, and
but for a density it stays on the device; nothing here knows a model. What
restricts each component of one is in ``restriction``.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import functools

import jax
import jax.numpy as jnp

from mmu_jax import masks
from mmu_jax import micro_batches as micro_batches_lib
from mmu_jax import sharding
from mmu_jax import squared_gradients
from mmu_jax import tree as tree_lib
from mmu_jax.errors import UserError
from mmu_jax.micro_batches import Measure
from mmu_jax.saliency import ranking
from mmu_jax.sharding import Rules
from mmu_jax.squared_gradients import BatchLoss
from mmu_jax.squared_gradients import Sums
from mmu_jax.typing import Batch
from mmu_jax.typing import Mask
from mmu_jax.typing import Params

EPS = 1e-15  # of the published ratio


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
    batches: what the importance is measured on, at least one batch; where it
      goes on, those that are left. For ``'example'`` every leaf has a leading
      axis of rows.
    granularity: ``'batch'`` or ``'example'``.
    rules: a tuple of partition rules, where ``params`` are on the mesh that is
      set.
    micro_batches: into how many parts a batch is cut for ``'batch'``, see
      ``mmu_jax.micro_batches``: the gradient is that of the whole batch.
      ``'example'`` takes rows one at a time whatever it is.
    measure: of the loss, needed for more than one part.
    start: the sums to go on from; their buffers are given away.
    seen: how many batches they are of.
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
    micro_batches_lib.check(measure, micro_batches)
    how = {'parts': micro_batches, 'measure': measure}
    step = functools.partial(squared_gradients.add_batch, **how)
  else:
    step = squared_gradients.add_examples
  sums = squared_gradients.begin(params, rules) if start is None else start
  for batch in batches:
    sums = step(loss, sums, params, batch, rules=rules)
    seen += 1
    if on_batch is not None:
      on_batch(seen, sums)
  if not seen:
    raise UserError(
      'importance needs at least one batch, got none. Is the split empty?'
    )
  found = squared_gradients.mean(*sums, rules=rules)
  _check_finite(found)
  return found


def saliency(
  forget: Params,
  preserve: Params | Sequence[Params],
  *,
  eps: float = EPS,
  normalize: Mapping[str, str] | None = None,
) -> Params:
  r"""The ratio of two importances: what the forget set needs, others do not.

  .. math:: s = \frac{F_T + \epsilon}{F_P + \epsilon}

  A weight that neither set uses has ratio eps / eps = 1: see ``dead`` and the
  tie rule of ``mask_from_saliency``. The saliency of a set with itself is 1.

  Args:
    forget: F_T, tree of float32 >= 0.
    preserve: F_P, a tree like it, or several: then their largest, entry by
      entry, so that each preserve set protects what it needs.
    eps: > 0; in units of squared gradients, or of their mean if normalised.
    normalize: None for the published ratio. Component -> regex over leaf
      names: each importance is first divided by its mean over the component,
      so that the ratio compares where the two sets look, not how large their
      losses are. Without it a few hard retain items decide the density.

  Returns:
    A tree of float32 > 0.

  Raises:
    ValueError: if the trees differ, or no preserve set is given.

  Example:
    >>> import jax.numpy as jnp
    >>> saliency({'w': jnp.array([4., 1.])}, {'w': jnp.array([1., 4.])})
    {'w': Array([4.  , 0.25], dtype=float32)}

  References:
    Huo et al., MMUnlearner, 2025 (https://arxiv.org/abs/2502.11051);
    Huang et al., Unified Gradient-Based Machine Unlearning with Remain
    Geometry Enhancement, 2024 (https://arxiv.org/abs/2409.19732).
  """
  preserves = (
    list(preserve) if isinstance(preserve, (list, tuple)) else [preserve]
  )
  if not preserves:
    raise UserError('saliency needs at least one preserve importance.')
  for tree in preserves:
    tree_lib.check_same(
      tree,
      forget,
      got_name='a preserve importance',
      want_name='the forget importance',
    )
  if normalize is not None:
    forget = _normalized(forget, normalize)
    preserves = [_normalized(tree, normalize) for tree in preserves]
  largest = functools.reduce(
    lambda a, b: jax.tree.map(jnp.maximum, a, b), preserves
  )
  return jax.tree.map(lambda f, p: (f + eps) / (p + eps), forget, largest)


def component_means(
  tree: Params, components: Mapping[str, str]
) -> dict[str, jax.Array]:
  """Returns what an importance is divided by where it is normalised.

  Args:
    tree: an importance, float32 >= 0.
    components: component -> regex over leaf names.

  Returns:
    Component -> mean over all its entries; 1 for a component of zeros, which
    stays zero.
  """
  groups = {}
  for name, leaf in tree_lib.flatten(tree).items():
    component = tree_lib.component_of(name, components)
    groups.setdefault(component, []).append(leaf)
  means = {
    # float: a number of entries beyond int32 is no argument of a program.
    component: sum(jnp.sum(x) for x in leaves)
    / float(sum(x.size for x in leaves))
    for component, leaves in groups.items()
  }
  return {c: jnp.where(mean > 0, mean, 1) for c, mean in means.items()}


def dead(
  forget: Params, preserve: Params | Sequence[Params], *, eps: float = EPS
) -> Mask:
  """Marks the ties: entries whose ratio eps decides, not data.

  An entry is dead where every importance is below ``eps``: a token that never
  occurred, a layer that is never run. Its published ratio is about 1 whatever
  the data say.

  Args:
    forget: F_T, tree of float32 >= 0, not normalised.
    preserve: F_P, a tree like it, or several.
    eps: > 0, the eps of the ratio.

  Returns:
    A bool tree.

  Example:
    >>> import jax.numpy as jnp
    >>> dead({'w': jnp.array([0., 0.])}, {'w': jnp.array([0., 1.])})
    {'w': Array([ True, False], dtype=bool)}
  """
  preserves = preserve if isinstance(preserve, (list, tuple)) else [preserve]
  return jax.tree.map(
    lambda *leaves: functools.reduce(jnp.maximum, leaves) < eps,
    forget,
    *preserves,
  )


def mask_from_saliency(
  scores: Params,
  *,
  threshold: float | None = None,
  density: float | None = None,
  ties: Mask | None = None,
  scope: Callable[[str], bool] | None = None,
) -> Mask:
  """Marks the salient weights: True may change, False is frozen.

  Every parameter is covered: a leaf out of scope is frozen, not forgotten.

  Args:
    scores: tree of float32, a saliency (or an importance, for the top-k
      control).
    threshold: salient where ``score >= threshold``; the paper has 1.
    density: instead of a threshold, the share in (0, 1] of all entries in
      scope with the highest scores. Equal scores at the border are all taken.
    ties: bool tree of entries that are not salient whatever their score, from
      ``dead``. None lets them compete: at threshold 1 a never used weight is
      then salient, as in the published code.
    scope: ``scope(leaf name) -> bool``, which leaves may be salient at all;
      None for all.

  Returns:
    A bool tree like ``scores``.

  Raises:
    ValueError: unless exactly one of threshold and density is given, in range.

  Example:
    >>> import jax.numpy as jnp
    >>> scores = {'w': jnp.array([0.5, 1.0, 3.0])}
    >>> mask_from_saliency(scores, threshold=1.0)
    {'w': Array([False,  True,  True], dtype=bool)}
    >>> mask_from_saliency(scores, density=0.34)
    {'w': Array([False, False,  True], dtype=bool)}
  """
  if (threshold is None) == (density is None):
    raise UserError(
      'mask_from_saliency takes either threshold or density, got '
      f'threshold={threshold}, density={density}.'
    )
  if density is not None and not 0 < density <= 1:
    raise UserError(f'density is a share in (0, 1], got {density}.')
  in_scope = tree_lib.map_with_name(
    lambda name, x: jnp.full_like(x, scope is None or bool(scope(name)), bool),
    scores,
  )
  if ties is not None:
    tree_lib.check_same(ties, scores, got_name='ties', want_name='the scores')
    in_scope = jax.tree.map(lambda s, t: s & ~t, in_scope, ties)
  if density is not None:
    threshold = _quantile(scores, in_scope, density)
  return jax.tree.map(lambda x, s: (x >= threshold) & s, scores, in_scope)


def _quantile(scores: Params, in_scope: Mask, density: float) -> float:
  """The score that the wanted share of the entries in scope reaches."""
  inside = jax.tree.leaves(in_scope)
  size = sum(masks.total(inside))
  if not size:
    raise UserError('no entry is in scope, so none can be salient.')
  read = lambda: zip(jax.tree.leaves(scores), inside)
  k = max(round(density * size), 1)
  return ranking.kth_largest(read, k, ranking.FROM_MEMORY)


def _normalized(tree: Params, components: Mapping[str, str]) -> Params:
  """Divides every component by its mean; a component of zeros stays zero."""
  means = component_means(tree, components)
  return tree_lib.map_with_name(
    lambda name, leaf: leaf / means[tree_lib.component_of(name, components)],
    tree,
  )


def _check_finite(tree: Params) -> None:
  """Raises if an importance is NaN or infinite."""
  leaves = tree_lib.flatten(tree)
  finite = jax.device_get(_are_finite(list(leaves.values())))
  bad = [name for name, is_finite in zip(leaves, finite) if not is_finite]
  if bad:
    raise FloatingPointError(
      f'an importance must be finite; {len(bad)} leaves are not, the first '
      f'is {bad[0]!r}. Look for a NaN loss in the batches, or compute in '
      'float32.'
    )


@jax.jit
def _are_finite(leaves):
  """Which leaves are finite throughout."""
  return sharding.replicate([jnp.all(jnp.isfinite(x)) for x in leaves])
