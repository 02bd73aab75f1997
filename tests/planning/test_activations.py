"""Activations are the residuals that JAX keeps."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import plans
import pytest
import toy

from mmu_jax import methods
from mmu_jax import objectives
from mmu_jax.planning import activations


def _bytes(values, count=1):
  return sum(
    math.prod(v.shape) * v.dtype.itemsize * (count if v.by_row else 1)
    for v in values
  )


@pytest.mark.parametrize('remat', ['none', 'products', 'full'])
@pytest.mark.parametrize('room, counted', [(0, 0), (1, 0), (1, 7)])
def test_kept_values_are_the_residuals_of_jax_at_any_rows_and_length(
  room, counted, remat
):
  model = plans.model(remat=remat)
  rng = np.random.default_rng()
  count, length = int(rng.integers(2, 6)), int(rng.integers(20, 40))
  loss = functools.partial(objectives.descend, model.forward)

  def residuals(params, batch):
    return jax.vjp(lambda p: loss(p, None, batch), params)[1]

  own = {x.shape for x in jax.tree.leaves(model.abstract_params)}
  sizes = length, room, counted
  batch = activations.abstract_batch(model.config, count, *sizes)
  found = jax.eval_shape(residuals, model.abstract_params, batch)
  want = sum(
    math.prod(x.shape) * x.dtype.itemsize
    for x in jax.tree.leaves(found)
    if x.shape not in own
  )
  kept = activations.kept(model.config, objectives.descend, *sizes, remat)
  assert _bytes(kept, count) == pytest.approx(want, rel=0.01)


def test_stronger_policies_keep_less():
  sizes = [
    _bytes(activations.kept(plans.PEOPLE, objectives.descend, 104, 1, 0, remat))
    for remat in ('none', 'products', 'full')
  ]
  assert sizes[0] > 2 * sizes[1] > 4 * sizes[2]


def test_full_remat_keeps_the_inputs_of_layers():
  kept = activations.kept(plans.LLAVA_7B, objectives.descend, 768, 1, 0, 'full')
  layers = {v.shape: v.dtype.itemsize for v in kept if v.layers > 1}
  assert layers[32, 1, 768, 4096] == 2  # bytes; the decoder
  assert layers[23, 1, 577, 1024] == 2  # the tower, less its last layer


@pytest.mark.parametrize('counted, first', [(0, 32), (64, 31)])
def test_a_stack_of_the_decoder_is_known_without_its_last_layer(counted, first):
  sizes = (768, 1, counted)
  kept = activations.kept(plans.LLAVA_7B, objectives.descend, *sizes, 'full')
  stacks = [v.shape for v in kept if v.layers == 32]
  assert stacks == [(first, 1, 768, 4096)]
  assert {v.layers for v in kept} == {1, 23, 32}


def _scores(attention, length):
  model = plans.model(attention=attention)
  sizes = (length, 1, 0)
  return activations.score_values(model.config, objectives.descend, *sizes)


def test_two_scores_of_a_layer_exist_and_none_of_fused_attention():
  """Of two heads of the decoder, and of the tower."""
  shapes = sorted(v.shape[1:] for v in _scores('xla', 104))
  tower, decoder = (1, 2, 1, 17, 17), (1, 2, 1, 104, 104)
  assert shapes == [tower] * 2 + [decoder] * 2
  assert not _scores('cudnn', 104)


@pytest.mark.parametrize('method', ['counterfactual', 'rmu', 'ga_diff_joint'])
def test_the_terms_of_a_loss_of_two_batches_depend_on_their_own_alone(method):
  """Also where the loss reads hidden states."""
  (turn,) = methods.make(method)
  own, other = toy.batch(1), toy.batch(2)
  params, ref = toy.params(3), toy.params(4)
  terms = turn.loss(toy.forward, params, ref, {**own, 'beside': other})
  for beside, batch in ((False, own), (True, other)):
    loss = activations.term_of(turn.loss, beside)
    slope = jax.grad(lambda p: loss(toy.forward, p, ref, batch))(params)
    want = jax.grad(
      lambda p: turn.loss(toy.forward, p, ref, {**own, 'beside': other})[beside]
    )(params)
    assert toy.relative_error(slope, want) < 1e-5 and len(terms) == 2


def test_the_scores_of_one_block_exist_at_a_time():
  """Of 1,200 tokens 256 at a time; the tower's 17 patches are no long row."""
  sizes = lambda attention: {v.shape[-2:] for v in _scores(attention, 1200)}
  assert sizes('xla') == {(1200, 1200), (17, 17)}
  assert sizes('auto') == {(256, 1200), (17, 17)}


@pytest.mark.parametrize('remat', ['none', 'products', 'full'])
def test_no_scores_are_kept_and_nothing_in_their_place(remat):
  """Rows of 600 tokens, in one block or in three."""

  def kept(attention):
    model = plans.model(attention=attention, remat=remat)
    loss = functools.partial(objectives.descend, model.forward)
    batch = activations.abstract_batch(model.config, 2, 600, 0, 0)

    def residuals(params, batch):
      return jax.vjp(lambda p: loss(p, None, batch), params)[1]

    found = jax.eval_shape(residuals, model.abstract_params, batch)
    return [x for x in jax.tree.leaves(found) if x.dtype == jnp.float32]

  xla, blocks = kept('xla'), kept('blocks')
  for values in xla, blocks:
    assert not any(
      x.shape[-2] == 600 <= x.shape[-1] for x in values if x.ndim > 2
    )
  assert sorted(x.shape for x in xla) == sorted(x.shape for x in blocks)
