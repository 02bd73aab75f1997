"""Does rounding the weights bring back the unlearned answers?

A small change of the weights that hides an answer can be smaller than the
steps of a coarse format: then the rounded model is nearer to the one before
unlearning. All matrices are rounded to the nearest number of a format, and
back to float, and the model is scored again.

``bf16``   8 bits of precision
``int8``   whole multiples, -127 to 127, of a scale
``int4``   the same, -7 to 7

A scale is the largest weight over the largest multiple: one for all weights
of an output channel, or for each group of 128 of them.

References:
  Zhang et al., Catastrophic Failure of LLM Unlearning via Quantization, 2025
  (https://arxiv.org/abs/2410.16454).
"""

import functools
import pathlib
import re

import jax
import jax.numpy as jnp

from mmu_jax import sharding
from mmu_jax import tree as tree_lib
from mmu_jax.attacks import asking
from mmu_jax.attacks import stage
from mmu_jax.attacks.attack import ATTACKS
from mmu_jax.attacks.attack import Rows
from mmu_jax.data.dataset import FORGET
from mmu_jax.data.dataset import QA
from mmu_jax.data.dataset import RETAIN
from mmu_jax.data.dataset import VQA
from mmu_jax.distributed import progress
from mmu_jax.errors import UserError
from mmu_jax.sharding import Rules
from mmu_jax.stages import runs
from mmu_jax.stages.job import Job
from mmu_jax.typing import Params

GROUP = 128  # weights that share a scale
# Case -> bits of a whole number (0: bfloat16), and weights that share a scale
# (0: all of an output channel).
FORMATS = {
  'bf16': (0, 0),
  'int8': (8, 0),
  f'int8, groups of {GROUP}': (8, GROUP),
  'int4': (4, 0),
  f'int4, groups of {GROUP}': (4, GROUP),
}
# Leaves that are matrices -> the axis of the weights that one output sums.
_MATRICES = {r'(.*/)?kernel': -2, r'(.*/)?embedding': -1}


def quantize(job: Job, model: str, folder: pathlib.Path) -> Rows:
  """Returns exact matches, to forget and to keep, in every format.

  Args:
    job: the job, whose mesh is set.
    model: name of the model.
    folder: folder of the result, for formats that are done.

  Raises:
    ValueError: if no question to forget is answered in words.
  """
  spec = ATTACKS['quantize'].spec(job.config)
  asked = {
    f'{split} {kind}': asking.headline_rows(job, kind, split, spec.rows)
    for split in (FORGET, RETAIN)
    for kind in (VQA, QA)
  }
  asked = {name: rows for name, rows in asked.items() if rows}
  if not any(name.startswith(FORGET) for name in asked):
    raise UserError(
      'the attack quantize asks what is to be forgotten, and no reported task '
      'about that has questions answered in words. See `mmu data check`.'
    )
  looks = {name: asking.make_look(job, rows) for name, rows in asked.items()}
  params = runs.final_params(job, model)
  found = []
  for case in progress.track(['as it is', *FORMATS], f'quantize {model}'):
    make = functools.partial(_scored, job, case, params, asked, looks)
    found += stage.keep_part(folder, case, make)
  return found


def _scored(job, case, params, asked, looks) -> Rows:
  """The scores of a model in one format."""
  if case in FORMATS:
    rules = tuple(job.model.partition_rules)
    params = quantized(params, *FORMATS[case], rules=rules)
  found = []
  for name, look in looks.items():
    row, scores = dict(case=case, n=len(asked[name]), step=None), look(params)
    found.append(row | dict(metric=name, value=scores['exact']))
    if name == f'{FORGET} {VQA}':  # it moves before answers do
      found.append(row | dict(metric=f'{name}, nll', value=scores['nll']))
  return found


@functools.partial(jax.jit, static_argnames=('bits', 'group', 'rules'))
def quantized(
  params: Params, bits: int, group: int = 0, *, rules: Rules = ()
) -> Params:
  """Rounds all matrices of a model to a format, and back to their dtypes.

  Args:
    params: tree of arrays; leaves that are no matrices stay as they are.
    bits: bits of a whole number, 2 to 8; 0 for bfloat16.
    group: weights that share a scale; 0 for all of an output channel.
    rules: tuple of partition rules of the parameters.
  """

  def change(name, x):
    found = [a for rule, a in _MATRICES.items() if re.fullmatch(rule, name)]
    if not found or x.ndim < 2:
      return x
    if not bits:
      # A cast and its inverse may be compiled to nothing.
      return jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)
    return rounded(x, bits, group or x.shape[found[0]], found[0])

  return sharding.constrain(tree_lib.map_with_name(change, params), rules)


def rounded(x: jax.Array, bits: int, group: int, axis: int) -> jax.Array:
  r"""Rounds to the nearest whole multiple of a scale, and back.

  .. math:: q(x) = s \, \mathrm{round}(x / s), \quad
            s = \max_{group} |x| / (2^{bits - 1} - 1)

  So :math:`|x - q(x)| \le s / 2`, and zero stays zero.

  Args:
    x: array of floats.
    bits: bits of a whole number, >= 2.
    group: neighbours along the axis that share a scale; the last group may
      have fewer.
    axis: index of the axis.

  Example:
    >>> rounded(jnp.array([7.0, 1.4, -0.6, 0.0]), 4, 4, 0).tolist()
    [7.0, 1.0, -1.0, 0.0]
  """
  moved = jnp.moveaxis(x, axis, -1).astype(jnp.float32)
  size = moved.shape[-1]
  padding = [(0, 0)] * (x.ndim - 1) + [(0, -size % group)]
  groups = jnp.pad(moved, padding)
  groups = groups.reshape(*moved.shape[:-1], -1, group)
  largest = jnp.max(jnp.abs(groups), axis=-1, keepdims=True)
  scale = largest / (2 ** (bits - 1) - 1)
  whole = jnp.round(groups / jnp.where(scale > 0, scale, 1))
  made = (whole * scale).reshape(*moved.shape[:-1], -1)[..., :size]
  return jnp.moveaxis(made, -1, axis).astype(x.dtype)
