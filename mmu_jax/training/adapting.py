"""A run that trains adapters: its plan, and the model that it makes."""

from collections.abc import Callable
import functools
from typing import Any

import jax
import jax.numpy as jnp

from mmu_jax import lora as lora_lib
from mmu_jax import sharding
from mmu_jax.lora import Lora
from mmu_jax.sharding import Rules
from mmu_jax.typing import Mask
from mmu_jax.typing import Params

Start = Callable[[], Params]


def adapted(plan: Any, start: Start) -> tuple[Any, Params, Start]:
  """Turns the plan of a run into a plan that trains adapters.

  The base is loaded, in its dtype. Its adapters are the same on every mesh.

  Args:
    plan: a ``loop.Plan`` with ``lora``.
    start: ``start() -> params``, the parameters that the run starts from.

  Returns:
    The plan with its base, and rules for adapters too; the shapes, dtypes and
    places of the adapters; and a function that makes them.
  """
  lora = plan.lora
  base = _cast(start(), lora.dtype)
  make = functools.partial(
    lora_lib.new_adapters,
    lora=lora,
    kinds=lora_lib.kinds_of(turn.masked for turn in plan.turns),
  )
  key = jax.random.key(lora.seed)
  shapes = jax.eval_shape(make, key, base)
  rules = (*lora_lib.adapter_rules(plan.rules), *plan.rules)
  mesh = jax.sharding.get_mesh()
  places = None
  if plan.rules and not mesh.empty:
    places = sharding.shardings(shapes, rules, mesh)
    shapes = sharding.placed(shapes, rules, mesh)
  abstract = jax.eval_shape(lambda p: p, base)
  begin = jax.jit(lambda key: make(key, abstract), out_shardings=places)
  plan = plan._replace(base=base, rules=rules if plan.rules else ())
  return plan, shapes, lambda: begin(key)


def model_of(plan: Any, adapters: Params) -> Params:
  """Returns the model on the way, in the dtype of the base.

  Args:
    plan: plan from ``adapted``.
    adapters: adapters that it trains.
  """
  if plan.lora is None:
    return adapters
  return _merged(plan.base, adapters, plan.mask, plan.lora.scale, plan.rules)


def final_model(plan: Any, adapters: Params, start: Start) -> Params:
  """Returns the model of a finished run.

  A base that waited in bfloat16 is loaded again: outside of the mask the result
  has the bits of the parameters that the run started from.

  Args:
    plan: plan from ``adapted``; its base must not be used afterwards.
    adapters: adapters that it trained.
    start: ``start() -> params``.
  """
  if plan.lora is None:
    return adapters
  dtypes = {x.dtype for x in jax.tree.leaves(plan.base)}
  if dtypes != {jnp.dtype(jnp.float32)}:
    jax.tree.map(lambda x: x.delete(), plan.base)
    plan = plan._replace(base=start())
  return _merged_in_place(
    plan.base, adapters, plan.mask, plan.lora.scale, plan.rules
  )


def _cast(params: Params, dtype: str) -> Params:
  """Casts parameters; takes their buffers."""

  def cast(x):
    if x.dtype == dtype:
      return x
    made = x.astype(dtype)
    x.delete()  # before the next leaf: both trees would not fit
    return made

  return jax.tree.map(cast, params)


def _merge(
  base: Params, adapters: Params, mask: Mask, scale: float, rules: Rules
) -> Params:
  """Merges all leaves in one program."""
  return lora_lib.merge(base, adapters, mask, scale=scale, rules=rules)


_merged = jax.jit(_merge, static_argnames='rules')
_merged_in_place = jax.jit(
  _merge, static_argnames='rules', donate_argnames='base'
)


def note_of(lora: Lora) -> dict[str, Any]:
  """Returns the settings of adapters as JSON, for their note."""
  names = {k: list(getattr(lora, k)) for k in ('targets', 'whole')}
  return {'lora': lora._asdict() | names}
