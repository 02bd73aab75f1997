"""A batch in parts gives the gradient of the whole batch."""

import functools
import re

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import optax
import pytest
import toy

from mmu_jax import gradients
from mmu_jax import methods
from mmu_jax import objectives
from mmu_jax import saliency as saliency_lib
from mmu_jax import sharding
from mmu_jax.methods import METHODS
from mmu_jax.training import optimizer
from mmu_jax.training import step as step_lib

pytestmark = pytest.mark.usefixtures('quick_compile')

# Every loss of the methods that can be cut, once; and a projection.
TURNS = {
  'descend': methods.make('finetune')[0],
  'near_reference': methods.make('kl_min')[1],
  'preference': methods.make('npo')[0],
  'weighted_ascent': methods.make('mmunlearner', alpha=0.5)[0],
  'projected': methods.make('mmunlearner_projected')[0],
}
WHOLE = {
  'published_kl': methods.make('kl_min', kl_over='rows')[1],
  'published_npo': methods.make('npo', per='batch', beta=0.4)[0],
}


def _add_the_losses_of_all_methods():
  """So that a new method is cut here without an entry of its own."""
  known = {turn.loss for turn in (TURNS | WHOLE).values()}
  for name in METHODS:
    for turn in methods.make(name):
      if turn.loss not in known:
        TURNS[f'{name}_{turn.split}'] = turn
        known.add(turn.loss)


_add_the_losses_of_all_methods()


PAIRED = 'counterfactual_forget'


def _ragged(seed, rows=8):
  """Rows with one to six answer tokens, and one with a long answer."""
  made = toy.batch(seed, rows=rows, weighted=True)
  long = made['documents'][rows - 1] > 0
  made['weights'][rows - 1] = np.where(long, 1.7, 0)
  return made


@functools.cache
def _gradient(loss, measure, parts):
  """The value and gradient of a loss in parts, as one program."""

  def run(params, ref, batch):
    return gradients.value_and_grad(
      lambda p, part: loss(toy.forward, p, ref, part),
      params,
      batch,
      measure=measure,
      parts=parts,
    )

  return jax.jit(run)


def _gradients(turn, batch, parts, seed=0):
  params, ref = toy.params(seed), toy.perturb(toy.params(seed), seed, 0.2)
  batch = _paired(turn, batch, rows=12)
  return _gradient(turn.loss, turn.measure, parts)(params, ref, batch)


def _paired(turn, batch, rows):
  """With a ragged batch of another size beside it, where a turn reads one.

  Pairs of answers are in equal places, so that batch has the same form.
  """
  if turn.beside == 'relabelled':
    others = np.roll(batch['targets'], 1, axis=1)
    return {**batch, 'beside': {**batch, 'targets': others}}
  return {**batch, 'beside': _ragged(11, rows)} if turn.beside else batch


def _assert_same(got, want, rtol=1e-6):
  (value, grad), (want_value, want_grad) = got, want
  np.testing.assert_allclose(value, want_value, rtol)
  assert toy.relative_error(grad, want_grad) < rtol
  assert (
    np.all(want_value)
    and max(jnp.abs(g).max() for g in jax.tree.leaves(grad)) > 0
  )


def test_the_published_losses_alone_cannot_be_cut():
  assert all(turn.measure is None for turn in WHOLE.values())
  assert all(turn.measure is not None for turn in TURNS.values())
  cut = {turn.loss for turn in TURNS.values()}
  every = {turn.loss for name in METHODS for turn in methods.make(name)}
  assert every <= cut


@pytest.mark.parametrize(
  'name, parts', [('descend', 2), *((name, 4) for name in TURNS)]
)
def test_the_gradient_of_the_parts_is_that_of_the_batch(name, parts):
  batch = _ragged(1)
  want = _gradients(TURNS[name], batch, 1)
  _assert_same(_gradients(TURNS[name], batch, parts), want)


def test_a_mean_of_the_means_of_the_parts_is_another_gradient():
  """What the shares are for: the parts are ragged."""
  batch = _ragged(1)
  turn = TURNS['descend']
  _, want = _gradients(turn, batch, 1)
  halves = [
    _gradients(turn, toy.take(batch, np.s_[i::2]), 1)[1] for i in (0, 1)
  ]
  mean = jax.tree.map(lambda a, b: (a + b) / 2, *halves)
  assert toy.relative_error(mean, want) > 0.05


@pytest.mark.parametrize('name', TURNS)
def test_rows_and_parts_that_are_all_padding_change_nothing(name):
  batch = _ragged(2, rows=3)
  want = _gradients(TURNS[name], batch, 1)
  padded = toy.pad(batch, 2, rows=5)  # of four parts the last has nothing
  _assert_same(_gradients(TURNS[name], padded, 4), want)


@pytest.mark.parametrize('name', {**TURNS, **WHOLE})
def test_no_loss_sees_rows_of_padding(name):
  turn = (TURNS | WHOLE)[name]
  batch = _ragged(3)
  want = _gradients(turn, batch, 1)
  _assert_same(_gradients(turn, toy.pad(batch, 3, rows=5), 1), want)


