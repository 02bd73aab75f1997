"""Which preserve sets restrict which component of a model.

The vision tower and the projector are restricted by pictures of the others;
the language model also by what is known in text, of everybody. So the mask is
made component by component, and so is its control.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import functools
import math

import jax
import jax.numpy as jnp

from mmu_jax import tree as tree_lib
from mmu_jax.errors import UserError
from mmu_jax.saliency import fisher as saliency_lib
from mmu_jax.saliency import ranking
from mmu_jax.typing import Mask
from mmu_jax.typing import Params

FORGET = ''  # the importance of the forget set, among those of preserve sets


def component_saliency(
  forget: Params,
  preserve: Mapping[str, Params],
  *,
  protects: Mapping[str, Sequence[str]],
  components: Mapping[str, str],
  normalize: bool = False,
  eps: float = saliency_lib.EPS,
) -> tuple[Params, Mask]:
  r"""The saliency whose preserve set differs by component.

  .. math:: s_c = \frac{F_T + \epsilon}{F_{P(c)} + \epsilon}

  It is made leaf by leaf, so that no second tree of scores stands in memory.

  Args:
    forget: F_T.
    preserve: name of a preserve set -> F_P.
    protects: component -> names of the preserve sets that restrict it. Several
      are one set, as in the paper: the mean of their importances, each measured
      on as many batches. With ``normalize`` their entry-wise largest.
    components: component -> regex over leaf names.
    normalize: divide each importance by its mean over the component, see
      ``saliency``. False is the published ratio.
    eps: of the ratio.

  Returns:
    The saliency, and the ties (``saliency.dead``), each a tree like ``forget``.

  Raises:
    ValueError: if a component has no preserve set, or one that is unknown, or
      if the trees differ.

  Example:
    >>> import jax.numpy as jnp
    >>> tree = lambda a, b: {'see': jnp.array([a]), 'say': jnp.array([b])}
    >>> scores, _ = component_saliency(
    ...     tree(4., 4.), {'pictures': tree(2., 2.), 'text': tree(8., 6.)},
    ...     protects={'vision': ['pictures'], 'language': ['pictures', 'text']},
    ...     components={'vision': 'see', 'language': 'say'})
    >>> scores
    {'say': Array([1.], dtype=float32), 'see': Array([2.], dtype=float32)}

  References:
    Huo et al., MMUnlearner, 2025 (https://arxiv.org/abs/2502.11051).
  """
  check_protects(protects, preserve, components)
  for name, tree in preserve.items():
    tree_lib.check_same(
      tree,
      forget,
      got_name=f'the importance of {name!r}',
      want_name='the forget importance',
    )
  trees = {FORGET: forget, **preserve}
  means = {
    name: saliency_lib.component_means(tree, components)
    for name, tree in trees.items()
    if normalize
  }

  def score(name, *leaves):
    component = tree_lib.component_of(name, components)
    return leaf_saliency(
      dict(zip(trees, leaves)),
      protects[component],
      means={k: v[component] for k, v in means.items()},
      eps=eps,
    )

  pairs = tree_lib.map_with_name(score, *trees.values())
  return jax.tree.transpose(jax.tree.structure(forget), None, pairs)


def leaf_saliency(
  leaves: Mapping[str, jax.Array],
  protects: Sequence[str],
  *,
  means: Mapping[str, jax.Array | float] | None = None,
  eps: float = saliency_lib.EPS,
) -> tuple[jax.Array, jax.Array]:
  """The saliency of one leaf, from that leaf of each importance.

  Importances are the size of the model, and so may be read from a disk leaf by
  leaf: what else a leaf needs are a few numbers.

  Args:
    leaves: importance -> its leaf, float32 >= 0: ``FORGET``, and the preserve
      sets; what is not needed may be left out.
    protects: the preserve sets that restrict the leaf's component.
    means: importance -> its mean over that component, to normalise, from
      ``saliency.component_means``; None or empty for the published ratio.
    eps: of the ratio.

  Returns:
    The scores and the ties, of the leaf's shape.

  Example:
    >>> leaves = {FORGET: jnp.array([4., 0.]), 'text': jnp.array([2., 0.])}
    >>> scores, ties = leaf_saliency(leaves, ['text'])
    >>> scores.tolist(), ties.tolist()
    ([2.0, 1.0], [False, True])
  """
  sets = [leaves[name] for name in protects]
  if not means:
    return _plain(leaves[FORGET], sets, float(len(sets)), eps)
  return _shares(
    leaves[FORGET], sets, means[FORGET], [means[k] for k in protects], eps
  )


@jax.jit
def _plain(forget, sets, number, eps):
  """The ratio to the mean of the sets, and the ties."""
  # The number is no constant: the bits are those of a division.
  mean = functools.reduce(jnp.add, sets) / number
  ties = saliency_lib.dead(forget, mean, eps=eps)
  return saliency_lib.saliency(forget, mean, eps=eps), ties


@jax.jit
def _shares(forget, sets, forget_mean, means, eps):
  """The ratio of shares to the largest of the sets, and the ties."""
  ties = saliency_lib.dead(forget, sets, eps=eps)
  sets = [leaf / mean for leaf, mean in zip(sets, means)]
  return saliency_lib.saliency(forget / forget_mean, sets, eps=eps), ties


def check_protects(
  protects: Mapping[str, Sequence[str]],
  preserve: Iterable[str],
  components: Iterable[str],
) -> None:
  """Raises unless every component names known preserve sets, at least one."""
  known = list(preserve)
  for component in components:
    names = list(protects.get(component, ()))
    if not names or not set(names) <= set(known):
      raise UserError(
        f'component {component!r} must name preserve sets that restrict it, '
        f'got {names}; known: {", ".join(known)}. A component without one '
        'would change freely.'
      )


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
  """
  leaves = tree_lib.flatten(scores)
  sizes = {name: leaf.size for name, leaf in leaves.items()}
  lowest = top_scores(
    leaves.__getitem__, sizes, shares, components, ranking.FROM_MEMORY
  )
  return tree_lib.map_with_name(
    lambda name, x: x >= lowest[tree_lib.component_of(name, components)], scores
  )


def top_scores(
  read: Callable[[str], jax.Array],
  sizes: Mapping[str, int],
  shares: Mapping[str, float],
  components: Mapping[str, str],
  bits: int = ranking.FROM_DISK,
) -> dict[str, float]:
  """Returns the score from which on each component's highest are marked.

  Args:
    read: ``read(leaf name) -> scores``, float32; called four times for each
      leaf by default, so that they may come from a disk, one at a time.
    sizes: leaf name -> number of its entries.
    shares: component -> share in [0, 1] of its entries to mark.
    components: component -> regex over leaf names.
    bits: of ``ranking.kth_largest``.

  Returns:
    Component -> the lowest marked score; equal scores are all marked. Infinite
    for a share of 0.
  """
  names = {component: [] for component in components}
  for name in sizes:
    names[tree_lib.component_of(name, components)].append(name)
  found = {}
  for component, inside in names.items():
    size = sum(sizes[name] for name in inside)
    if not shares[component] * size:
      found[component] = math.inf
      continue
    found[component] = ranking.kth_largest(
      lambda inside=inside: ((read(name), None) for name in inside),
      max(round(shares[component] * size), 1),
      bits,
    )
  return found
