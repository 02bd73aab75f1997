r"""Low-rank adapters: a frozen base, and a change of rank r beside it.

A target leaf W ``[..., in, out]`` gets two factors A ``[..., in, r]`` and B
``[..., r, out]`` for each kind of change: a *masked* one, which the saliency
mask of the whole weights acts on, and a *free* one.

.. math:: W_{eff} = W + M \odot (s A_m B_m) + s A_f B_f

The adapters are a tree like the parameters with the targets alone:
``masked/<leaf>/A``. A leaf that is trained whole, such as a new projector
beside a frozen decoder, has all of its change instead: ``free/<leaf>/D``. A run
trains this tree as it would train parameters; the base is another argument of
the step. A turn trains one kind, so a method whose turns are all masked, or all
free, has one change, and a method with both has two.

``merge`` makes whole leaves of the model, all layers of a stack at once: a turn
holds the base, a copy of the target leaves in the dtype of the base, and their
gradient. It saves the moments of the base and the gradients of the other
leaves, and the base may be bfloat16.
"""

from collections.abc import Iterable, Mapping, Sequence
import math
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from mmu_jax import masks
from mmu_jax import sharding
from mmu_jax import tree as tree_lib
from mmu_jax.errors import UserError
from mmu_jax.sharding import Rules
from mmu_jax.typing import Mask
from mmu_jax.typing import Params

ALL_LINEAR = 'all-linear'
MASKED, FREE = 'masked', 'free'
# Never among all linear layers, as in PEFT; a regex may name it.
OUTPUT = r'(.*/)?lm_head/kernel'


class Lora(NamedTuple):
  """Adapters of a run.

  Attributes:
    targets: names of the leaves that get adapters, from ``choose_targets``.
    rank: r, columns of A and rows of B.
    alpha: numerator of the scale s = alpha / r.
    rslora: whether s = alpha / sqrt(r) instead.
    dtype: dtype of the frozen base, 'float32' or 'bfloat16'.
    seed: seed of the random A.
    whole: names of leaves that are trained whole, without factors; none of
      them is a target.
  """

  targets: tuple[str, ...]
  rank: int = 16
  alpha: float = 32.0
  rslora: bool = False
  dtype: str = 'float32'
  seed: int = 0
  whole: tuple[str, ...] = ()

  @property
  def scale(self) -> float:
    """Factor s of the product of A and B."""
    return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)


def linear_leaves(params: Params, convolutions: Iterable[str]) -> list[str]:
  """Returns the names of the kernels of linear layers, in tree order.

  Args:
    params: tree of parameters, or of their shapes.
    convolutions: suffixes of the names of kernels that are convolutions.

  Example:
    >>> shape = jax.ShapeDtypeStruct((3, 4), jnp.float32)
    >>> linear_leaves({'proj': {'kernel': shape}, 'words': shape}, ())
    ['proj/kernel']
  """
  ends = tuple(convolutions)
  stacked = lambda name: not tree_lib.STACKS.isdisjoint(name.split('/'))
  return [
    name
    for name, leaf in tree_lib.flatten(params).items()
    if name.endswith('kernel')
    and not (ends and name.endswith(ends))
    and len(leaf.shape) == 2 + stacked(name)
  ]


def choose_targets(
  wanted: Sequence[str],
  params: Params,
  components: Mapping[str, str],
  convolutions: Iterable[str] = (),
) -> tuple[str, ...]:
  """Returns the leaves that get adapters.

  'all-linear' means what it means in PEFT: every linear layer of the tower,
  the projector and the decoder, but not the output layer. A fused layer, such
  as the qkv of Qwen's tower, is one layer. Embeddings, norms and biases get no
  adapter, and so a tied output layer gets none.

  Args:
    wanted: words: 'all-linear', the name of a component (its linear layers),
      or a regex over whole leaf names.
    params: tree of parameters, or of their shapes.
    components: component -> regex over leaf names.
    convolutions: suffixes of the names of kernels that are convolutions.

  Raises:
    ValueError: if a word names no linear layer.

  Example:
    >>> shape = jax.ShapeDtypeStruct((3, 4), jnp.float32)
    >>> params = {name: {'kernel': shape} for name in ('q', 'v', 'lm_head')}
    >>> choose_targets(['all-linear'], params, {})
    ('q/kernel', 'v/kernel')
    >>> choose_targets(['q/.*'], params, {})
    ('q/kernel',)
  """
  linear = linear_leaves(params, convolutions)
  inner = [name for name in linear if not re.fullmatch(OUTPUT, name)]
  found: set[str] = set()
  for word in wanted:
    if word == ALL_LINEAR:
      some = set(inner)
    elif word in components:
      some = {name for name in inner if re.match(components[word], name)}
    else:
      some = {name for name in linear if re.fullmatch(word, name)}
    if not some:
      others = [n for n in tree_lib.flatten(params) if re.fullmatch(word, n)]
      what = f'embeddings, norms or biases ({others[0]})' if others else 'none'
      raise UserError(
        f"the targets of LoRA are '{ALL_LINEAR}', components "
        f'({", ".join(components)}) or regexes over the names of linear '
        f'layers, such as {linear[0]!r}; {word!r} names {what}.'
      )
    found |= some
  if not found:
    raise UserError(f"LoRA needs targets, such as ('{ALL_LINEAR}',); got none.")
  return tuple(name for name in linear if name in found)