@pytest.mark.parametrize('name', {**TURNS, **WHOLE})
def test_logits_where_nothing_counts_are_not_needed(name):
  turn, batch = (TURNS | WHOLE)[name], _ragged(4)
  batch = toy.pad(batch, 4, rows=2, columns=3)
  want = _gradients(turn, batch, 1)
  _assert_same(_gradients(turn, toy.counted(batch, free=3), 1), want)


@pytest.mark.parametrize('name', {**TURNS, **WHOLE})
def test_every_loss_of_answers_asks_for_their_logits_alone(name):
  turn = (TURNS | WHOLE)[name]
  batch = toy.counted(_ragged(5))
  batch['beside'] = toy.counted(_ragged(6))
  asked = []

  def forward(p, made, **which):
    asked.append((made, which))
    return toy.forward(p, made, **which)

  params = toy.params(5)
  turn.loss(forward, params, params, batch)
  assert asked
  for made, which in asked:
    if name == 'published_kl':  # over every position
      assert not which
    elif 'layer' not in which:
      assert which['at'].shape == made['counted'].shape


def test_each_term_of_a_paired_turn_has_the_measure_of_its_own_batch():
  """One share for both would weigh the parts of the other batch wrongly."""
  turn, batch = TURNS[PAIRED], _ragged(1)
  want, _ = _gradients(turn, batch, 1)
  params, ref = toy.params(0), toy.perturb(toy.params(0), 0, 0.2)
  one = lambda made: 2 * (objectives.answer_weight(made),)
  got, _ = _gradient(turn.loss, one, 4)(params, ref, _paired(turn, batch, 12))
  assert abs(float(got[1]) / float(want[1]) - 1) > 1e-4


def test_a_batch_without_any_answer_has_no_gradient_in_parts_too():
  batch = _ragged(4)
  batch['weights'] *= 0
  value, grad = _gradients(TURNS['preference'], batch, 4)
  assert float(value) == 0 and not np.any(toy.vector(grad))


def _squared_mean(w, batch):
  """A loss that shows which rows are together."""
  return w * jnp.mean(batch['x']) ** 2


def test_the_parts_take_every_mth_row():
  batch = {'x': jnp.arange(12.0), 'no image': jnp.zeros((12, 0, 3))}
  value, grad = gradients.value_and_grad(
    _squared_mean,
    jnp.ones([]),
    batch,
    measure=lambda part: jnp.float32(part['x'].size),
    parts=3,
  )
  want = np.mean(np.square([4.5, 5.5, 6.5]))  # of rows 0, 3, 6, 9, and so on
  assert float(value) == float(grad) == pytest.approx(want, rel=1e-6)


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16])
def test_half_precision_gradients_are_summed_in_float32(dtype):
  """A sum of 64 equal parts in half precision would stop growing."""
  params = {'w': jnp.ones(5, dtype)}
  loss = lambda p, x: jnp.mean(x * p['w'][0]).astype(jnp.float32)
  measure = lambda x: jnp.float32(x.size)
  x = jnp.full(256, 1.25, dtype)
  _, grad = gradients.value_and_grad(
    loss, params, x, measure=measure, parts=256
  )
  assert grad['w'].dtype == dtype and float(grad['w'][0]) == 1.25


RULES = ((r'.*(kernel|embed_tokens|lm_head)', P('fsdp', None)), (r'.*', P()))


@functools.cache
def _turn(name, parts, spec='', rows=5):
  """The state after a turn on a mesh, and what was measured."""
  turn, tx = TURNS[name], optimizer.build('hf_adamw')
  mesh = sharding.make_mesh(spec)
  put = lambda tree: jax.device_put(tree, sharding.shardings(tree, RULES, mesh))
  place = lambda made: sharding.place(made, mesh, len(made['tokens']))
  pad = lambda made: place(toy.pad(made, 6, rows=8 - rows))
  mask = toy.random_mask(toy.params(5), 5)
  with jax.set_mesh(mesh):
    return step_lib.take_turn(
      step_lib.init(put(toy.params(5)), tx, RULES),
      {**pad(_ragged(5, rows)), 'beside': pad(_ragged(7, rows))}
      if turn.beside
      else pad(_ragged(5, rows)),
      0.1,
      put(mask),
      put(toy.perturb(toy.params(5), 6, 0.2)),
      pad(_ragged(6, rows)) if turn.project else None,
      forward=toy.forward,
      turn=turn,
      tx=tx,
      rules=RULES,
      micro_batches=parts,
    )


def _assert_same_turn(got, want, rtol=1e-6):
  (state, measured), (want_state, want_measured) = got, want
  assert toy.relative_error(state.params, want_state.params) < rtol
  (mu, nu), (want_mu, want_nu) = _moments(state), _moments(want_state)
  assert toy.relative_error(mu, want_mu) < rtol
  # Squares have twice the relative error of what is squared.
  assert toy.relative_error(nu, want_nu) < 2 * rtol
  for name, value in want_measured.items():
    assert float(measured[name]) == pytest.approx(float(value), rel=rtol)


