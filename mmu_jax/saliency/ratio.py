"""Saliency: how much more the forget set needs a weight than others do.

``saliency`` is the ratio of two importances. ``score_leaves`` applies it to a
model, component by component: the vision tower and the projector are
restricted by pictures of the others, the language model also by text about
everybody.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import functools
from typing import Any

import jax
import jax.numpy as jnp

from mmu_jax import tree as tree_lib
from mmu_jax.errors import UserError
from mmu_jax.typing import Mask
from mmu_jax.typing import Params

EPS = 1e-15  # as in the published ratio
FORGET = 'forget'  # the name of the forget set among the importances

ReadLeaf = Callable[[str, str], jax.Array]  # (importance, leaf) -> its array


def saliency(
  forget: Params, preserve: Params | Sequence[Params], *, eps: float = EPS
) -> Params:
  r"""Divides the importance of the forget set by a preserve importance.

  .. math:: s = \frac{F_T + \epsilon}{F_P + \epsilon}

  A weight that neither set uses has ratio eps / eps = 1: see ``dead`` and the
  tie rule of ``mask_from_saliency``. The saliency of a set with itself is 1.

  Args:
    forget: F_T, tree of float32 >= 0.
    preserve: F_P, a tree like it, or a list or tuple of several: then their
      largest, entry by entry, so that each preserve set protects its own
      weights.
    eps: number > 0, in the units of the importances.

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
  return _ratio(forget, _preserve_sets(forget, preserve), eps)


def dead(
  forget: Params, preserve: Params | Sequence[Params], *, eps: float = EPS
) -> Mask:
  """Marks the ties: entries whose ratio is decided by eps, not by data.

  An entry is dead if every importance is below ``eps``: a token that never
  occurred, a layer that is never run. Its published ratio is about 1 whatever
  the data say.

  Args:
    forget: F_T, tree of float32 >= 0, not normalised.
    preserve: F_P, a tree like it, or several, as for ``saliency``.
    eps: the eps of the ratio, > 0.

  Returns:
    A bool tree.

  Raises:
    ValueError: if the trees differ, or no preserve set is given.

  Example:
    >>> import jax.numpy as jnp
    >>> dead({'w': jnp.array([0., 0.])}, {'w': jnp.array([0., 1.])})
    {'w': Array([ True, False], dtype=bool)}
  """
  return _below([forget, *_preserve_sets(forget, preserve)], eps)


def component_means(
  tree: Params, components: Mapping[str, str]
) -> dict[str, jax.Array]:
  """Returns the means by which a normalised saliency divides an importance.

  Args:
    tree: an importance, float32 >= 0.
    components: component -> regex over leaf names.

  Returns:
    Component -> mean over all its entries; 1 for a component of zeros, which
    stays zero.
  """
  groups: dict[str, list[jax.Array]] = {}
  for name, leaf in tree_lib.flatten(tree).items():
    component = tree_lib.component_of(name, components)
    groups.setdefault(component, []).append(leaf)
  means = {
    # float: an entry count beyond int32 cannot be a program's argument.
    component: sum(jnp.sum(x) for x in leaves)
    / float(sum(x.size for x in leaves))
    for component, leaves in groups.items()
  }
  return {c: jnp.where(mean == 0, 1, mean) for c, mean in means.items()}


