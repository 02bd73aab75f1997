"""Parts of towers and decoders: scanned layers, activations, choices."""

from collections.abc import Callable, Iterable
import functools
from typing import Any

from flax import nnx
import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp
import numpy as np

from mmu_jax import sharding
from mmu_jax.errors import UserError
from mmu_jax.models import attention as attention_lib
from mmu_jax.models.attention import PRODUCT

REMAT = {
  'none': None,  # keep every activation
  # Keep what linear layers, rotations and attention give; the rest is cheap.
  'products': jax.checkpoint_policies.save_only_these_names(PRODUCT),
  'full': jax.checkpoint_policies.nothing_saveable,  # keep layer inputs only
}


@jax.custom_vjp
def _product(x: jax.Array, weight: jax.Array) -> jax.Array:
  """``x [..., D]`` times ``weight [D, F]``.

  For the weight's gradient XLA on CPUs copies one factor, transposed, together
  with the computation that makes it. JAX always picks the gradient; here the
  narrower factor is picked. Second derivatives are in reverse mode alone.
  """
  return jnp.dot(x, weight)


def _backward(kept, grad):
  """The gradients of both factors."""
  x, weight = kept
  leading = tuple(range(x.ndim - 1))
  of_x = jax.lax.dot_general(grad, weight, (((grad.ndim - 1,), (1,)), ((), ())))
  sums = (leading, leading), ((), ())
  if x.shape[-1] > grad.shape[-1]:
    return of_x, jax.lax.dot_general(grad, x, sums).T
  return of_x, jax.lax.dot_general(x, grad, sums)


_product.defvjp(lambda x, weight: (_product(x, weight), (x, weight)), _backward)


def _named_product(x, weight, dimensions, **ways):
  """What ``nnx.Linear`` calls in the place of ``dot_general``."""
  del dimensions  # the last axis with the first
  assert not any(ways.values()), f'no product has these ways: {ways}'
  return checkpoint_name(_product(x, weight), PRODUCT)


# Layers of a scan are of these: REMAT keeps no product of others.
Linear = functools.partial(nnx.Linear, dot_general=_named_product)


def stack_layers(
  make: Callable[[nnx.Rngs], nnx.Module], num_layers: int, rngs: nnx.Rngs
) -> nnx.Module:
  """Makes layers of one kind whose parameters share a leading layer axis.

  Args:
    make: function of a random stream that builds one layer.
    num_layers: number of layers, >= 1.
    rngs: the random streams, split for the layers.

  Returns:
    One module; each of its parameters has shape ``[num_layers, ...]``.
  """
  split = nnx.split_rngs(splits=num_layers)
  return split(nnx.vmap(make, in_axes=0, out_axes=0))(rngs)


def _split_rows(tree: Any) -> Any:
  """Rows of every array over devices."""
  return jax.tree.map(sharding.split_rows, tree)


def scan_layers(
  layers: nnx.Module,
  apply: Callable[[nnx.Module, Any, Any], tuple[Any, Any]],
  x: Any,
  per_layer: Any = None,
  *,
  place: Callable[[Any], Any] = _split_rows,
  num_layers: int | None = None,
  remat: str = 'products',
) -> tuple[Any, Any]:
  """Runs stacked layers one after the other, compiled once for any depth.

  Args:
    layers: stacked layers, from ``stack_layers``.
    apply: function of one layer, ``apply(layer, x, extra) -> (x, extra)``.
    x: input of the first layer, for example ``[B, L, D]``, or a pytree of
      arrays that go from layer to layer.
    per_layer: pytree with a leading layer axis.
    place: function that says where x lies on the mesh; by default the rows of
      every array are split over devices.
    num_layers: number of first layers to run; None for all.
    remat: activations that the backward pass keeps, a key of ``REMAT``.

  Returns:
    The last x, and the extras of every layer, stacked.
  """
  definition, params = nnx.split(layers)
  depth = len(jax.tree.leaves(params)[0])
  if num_layers in (None, depth) or remat == 'none':
    each = jax.tree.map(lambda p: p[:num_layers], params)
    layer_of = functools.partial(nnx.merge, definition)
  else:  # with 'none' backward would keep every layer that is selected
    each = jnp.arange(num_layers)
    layer_of = functools.partial(select_layer, layers)

  def body(x, inputs):
    chosen, extra = inputs
    x, extra = apply(layer_of(chosen), place(x), extra)
    return place(x), extra

  body = rematerialized(remat, body, prevent_cse=False)
  return jax.lax.scan(body, x, (each, per_layer))


