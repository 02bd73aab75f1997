"""Which preserve sets restrict which component of a model.

The vision tower and the projector are restricted by pictures of the others;
the language model also by what is known in text, of everybody. So the mask is
made component by component, and so is its control.
"""

from collections.abc import Iterable, Mapping, Sequence

import jax
import jax.numpy as jnp

from mmu_jax import saliency as saliency_lib
from mmu_jax import tree as tree_lib
from mmu_jax.typing import Mask, Params


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
        tree, forget, got_name=f'the importance of {name!r}',
        want_name='the forget importance',
    )
  trees = {'': forget, **preserve}
  means = {
      name: saliency_lib.component_means(tree, components)
      for name, tree in trees.items()
      if normalize
  }

  def score(leaf_name, *leaves):
    component = tree_lib.component_of(leaf_name, components)
    leaves = dict(zip(trees, leaves))
    sets = [leaves[name] for name in protects[component]]
    if not normalize:
      sets = [sum(sets) / len(sets)]
    ties = saliency_lib.dead(leaves[''], sets, eps=eps)
    if normalize:
      share = lambda name: leaves[name] / means[name][component]
      sets = [share(name) for name in protects[component]]
      leaves[''] = share('')
    return saliency_lib.saliency(leaves[''], sets, eps=eps), ties

  pairs = tree_lib.map_with_name(score, *trees.values())
  return jax.tree.transpose(jax.tree.structure(forget), None, pairs)


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
      raise ValueError(
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
  made = {}
  for component in components:
    if shares[component] == 0:
      made[component] = jax.tree.map(lambda x: jnp.zeros(x.shape, bool), scores)
      continue
    inside = lambda name, c=component: (
        tree_lib.component_of(name, components) == c
    )
    made[component] = saliency_lib.mask_from_saliency(
        scores, density=shares[component], scope=inside
    )
  return tree_lib.by_component(made, components)
