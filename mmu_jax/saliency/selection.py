"""Masks: which weights may change, True, and which are frozen, False.

``mask_from_importances`` is the mask of the paper, made leaf by leaf from
importances in memory or on disk; ``mask_from_saliency`` marks given scores,
``top_share`` and ``top_mask`` the highest of each component.
"""

from collections.abc import Callable, Mapping, Sequence
import math
from typing import Any

import jax
import jax.numpy as jnp

from mmu_jax import masks
from mmu_jax import tree as tree_lib
from mmu_jax.errors import UserError
from mmu_jax.saliency import ranking
from mmu_jax.saliency import ratio
from mmu_jax.typing import Mask
from mmu_jax.typing import Params


def mask_from_importances(
  read: ratio.ReadLeaf,
  like: Params,
  *,
  protects: Mapping[str, Sequence[str]],
  components: Mapping[str, str],
  means: Mapping[str, Mapping[str, jax.Array | float]] | None = None,
  threshold: float = 1.0,
  density: float | None = None,
  ties_are_salient: bool = False,
) -> tuple[Mask, Mask]:
  r"""Marks the weights that the forget set needs more than what must survive.

  .. math:: m = [\, s \ge \text{threshold} \,]

  Args:
    read: ``read(importance, leaf name) -> array``, see
      ``ratio.score_leaves``.
    like: the parameters, or their shapes.
    protects: component -> names of the preserve sets that restrict it.
    components: component -> regex over leaf names.
    means: importance -> component -> mean to divide by, from
      ``component_means``; None for the published ratio.
    threshold: lowest salient score; the paper has 1. Not used with a density.
    density: share in (0, 1) of each component's entries to mark, by the
      highest scores, in place of a threshold.
    ties_are_salient: whether a weight that no set uses competes with its ratio
      of 1, as in the published code; otherwise it is frozen.

  Returns:
    The mask and the ties, bool trees.

  Example:
    >>> import jax.numpy as jnp
    >>> found = {'forget': [4., 1., 0.], 'text': [2., 2., 0.]}
    >>> mask, ties = mask_from_importances(
    ...     lambda importance, name: jnp.array(found[importance]),
    ...     {'w': jnp.zeros(3)},
    ...     protects={'all': ['text']}, components={'all': ''})
    >>> mask['w'].tolist(), ties['w'].tolist()
    ([True, False, False], [False, False, True])

  References:
    Huo et al., MMUnlearner, 2025 (https://arxiv.org/abs/2502.11051).
  """
  shapes = tree_lib.flatten(like)
  score = lambda name, then: ratio.score_leaves(
    read,
    {name: shapes[name]},
    then,
    protects=protects,
    components=components,
    means=means,
  )
  alive = lambda scores, ties: (
    scores if ties_are_salient else jnp.where(ties, 0, scores)
  )
  if density is None:
    lowest = dict.fromkeys(components, threshold)
  else:
    shares = dict.fromkeys(components, density)
    read_alive = lambda name: score(name, alive)[name]
    lowest = _lowest(read_alive, like, shares, components)

  def mark(name: str, _: Any) -> tuple[jax.Array, jax.Array]:
    bound = lowest[tree_lib.component_of(name, components)]
    # Frozen even where a density asks for more than there are others.
    mask, ties = score(
      name,
      lambda scores, ties: (
        _reaches(scores, None if ties_are_salient else ties, bound),
        ties,
      ),
    )
    return mask[name], ties[name]

  made = tree_lib.map_with_name(mark, like)
  return jax.tree.transpose(jax.tree.structure(like), None, made)


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
    threshold: lowest salient score; the paper has 1.
    density: share in (0, 1] of all entries in scope to mark, by the highest
      scores, in place of a threshold. Equal scores at the border are all taken.
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
  # Leaf -> entries that cannot be salient: an array, or all, or None.
  frozen = dict.fromkeys(tree_lib.flatten(scores))
  if ties is not None:
    tree_lib.check_same(ties, scores, got_name='ties', want_name='the scores')
    frozen |= tree_lib.flatten(ties)
  if scope is not None:
    frozen |= {name: True for name in frozen if not scope(name)}
  if density is not None:
    threshold = _quantile(tree_lib.flatten(scores), frozen, density)
  made = _reaches_all(tree_lib.flatten(scores), frozen, threshold)
  return tree_lib.map_with_name(lambda name, _: made[name], scores)


