"""Methods are tuples of turns; a turn does what its fields say."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy

from mmu_jax import masks
from mmu_jax import methods
from mmu_jax import objectives
from mmu_jax.methods import METHODS
from mmu_jax.methods import Turn
from mmu_jax.training import optimizer
from mmu_jax.training import step as step_lib

pytestmark = pytest.mark.usefixtures('quick_compile')

FORGET, RETAIN = toy.batch(1), toy.batch(2)
BATCHES = {'forget': FORGET, 'retain': RETAIN, 'train': RETAIN}


def _fields(turn):
  return (
    turn.split,
    turn.masked,
    turn.project,
    turn.every,
    turn.needs_reference,
    *filter(None, [turn.beside]),
  )


ASCENT = ('forget', False, None, 2, False)
DESCENT = ('retain', False, None, 1, False)
NPO = ('forget', False, None, 2, True)
TURNS = {
  'finetune': [('train', False, None, 1, False)],
  'ga': [ASCENT],
  'ga_diff': [ASCENT, DESCENT],
  'kl_min': [ASCENT, ('retain', False, None, 1, True)],
  'npo': [NPO],
  'npo_retain': [NPO, DESCENT],
  'mmunlearner': [('forget', True, None, 2, False), DESCENT],
  'mmunlearner_strict': [
    ('forget', True, None, 2, False),
    ('retain', True, None, 1, False),
  ],
  'mmunlearner_projected': [('forget', True, 'retain', 2, False), DESCENT],
  'counterfactual': [('forget', False, None, 2, True, 'retain')],
  'mmunlearner_counterfactual': [('forget', True, None, 2, True, 'retain')],
  'ga_diff_joint': [('forget', False, None, 2, False, 'retain')],
  'simnpo': [ASCENT, DESCENT],
  'idk': [ASCENT, DESCENT],
  'dpo': [('forget', False, None, 2, True, 'relabelled'), DESCENT],
  'undial': [NPO, DESCENT],
  'rmu': [('forget', False, None, 2, True, 'retain')],
  'salun': [('forget', True, None, 2, False), ('retain', True, None, 1, False)],
  'sfron': [('forget', True, None, 2, False), DESCENT],
  'task_vector': [NPO],
  'rewind': [('retain', True, None, 1, False)],
}


def test_the_registry_holds_every_method_under_its_own_name():
  assert list(METHODS) == list(TURNS)
  assert all(f.__name__ == name for name, f in METHODS.items())


@pytest.mark.parametrize('name', TURNS)
def test_a_method_has_these_turns(name):
  options = {} if name in ('finetune', 'rewind') else {'forget_every': 2}
  turns = methods.make(name, **options)
  assert isinstance(turns, tuple)
  assert [_fields(turn) for turn in turns] == TURNS[name]


@pytest.mark.parametrize('name', TURNS)
def test_equal_turns_are_equal_objects_so_that_they_compile_once(name):
  again, turns = methods.make(name), methods.make(name)
  assert turns == again and hash(turns) == hash(again)
  assert all(a.loss is b.loss for a, b in zip(turns, again))


def test_the_losses_of_the_turns_are_these():
  loss_of = lambda name, i=0: methods.make(name)[i].loss
  assert loss_of('finetune') is objectives.descend
  masked = ('mmunlearner', 'mmunlearner_strict', 'mmunlearner_projected')
  for name in ('ga', 'ga_diff', 'kl_min', *masked):
    assert loss_of(name) is objectives.ascend
  for name in ('ga_diff', 'npo_retain', *masked):
    assert loss_of(name, 1) is objectives.descend
  assert loss_of('kl_min', 1) is objectives.descend_near_reference
  for name in ('npo', 'npo_retain'):
    assert loss_of(name) is objectives.preference_against(0.1)
    (first, *_) = methods.make(name, beta=0.4)
    assert first.loss is objectives.preference_against(0.4)
    (first, *_) = methods.make(name, beta=0.4, per='batch')
    assert first.loss is objectives.batch_preference_against(0.4)
  _, near = methods.make('kl_min', kl_over='rows')
  assert near.loss is objectives.descend_near_reference_everywhere
  for name in masked:
    forget, retain = methods.make(name, alpha=0.5)
    assert forget.loss is objectives.ascend_by(0.5)
    assert retain.loss is objectives.descend
  assert objectives.ascend_by(1.0) is objectives.ascend
  assert methods.finetune('forget')[0].split == 'forget'


@pytest.mark.parametrize(
  'name, options, message',
  [
    ('kl_min', {'kl_over': 'tokens'}, 'kl_over is one of answers, rows'),
    ('npo', {'per': 'token'}, "per is one of answer, batch; got 'token'"),
    ('mmunlearner', {'alpha': 0.0}, 'must be positive, got alpha=0.0'),
    ('mmunlearner', {'alpha': -1}, 'forget set would be learned'),
    ('mmunlearner', {'alpha': float('nan')}, 'must be positive, got alpha=nan'),
    ('counterfactual', {'weight': 0}, 'weight of the ascent.*weight=0'),
    ('counterfactual', {'spared': 2}, 'spared is a share.*got 2'),
    ('ga_diff_joint', {'alpha': -1}, 'forget set would be learned'),
    ('undial', {'strength': 0}, 'must be positive, got 0'),
    ('rmu', {'steering': 0}, 'are positive; got steering=0'),
    ('sfron', {'power': -1}, 'power of the weights is >= 0, got -1'),
    ('task_vector', {'scale': -1}, 'scale=-1; a negative one would learn'),
    ('npo', {'betta': 0.1}, "'betta'; it takes forget_every, beta, per"),
  ],
)
def test_an_option_out_of_range_is_an_error(name, options, message):
  with pytest.raises(ValueError, match=message):
    methods.make(name, **options)


def test_rewound_weights_are_the_references_where_the_mask_is():
  params, ref, mask = toy.params(31), toy.params(32), _mask(33)
  got = methods.STARTS['rewind'](params, ref, masks.pack(mask))
  want = np.where(toy.vector(mask) > 0, toy.vector(ref), toy.vector(params))
  np.testing.assert_array_equal(toy.vector(got), want)


def test_an_unknown_method_lists_the_known_ones():
  with pytest.raises(ValueError) as error:
    methods.make('mmunlearn', forget_every=2)
  message = str(error.value)
  assert message.startswith("unknown method 'mmunlearn'; known: finetune, ga")
  assert all(name in message for name in METHODS)
  with pytest.raises(ValueError, match='forget_evry.*it takes forget_every'):
    methods.make('ga', forget_evry=2)


@pytest.mark.parametrize('name, sign', [('finetune', -1), ('ga', 1)])
def test_the_loss_falls_by_finetuning_and_rises_by_ascent(name, sign):
  tx = optimizer.build('sgd')
  state, seen = step_lib.init(toy.params(3), tx), []
  for _ in range(4):
    state, measured = step_lib.take_turn(
      state, FORGET, 0.1, forward=toy.forward, turn=methods.make(name)[0], tx=tx
    )
    seen.append(abs(float(measured['loss'])))
  assert np.all(np.diff(seen) * sign > 1e-3)


def _turns(name, opt, rounds=6, rate=1e-2, mask=None, seed=4, **options):
  """Takes the turns of a method; yields the turn and the state before, after.

  The state is copied: a turn gives its buffers away.
  """
  tx = optimizer.build(opt, **options)
  params = toy.params(seed)
  if mask is not None:
    params = toy.plant_fragile(params, mask)
  state = step_lib.init(params, tx)
  for _ in range(rounds):
    for turn in methods.make(name):
      before = jax.tree.map(jnp.copy, state.params)
      state, measured = step_lib.take_turn(
        state,
        BATCHES[turn.split],
        rate,
        masks.pack(mask) if turn.masked else None,
        None,
        BATCHES[turn.project] if turn.project else None,
        forward=toy.forward,
        turn=turn,
        tx=tx,
      )
      yield turn, before, jax.tree.map(jnp.copy, state.params), measured


def _mask(seed=5):
  return toy.random_mask(toy.params(0), seed)


OPTIMIZERS = {'hf_adamw': {}, 'adamw': {'weight_decay': 0.1}}


@pytest.mark.parametrize('opt', OPTIMIZERS)
def test_the_forget_turn_does_not_carry_on_the_momentum_of_retain_turns(opt):
  mask, retain_moved = _mask(), False
  taken = list(_turns('mmunlearner', opt, mask=mask, **OPTIMIZERS[opt]))
  assert len(taken) == 12
  for turn, before, after, _ in taken:
    if turn.masked:
      assert toy.frozen_bits_kept(before, after, mask)
      inside = toy.vector(mask) > 0
      assert np.mean((toy.vector(after) != toy.vector(before))[inside]) > 0.5
    else:
      retain_moved |= not toy.frozen_bits_kept(before, after, mask)
  assert retain_moved  # the scope of the paper: retain may move any weight


@pytest.mark.parametrize('opt', OPTIMIZERS)
def test_a_strict_run_keeps_the_vanilla_bits_of_every_frozen_weight(opt):
  mask = _mask()
  taken = list(_turns('mmunlearner_strict', opt, mask=mask, **OPTIMIZERS[opt]))
  _, first, _, _ = taken[0]
  _, _, last, _ = taken[-1]
  assert toy.frozen_bits_kept(first, last, mask)
  inside = toy.vector(mask) > 0
  assert np.mean((toy.vector(first) != toy.vector(last))[inside]) > 0.5


def _published_chain(opt, mask, clips):
  """Three forget turns after a retain turn; what moved outside the mask."""
  tx = optimizer.build(opt, chain=('project', 'clip', 'mask', 'optimizer'))
  state = step_lib.init(toy.params(23), tx)
  forget, retain = methods.make('mmunlearner')
  outside = []
  for turn in (retain, forget, forget, forget):
    before = jax.tree.map(jnp.copy, state.params)
    state, _ = step_lib.take_turn(
      state,
      BATCHES[turn.split],
      1e-2,
      masks.pack(mask),
      clip_norm=clips[turn.split],
      forward=toy.forward,
      turn=turn,
      tx=tx,
    )
    moved = toy.vector(before) != toy.vector(state.params)
    outside.append(np.mean(moved[toy.vector(mask) == 0]))
  return outside, state


def test_in_the_published_chain_momentum_moves_what_is_masked():
  clips = {'forget': 1.0, 'retain': np.inf}
  outside, _ = _published_chain('hf_adamw', _mask(), clips)
  assert min(outside) > 0.4
  outside, _ = _published_chain('sgd', _mask(), clips)
  assert outside[0] > 0.4 and not any(outside[1:])  # it has no momentum


def test_turns_with_different_clips_share_the_moments():
  clips = {'forget': 1e-3, 'retain': np.inf}
  _, state = _published_chain('hf_adamw', _mask(), clips)
  assert float(state.opt_state.hyperparams['clip_norm']) == np.float32(1e-3)
  assert int(optax.tree.get(state.opt_state.inner_state, 'count')) == 4


@functools.cache
def _gradient():
  """The gradient of the cross-entropy, as one program."""
  return jax.jit(jax.grad(functools.partial(objectives.descend, toy.forward)))


def test_a_projected_step_does_not_raise_the_retain_loss_to_first_order():
  mask, angles = _mask(6), {}
  for name in ('mmunlearner', 'mmunlearner_projected'):
    for turn, before, after, _ in _turns(name, 'sgd', 3, 0.3, mask, seed=8):
      if turn.split == 'forget':
        retain = toy.vector(_gradient()(before, None, RETAIN))
        # -step is the gradient that was descended, clipped
        descended = toy.vector(before) - toy.vector(after)
        size = np.linalg.norm(descended) * np.linalg.norm(retain)
        angles.setdefault(name, []).append(descended @ retain / size)
  assert max(angles['mmunlearner']) < -0.3  # there is a conflict to resolve
  assert min(angles['mmunlearner_projected']) >= -1e-6
  assert len(angles['mmunlearner_projected']) == 3


def test_turns_of_one_kind_compile_once_whatever_the_rate_and_the_mask():
  tx = optimizer.build('sgd', clip_norm=0.7)
  forget, retain = methods.make('mmunlearner')
  before = step_lib.take_turn._cache_size()
  state = step_lib.init(toy.params(8), tx)
  for i in range(5):
    for turn in (forget, retain):
      state, _ = step_lib.take_turn(
        state,
        BATCHES[turn.split],
        1e-3 * (i + 1),
        masks.pack(_mask(i)) if turn.masked else None,
        forward=toy.forward,
        turn=Turn(*turn),
        tx=optimizer.build('sgd', clip_norm=0.7),
      )
  assert step_lib.take_turn._cache_size() - before == 2


def test_what_a_turn_measures_is_the_loss_and_the_norms_before_and_after():
  mask = _mask(9)
  turn, before, after, measured = next(
    _turns('mmunlearner', 'sgd', 1, 0.5, mask, clip_norm=0.01)
  )
  loss = jax.value_and_grad(functools.partial(turn.loss, toy.forward))
  value, grad = jax.jit(loss)(before, None, FORGET)
  assert float(measured['loss']) == pytest.approx(float(value), rel=1e-6)
  norm = np.linalg.norm(toy.vector(grad))
  assert float(measured['grad_norm']) == pytest.approx(norm, rel=1e-5)
  # clipped to 0.01 after the mask, and halved by the rate
  assert float(measured['update_norm']) == pytest.approx(0.005, rel=1e-5)
  step = np.linalg.norm(toy.vector(after) - toy.vector(before))
  assert step == pytest.approx(0.005, rel=1e-3)


def test_a_run_takes_the_buffers_and_a_turn_without_a_mask_moves_everything():
  tx, params = optimizer.build('adamw'), toy.params(10)
  given = toy.params(10)
  state = step_lib.init(given, tx)
  assert all(x.is_deleted() for x in jax.tree.leaves(given))
  first = toy.vector(params)
  turn = methods.make('mmunlearner_strict')[0]._replace(masked=False)
  state, _ = step_lib.take_turn(
    state,
    FORGET,
    1e-2,
    masks.pack(_mask()),
    forward=toy.forward,
    turn=turn,
    tx=tx,
  )
  used = toy.vector(_gradient()(params, None, FORGET)) != 0
  assert np.all((toy.vector(state.params) != first)[used])