def choose_whole(
  wanted: Sequence[str], params: Params, components: Mapping[str, str]
) -> tuple[str, ...]:
  """Returns the leaves that are trained whole, biases and norms among them.

  Args:
    wanted: words: the name of a component, or a regex over whole leaf names.
    params: tree of parameters, or of their shapes.
    components: component -> regex over leaf names.

  Raises:
    ValueError: if a word names no leaf.

  Example:
    >>> shape = jax.ShapeDtypeStruct((3, 4), jnp.float32)
    >>> params = {'tower': {'bias': shape}, 'head': {'kernel': shape}}
    >>> choose_whole(['vision'], params, {'vision': 'tower/'})
    ('tower/bias',)
  """
  names = list(tree_lib.flatten(params))
  found: set[str] = set()
  for word in wanted:
    regex = f'{components[word]}.*' if word in components else word
    some = {name for name in names if re.fullmatch(regex, name)}
    if not some:
      raise UserError(
        f'leaves that are trained whole are components '
        f'({", ".join(components)}) or regexes over the names of leaves, such '
        f'as {names[0]!r}; {word!r} names none.'
      )
    found |= some
  return tuple(name for name in names if name in found)


def kinds_of(masked: Iterable[bool]) -> tuple[str, ...]:
  """Returns the kinds of change that the turns of a method make.

  Args:
    masked: flags of the turns, ``turn.masked``.

  Example:
    >>> kinds_of([True, False])
    ('masked', 'free')
  """
  masked = set(masked)
  return (MASKED,) * (True in masked) + (FREE,) * (False in masked)


def new_adapters(
  key: jax.Array, params: Params, lora: Lora, kinds: Iterable[str]
) -> Params:
  """Returns fresh adapters, whose change is 0.

  A is uniform within 1 / sqrt(in), as PEFT begins; B and D are 0.

  Args:
    key: a ``jax.random`` key.
    params: tree of parameters, or of their shapes.
    lora: rank and targets.
    kinds: kinds of change, from ``kinds_of``.
  """
  leaves = tree_lib.flatten(params)
  made: dict[str, Any] = {}
  for i, kind in enumerate(kinds):
    for j, name in enumerate(lora.targets):
      *layers, rows, columns = leaves[name].shape
      bound = rows**-0.5
      own = jax.random.fold_in(jax.random.fold_in(key, i), j)
      shape = (*layers, rows, lora.rank)
      node = _node(made, f'{kind}/{name}')
      node['A'] = jax.random.uniform(own, shape, minval=-bound, maxval=bound)
      node['B'] = jnp.zeros((*layers, lora.rank, columns))
    for name in lora.whole:
      _node(made, f'{kind}/{name}')['D'] = jnp.zeros(leaves[name].shape)
  return made