def top_share(
  scores: Params, shares: Mapping[str, float], components: Mapping[str, str]
) -> Mask:
  """Marks the highest scores of each component: the top-k control.

  Args:
    scores: tree of float32, for example the forget importance alone.
    shares: component -> share in [0, 1] of its entries to mark.
    components: component -> regex over leaf names.

  Returns:
    A bool tree.

  Example:
    >>> import jax.numpy as jnp
    >>> top_share({'w': jnp.array([1., 3., 2.])}, {'all': 2 / 3}, {'all': ''})
    {'w': Array([False,  True,  True], dtype=bool)}
  """
  read = tree_lib.flatten(scores).__getitem__
  return top_mask(read, scores, shares, components)


def top_mask(
  read: Callable[[str], jax.Array],
  like: Params,
  shares: Mapping[str, float],
  components: Mapping[str, str],
) -> Mask:
  """Marks the highest scores of each component, read leaf by leaf.

  Args:
    read: ``read(leaf name) -> scores``, float32; called three times for each
      leaf, so that they may come from a disk, one at a time.
    like: the parameters, or their shapes.
    shares: component -> share in [0, 1] of its entries to mark. Equal scores
      at the border are all marked.
    components: component -> regex over leaf names.

  Returns:
    A bool tree.
  """
  lowest = _lowest(read, like, shares, components)
  bound = lambda name: lowest[tree_lib.component_of(name, components)]
  return tree_lib.map_with_name(
    lambda name, _: _reaches(read(name), None, bound(name)), like
  )


def _lowest(
  read: Callable[[str], jax.Array],
  like: Params,
  shares: Mapping[str, float],
  components: Mapping[str, str],
) -> dict[str, float]:
  """The score of each component that the wanted share of it reaches."""
  groups: dict[str, dict[str, int]] = {}
  for name, leaf in tree_lib.flatten(like).items():
    component = tree_lib.component_of(name, components)
    groups.setdefault(component, {})[name] = math.prod(leaf.shape)

  def kth(sizes: Mapping[str, int], share: float) -> float:
    wanted = share * sum(sizes.values())
    if not wanted:
      return math.inf
    leaves = lambda: ((read(name), None) for name in sizes)
    return ranking.kth_largest(leaves, max(round(wanted), 1))

  return {name: kth(sizes, shares[name]) for name, sizes in groups.items()}


@jax.jit
def _reaches(
  scores: jax.Array, frozen: jax.Array | None, threshold: float
) -> jax.Array:
  """Where scores reach the threshold and are not frozen.

  The threshold is an argument, so that one program serves all.
  """
  salient = ranking.reaches(scores, threshold)
  return salient if frozen is None else salient & ~frozen


@jax.jit
def _reaches_all(
  scores: Mapping[str, jax.Array], frozen: Mapping[str, Any], threshold: float
) -> dict[str, jax.Array]:
  """``_reaches`` of every leaf, in one program."""
  return {k: _reaches(x, frozen[k], threshold) for k, x in scores.items()}


def _quantile(
  scores: Mapping[str, Any], frozen: Mapping[str, Any], density: float
) -> float:
  """The score that the wanted share of the entries in scope reaches."""
  inside = {
    name: None if out is None else ~out
    for name, out in frozen.items()
    if out is not True
  }
  size = sum(
    scores[name].size if where is None else masks.total([where])[0]
    for name, where in inside.items()
  )
  if not size:
    raise UserError('no entry is in scope, so none can be salient.')
  read = lambda: ((scores[name], where) for name, where in inside.items())
  k = max(round(density * size), 1)
  return ranking.kth_largest(read, k)