def component_saliency(
  forget: Params,
  preserve: Mapping[str, Params],
  *,
  protects: Mapping[str, Sequence[str]],
  components: Mapping[str, str],
  normalize: bool = False,
  eps: float = EPS,
) -> tuple[Params, Mask]:
  r"""Returns the saliency of a model whose preserve set differs by component.

  .. math:: s_c = \frac{F_T + \epsilon}{F_{P(c)} + \epsilon}

  Args:
    forget: F_T, tree of float32 >= 0.
    preserve: name of a preserve set -> F_P, trees like it.
    protects: component -> names of the preserve sets that restrict it, see
      ``score_leaves``.
    components: component -> regex over leaf names.
    normalize: whether to divide each importance by its mean over the
      component, so that the ratio compares where the sets look and not how
      large their losses are. Without it, the published ratio, a few hard
      retain items decide the density.
    eps: the eps of the ratio, > 0.

  Returns:
    The saliency, and the ties (``dead``), each a tree like ``forget``.

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
  leaves = {name: tree_lib.flatten(tree) for name, tree in trees.items()}
  means = {k: component_means(tree, components) for k, tree in trees.items()}
  return score_leaves(
    lambda importance, name: leaves[importance][name],
    forget,
    lambda scores, ties: (scores, ties),
    protects=protects,
    components=components,
    means=means if normalize else None,
    eps=eps,
  )


def score_leaves(
  read: ReadLeaf,
  like: Params,
  then: Callable[[jax.Array, jax.Array], Any],
  *,
  protects: Mapping[str, Sequence[str]],
  components: Mapping[str, str],
  means: Mapping[str, Mapping[str, jax.Array | float]] | None = None,
  eps: float = EPS,
) -> Any:
  """Scores a model leaf by leaf, and keeps what ``then`` makes of each.

  Every mask is made this way. Importances are as large as the model, so one
  leaf of each is in memory at a time, wherever ``read`` takes it from.

  Args:
    read: ``read(importance, leaf name) -> array``, float32 >= 0, of ``FORGET``
      and of the preserve sets that restrict the leaf's component.
    like: the parameters, or their shapes.
    then: ``then(scores, ties)``, called with the saliency and the ties of each
      leaf; returns an array or several.
    protects: component -> names of the preserve sets that restrict it. Several
      are one set, as in the paper: the mean of their importances, each measured
      on as many batches. With ``means``, their entry-wise largest.
    components: component -> regex over leaf names.
    means: importance -> component -> mean to divide by, from
      ``component_means``; None for the published ratio.
    eps: the eps of the ratio, > 0.

  Returns:
    A tree like ``like``, or a tuple of them if ``then`` returns a tuple.

  Example:
    >>> read = lambda importance, name: jnp.array(
    ...     {'forget': [4., 0.], 'text': [2., 0.]}[importance])
    >>> scores, ties = score_leaves(
    ...     read, {'w': jnp.zeros(2)}, lambda scores, ties: (scores, ties),
    ...     protects={'all': ['text']}, components={'all': ''})
    >>> scores['w'].tolist(), ties['w'].tolist()
    ([2.0, 1.0], [False, True])
  """

  def score(name: str, _: Any) -> Any:
    component = tree_lib.component_of(name, components)
    sets = protects[component]
    forget, *leaves = (read(k, name) for k in (FORGET, *sets))
    if means is None:
      return then(*_plain(forget, leaves, float(len(leaves)), eps))
    mean, *others = (means[k][component] for k in (FORGET, *sets))
    return then(*_shares(forget, leaves, mean, others, eps))

  made = tree_lib.map_with_name(score, like)
  return jax.tree.transpose(jax.tree.structure(like), None, made)


def check_protects(
  protects: Mapping[str, Sequence[str]],
  preserve: Iterable[str],
  components: Iterable[str],
) -> None:
  """Raises unless every component names known preserve sets, at least one."""
  known = list(preserve)
  if FORGET in known:
    raise UserError(
      f'a preserve set cannot be called {FORGET!r}: that is the importance '
      'it is compared with. Give it another name.'
    )
  for component in components:
    names = list(protects.get(component, ()))
    if not names or not set(names) <= set(known):
      raise UserError(
        f'component {component!r} must name preserve sets that restrict it, '
        f'got {names}; known: {", ".join(known)}. A component without one '
        'would change freely.'
      )


@jax.jit
def _ratio(forget: Params, sets: Sequence[Params], eps: float) -> Params:
  """The ratio of every leaf, in one program."""
  return jax.tree.map(
    lambda f, p: (f + eps) / (p + eps), forget, _largest(sets)
  )


@jax.jit
def _below(trees: Sequence[Params], eps: float) -> Mask:
  """Where the largest is below eps, in one program."""
  return jax.tree.map(lambda x: x < eps, _largest(trees))


def _largest(trees: Sequence[Params]) -> Params:
  """The largest of some trees, entry by entry."""
  return functools.reduce(lambda a, b: jax.tree.map(jnp.maximum, a, b), trees)


@jax.jit
def _plain(
  forget: jax.Array, sets: Sequence[jax.Array], number: float, eps: float
) -> tuple[jax.Array, jax.Array]:
  """The ratio to the mean of the sets, and the ties."""
  # An argument, not a constant: XLA would multiply by its reciprocal.
  mean = functools.reduce(jnp.add, sets) / number
  return saliency(forget, mean, eps=eps), dead(forget, mean, eps=eps)


@jax.jit
def _shares(
  forget: jax.Array,
  sets: Sequence[jax.Array],
  forget_mean: Any,
  means: Sequence[Any],
  eps: float,
) -> tuple[jax.Array, jax.Array]:
  """The ratio of shares to the largest of the sets, and the ties."""
  ties = dead(forget, sets, eps=eps)
  sets = [leaf / mean for leaf, mean in zip(sets, means)]
  return saliency(forget / forget_mean, sets, eps=eps), ties


def _preserve_sets(
  forget: Params, preserve: Params | Sequence[Params]
) -> list[Params]:
  """One preserve importance, or several, as a list; checked.

  The root of the parameters may be a sequence itself, so a tree like
  ``forget`` is one.
  """
  like: Any = jax.tree.structure(forget)
  alike = jax.tree.structure(preserve) == like
  several = type(preserve) in (list, tuple) and not alike
  sets = list(preserve) if several else [preserve]
  if not sets:
    raise UserError('saliency needs at least one preserve importance.')
  for tree in sets:
    tree_lib.check_same(
      tree,
      forget,
      got_name='a preserve importance',
      want_name='the forget importance',
    )
  return sets