def merge(
  base: Params,
  adapters: Params,
  mask: Mask = None,
  *,
  scale: jax.Array | float,
  rules: Rules = (),
) -> Params:
  r"""Returns the parameters of a model with its adapters merged.

  .. math:: W \leftarrow \mathrm{where}(M, W + s A_m B_m, W)

  Sums are float32, results have the dtype of the base. Outside of the mask a
  leaf with a masked change alone keeps its bits, as do leaves without
  adapters. By autodiff the gradients of the factors are
  :math:`s (M \odot G) B^T` and :math:`s A^T (M \odot G)`, where G is the
  gradient of W.

  Args:
    base: tree of frozen parameters.
    adapters: tree of ``new_adapters``.
    mask: bool or packed tree like the base, for masked changes.
    scale: factor s, ``Lora.scale``.
    rules: partition rules of the base: merged leaves and their gradients go
      where the base is.

  Raises:
    ValueError: before compiling, if the mask or an adapter belongs to another
      model, or a masked change has no mask.

  Example:
    >>> base = {'proj': {'kernel': jnp.ones((2, 2))}}
    >>> one = {'A': jnp.ones((2, 1)), 'B': jnp.ones((1, 2))}
    >>> mask = {'proj': {'kernel': jnp.eye(2, dtype=bool)}}
    >>> merge(base, {'masked': {'proj': {'kernel': one}}}, mask, scale=0.5)
    {'proj': {'kernel': Array([[1.5, 1. ],
           [1. , 1.5]], dtype=float32)}}
  """
  _check_adapters(base, adapters)
  if MASKED not in adapters:
    mask = None
  elif mask is None:
    raise UserError(
      'adapters with a masked change need the mask that they were trained '
      'with; got none.'
    )
  else:
    mask = tree_lib.flatten(masks.unpack(mask, base))
  parts = tree_lib.flatten(adapters)

  def merged(name, w):
    found = {
      kind: change
      for kind in adapters
      if (change := _change(parts, kind, name, scale)) is not None
    }
    if not found:
      return w
    add = lambda d: (w.astype(jnp.float32) + d).astype(w.dtype)
    rest = add(found[FREE]) if FREE in found else w
    if MASKED in found:
      rest = jnp.where(mask[name], add(sum(found.values())), rest)
    return rest

  return sharding.constrain(tree_lib.map_with_name(merged, base), rules)


def trained(adapters: Params, masked: bool) -> Mask:
  """Returns the mask of the factors that a turn trains; None for all.

  Args:
    adapters: tree of ``new_adapters``.
    masked: whether the turn is masked.
  """
  if len(adapters) == 1:
    return None
  own = MASKED if masked else FREE
  return {
    kind: jax.tree.map(lambda x, kind=kind: jnp.full(x.shape, kind == own), t)
    for kind, t in adapters.items()
  }


def adapter_rules(rules: Rules) -> tuple[tuple[str, PartitionSpec], ...]:
  """Returns partition rules of adapters, from the rules of the base.

  A is split as the rows of its kernel, B as the columns, D as both; the axis of
  the rank is whole.

  Example:
    >>> rules = [('.*kernel', PartitionSpec('fsdp', 'tensor'))]
    >>> [(name, *spec) for name, spec in adapter_rules(rules)][:2]
    [('(?:.*kernel)/A', 'fsdp', None), ('(?:.*kernel)/B', None, 'tensor')]
  """
  made = []
  for regex, spec in rules:
    rows, columns = (None, None, *spec)[-2:]
    made.append((f'(?:{regex})/A', PartitionSpec(rows, None)))
    made.append((f'(?:{regex})/B', PartitionSpec(None, columns)))
    made.append((f'(?:{regex})/D', spec))
  return tuple(made)


def _node(tree: dict[str, Any], name: str) -> dict[str, Any]:
  """The dict at a name, made if it is not there."""
  for word in name.split('/'):
    tree = tree.setdefault(word, {})
  return tree


def _change(
  parts: Mapping[str, Any], kind: str, name: str, scale: jax.Array | float
) -> jax.Array | None:
  """The change of a kind of a leaf, None if it has none."""
  a, b, whole = (parts.get(f'{kind}/{name}/{x}') for x in 'ABD')
  if a is None:
    return whole
  return scale * jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def _axes(x: Any, which: str) -> tuple[int, ...]:
  """The axes that a leaf and its A, B or D have in common."""
  shape = x.shape
  return {'A': shape[:-1], 'B': (*shape[:-2], *shape[-1:])}.get(which, shape)


def _check_adapters(base: Params, adapters: Params) -> None:
  """Raises unless all adapters have a leaf of the base with fitting axes."""
  leaves = tree_lib.flatten(base)
  for name, factor in tree_lib.flatten(adapters).items():
    kind, _, rest = name.partition('/')
    leaf, _, which = rest.rpartition('/')
    if (
      kind not in (MASKED, FREE)
      or leaf not in leaves
      or _axes(leaves[leaf], which) != _axes(factor, which)
    ):
      shape = leaves[leaf].shape if leaf in leaves else 'no such leaf'
      raise UserError(
        f'the adapter {name!r} of shape {tuple(factor.shape)} must fit a leaf '
        f'of the model, which has {shape}. It was made for another model.'
      )