def rematerialized(
  remat: str, body: Callable[..., Any], **how: Any
) -> Callable[..., Any]:
  """Returns a function whose backward pass keeps some activations alone.

  Args:
    remat: a key of ``REMAT``.
    body: function of one layer, ``body(x, ...)``.
    **how: other arguments of ``jax.checkpoint``.
  """
  if remat == 'none':
    return body
  return jax.checkpoint(body, policy=REMAT[remat], **how)


def select_layer(layers: nnx.Module, index: jax.Array | int) -> nnx.Module:
  """Returns one of the layers that ``stack_layers`` made.

  A scan over the first of them would copy their weights. This reads a layer
  where it is, and the compiler adds its gradient to theirs in place.

  Args:
    layers: stacked layers.
    index: index of the layer, from 0.
  """
  pick = functools.partial(
    jax.lax.dynamic_index_in_dim, index=index, keepdims=False
  )
  definition, params = nnx.split(layers)
  return nnx.merge(definition, jax.tree.map(pick, params))


def gather_tokens(x: jax.Array, at: jax.Array | None) -> jax.Array:
  """Returns the tokens of every row at some positions.

  Args:
    x: ``[B, L, ...]``.
    at: positions ``[B, K]`` int; None for all.

  Returns:
    ``[B, K, ...]``.
  """
  if at is None:
    return x
  at = at.reshape(*at.shape, *(1 for _ in x.shape[2:]))
  return jnp.take_along_axis(x, at, axis=1)


ACTIVATIONS = {
  'quick_gelu': lambda x: x * jax.nn.sigmoid(1.702 * x),  # as CLIP was trained
  'gelu': lambda x: jax.nn.gelu(x, approximate=False),
  'gelu_pytorch_tanh': lambda x: jax.nn.gelu(x, approximate=True),
  'silu': jax.nn.silu,
}


class Mlp(nnx.Module):
  """Two linear layers with an activation between, as in both vision towers."""

  def __init__(self, width: int, hidden: int, act: str, dtype, rngs: nnx.Rngs):
    self.fc1 = Linear(width, hidden, dtype=dtype, rngs=rngs)
    self.fc2 = Linear(hidden, width, dtype=dtype, rngs=rngs)
    self.act = ACTIVATIONS[act]

  def __call__(self, x: jax.Array) -> jax.Array:
    return self.fc2(self.act(self.fc1(x)))


def rotary_frequencies(width: int, theta: float) -> np.ndarray:
  """Returns the frequencies of rotary embedding: a constant of the model.

  They are made by NumPy and not by a compiled program. A last bit of one is
  2e-3 of its cosine at position 32,768, so every step is rounded as PyTorch
  rounds it: ratio, power and quotient to float32, each from exact numbers.

  Args:
    width: number of entries that are rotated, in pairs; even.
    theta: base of the wavelengths.

  Returns:
    ``[width / 2]`` float32, from 1 down.

  Example:
    >>> rotary_frequencies(4, 100.0)
    array([1. , 0.1], dtype=float32)
  """
  ratios = np.arange(0, width, 2, dtype=np.float32) / np.float32(width)
  powers = np.power(float(theta), ratios.astype(np.float64))
  return np.float32(1) / powers.astype(np.float32)


def fill_slots(
  x: jax.Array, features: jax.Array, slots: jax.Array
) -> jax.Array:
  """Puts image features where the tokens of a sequence stand for them.

  Args:
    x: embedded tokens ``[B, L, D]``.
    features: image tokens of each row, ``[B, N, D]``.
    slots: index of the feature that stands here, ``[B, L]`` int; -1 for text.

  Returns:
    ``[B, L, D]``.
  """
  slots = slots[..., None]  # [B, L, 1]
  picked = jnp.take_along_axis(features, jnp.maximum(slots, 0), axis=1)
  return jnp.where(slots >= 0, picked.astype(x.dtype), x)


def check_computation(attention: str, remat: str) -> None:
  """Raises ValueError unless these are known ways to compute."""
  check_choice('attention', attention, attention_lib.ATTENTION)
  check_choice('remat', remat, REMAT)


def check_choice(field: str, value: str, known: Iterable[str]) -> None:
  """Raises ValueError unless a config field has a known value."""
  if value not in known:
    raise UserError(f'{field} is one of {", ".join(known)}, got {value!r}.')