def _moments(state):
  inner = state.opt_state.inner_state
  return [optax.tree.get(inner, name) for name in ('mu', 'nu')]


@pytest.mark.parametrize(
  'name', ['near_reference', 'preference', 'projected', PAIRED]
)
def test_a_turn_in_four_parts_is_the_turn_of_the_batch(name):
  _assert_same_turn(_turn(name, 4), _turn(name, 1))


def test_one_turn_of_eight_rows_is_that_of_four_parts_of_two():
  _assert_same_turn(_turn('descend', 4, rows=8), _turn('descend', 1, rows=8))


@pytest.mark.parametrize(
  'name, spec',
  [
    ('near_reference', 'fsdp=4'),
    ('preference', 'fsdp=4'),
    ('projected', 'data=2,fsdp=2,tensor=2'),
    (PAIRED, 'data=2,fsdp=2,tensor=2'),
  ],
)
def test_a_turn_in_parts_on_a_mesh_is_the_turn_of_one_device(name, spec):
  _assert_same_turn(_turn(name, 2, spec), _turn(name, 1))


def test_no_row_moves_between_devices_to_make_the_parts():
  """Rows are next to each other on a device, and each part has some of each."""
  mesh = sharding.make_mesh('fsdp=8')
  batch = sharding.place({'x': np.arange(32.0)}, mesh, 32)
  with jax.set_mesh(mesh):
    run = jax.jit(
      lambda w, batch: gradients.value_and_grad(
        _squared_mean,
        w,
        batch,
        measure=lambda part: jnp.float32(part['x'].size),
        parts=2,
      )
    )
    text = run.lower(jnp.ones([]), batch).compile().as_text()
    value, _ = run(jnp.ones([]), batch)
  assert 'all-reduce' in text  # of the mean
  assert not re.search('all-gather|all-to-all|permute|scatter', text)
  assert float(value) == (15**2 + 16**2) / 2


def test_the_temporaries_of_a_turn_shrink_with_the_parts():
  turn, tx, size = TURNS['descend'], optimizer.build('sgd'), {}
  batch = toy.batch(7, rows=64, length=128)
  for parts in (1, 16):
    lowered = step_lib.take_turn.lower(
      jax.eval_shape(lambda: step_lib.init(toy.params(0), tx)),
      batch,
      0.1,
      forward=toy.forward,
      turn=turn,
      tx=tx,
      micro_batches=parts,
    )
    size[parts] = lowered.compile().memory_analysis().temp_size_in_bytes
  # Logits of 64 x 128 x 50 float32 are 1.6 MB, and the batch 0.6 MB more.
  assert size[1] > 3e6 and size[16] < 0.25 * size[1]


@pytest.mark.parametrize('name', WHOLE)
def test_a_loss_that_is_no_mean_is_refused_before_compiling(name):
  turn, tx = WHOLE[name], optimizer.build('sgd')
  with pytest.raises(ValueError, match="'.*' is not a mean .* into 4 micro-b"):
    step_lib.check_turn(turn, 4)
  step_lib.check_turn(turn, 1)
  with pytest.raises(ValueError, match="kl_over='answers' .* per='answer'"):
    step_lib.take_turn.trace(
      jax.eval_shape(lambda: step_lib.init(toy.params(0), tx)),
      toy.batch(0),
      0.1,
      None,
      toy.params(0),
      forward=toy.forward,
      turn=turn,
      tx=tx,
      micro_batches=4,
    )


def test_rows_that_cannot_be_shared_are_an_error():
  with pytest.raises(ValueError, match='evenly; 8 rows do not make 3. Take'):
    _gradients(TURNS['descend'], _ragged(0), 3)
  with pytest.raises(ValueError, match='a number >= 1, got 0'):
    step_lib.check_turn(TURNS['descend'], 0)


@pytest.mark.parametrize('granularity', ['batch', 'example'])
def test_an_importance_in_parts_is_that_of_the_batches(granularity):
  """The gradient of the whole batch is squared, not those of its parts."""
  params, batches = toy.params(8), [_ragged(8), _ragged(9)]
  batches[1] = toy.pad(toy.take(batches[1], np.s_[:3]), 9, rows=5)
  measure = functools.partial(
    saliency_lib.importance,
    toy.loss,
    params,
    batches,
    granularity=granularity,
    measure=objectives.answer_weight,
  )
  want = measure()
  for parts in (2, 8):
    # Squares have twice the relative error of what is squared.
    assert toy.relative_error(measure(micro_batches=parts), want) < 2e-6


def test_an_importance_in_parts_needs_a_measure():
  with pytest.raises(ValueError, match='into 2 micro-batches would change it'):
    saliency_lib.importance(
      toy.loss, toy.params(0), [toy.batch(0)], micro_batches=2
    )
