"""The traps that published unlearning code fell into, one test for each.

Their numbers are those of the list in the design notes: masks that silently
did nothing, or did the wrong thing. Number 10, on scores, is tested with them.
"""

import ast
import functools
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy

import mmu_jax
from mmu_jax import masks
from mmu_jax import methods
from mmu_jax import saliency as saliency_lib
from mmu_jax import transforms
from mmu_jax import tree as tree_lib
from mmu_jax.commands import fields
from mmu_jax.data.batches import batching
from mmu_jax.data.people import vocabulary
from mmu_jax.data.row import Picture
from mmu_jax.data.row import Row
from mmu_jax.training import optimizer
from mmu_jax.training import step as step_lib

pytestmark = pytest.mark.usefixtures('quick_compile')

PACKAGE = pathlib.Path(mmu_jax.__file__).parent


def _trace_turn(mask):
  """Traces a masked turn without compiling it."""
  tx = optimizer.build('hf_adamw')
  (turn, _) = methods.make('mmunlearner')
  step_lib.take_turn.trace(
    step_lib.init(toy.params(0), tx),
    toy.batch(0),
    1e-3,
    mask,
    forward=toy.forward,
    turn=turn,
    tx=tx,
  )


def _mask(seed=0):
  return toy.random_mask(toy.params(0), seed)


def _renamed(mask):
  return {'base_model': {'model': mask}}  # as PEFT wraps a model


@pytest.mark.parametrize('pack', [masks.pack, lambda mask: mask])
def test_trap_01_mask_names_that_match_no_parameter_raise_before_compiling(
  pack,
):
  _trace_turn(pack(_mask()))  # the right one is taken
  compiled = step_lib.take_turn._cache_size()
  with pytest.raises(ValueError, match='9 .* missing, 9 .*base_model.* unexp'):
    _trace_turn(pack(_renamed(_mask())))
  assert step_lib.take_turn._cache_size() == compiled


@pytest.mark.parametrize('part', toy.params(0))
def test_trap_02_parameters_absent_from_the_mask_raise_before_compiling(part):
  mask = _mask()
  del mask[part]
  with pytest.raises(ValueError, match=f'[0-9] .*{part}.* missing, 0 unexpec'):
    _trace_turn(masks.pack(mask))


def _after_five_steps(tx, apply):
  params, mask = toy.params(3), _mask(3)
  params = toy.plant_fragile(params, mask)
  start, state = params, tx.init(params)
  update = jax.jit(lambda g, s, p: tx.update(g, s, p, mask=mask))
  for i in range(5):
    grads = toy.tree_like(params, i)
    updates, state = update(grads, state, params)
    params = apply(params, updates, mask)
  return start, params, mask


def test_trap_03_a_mask_before_adamw_with_decay_still_moves_frozen_weights():
  first = transforms.mask_updates(), optax.adamw(1e-2, weight_decay=0.1)
  plain = lambda params, updates, mask: optax.apply_updates(params, updates)
  start, after, mask = _after_five_steps(optax.chain(*first), plain)
  frozen = toy.vector(mask) == 0
  moved = np.abs(toy.vector(after) - toy.vector(start))[frozen]
  assert moved.max() > 2e-3  # of weights up to 0.8: 5 steps of 1e-2 * 0.1
  ours = optax.chain(*first, transforms.mask_updates())
  start, after, mask = _after_five_steps(ours, transforms.apply_updates)
  assert toy.frozen_bits_kept(start, after, mask)
  assert np.all((toy.vector(after) != toy.vector(start))[~frozen])


def test_trap_04_an_update_of_zero_is_not_bit_exact_but_a_selection_is():
  mask = _mask(4)
  params = toy.plant_fragile(toy.params(4), mask)
  nothing = jax.tree.map(jnp.zeros_like, params)
  theirs = jax.jit(optax.apply_updates)(params, nothing)
  changed = toy.moved(params, theirs)
  fragile = {n: toy.is_fragile(x) for n, x in tree_lib.flatten(params).items()}
  assert sum(c.sum() for c in changed.values()) >= 8  # each -0.0, at least
  for name, c in changed.items():
    assert not np.any(c & ~fragile[name])  # and nothing else
  ours = jax.jit(transforms.apply_updates)(params, nothing, mask)
  assert toy.frozen_bits_kept(params, ours, mask)


@pytest.mark.parametrize('granularity', ['batch', 'example'])
@pytest.mark.parametrize('dtype', [jnp.float16, jnp.bfloat16])
def test_trap_05_importance_does_not_underflow_in_half_precision(
  dtype, granularity
):
  rng = np.random.default_rng(5)
  slope = rng.uniform(1e-5, 1e-4, 40).astype(dtype)  # below 1.7e-4
  slope[:10] = 0
  params = {'w': jnp.asarray(rng.normal(size=40), dtype)}
  loss = lambda p, x: jnp.mean(x @ p['w'])
  rows = np.stack([slope, slope])
  grads = jax.grad(loss)(params, rows)['w']
  assert grads.dtype == dtype
  if dtype == jnp.float16:  # what the published code accumulated
    assert np.mean(np.asarray(jnp.square(grads))[10:] == 0) > 0.9
  found = saliency_lib.importance(loss, params, [rows], granularity=granularity)
  want = np.square(slope.astype(np.float64))
  assert found['w'].dtype == jnp.float32
  np.testing.assert_allclose(found['w'], want, rtol=0.01)

  # Zero over zero is not NaN; such ties are counted, and frozen if we say so.
  preserve = {'w': found['w'] / 2}
  scores = saliency_lib.saliency(found, preserve)
  np.testing.assert_array_equal(scores['w'][:10], 1)
  ties = saliency_lib.dead(found, preserve)
  assert masks.counts(ties, {'all': 'w'}) == {'all': 10}
  make = functools.partial(
    saliency_lib.mask_from_saliency, scores, threshold=1.0
  )
  assert make()['w'].tolist() == 40 * [True]  # the published rule
  assert make(ties=ties)['w'].tolist() == 10 * [False] + 30 * [True]


def test_trap_06_norms_embeddings_and_lm_head_are_covered_by_the_mask():
  forget = toy.llava_importance()
  noise = toy.tree_like(forget, 6, sign=False)
  preserve = jax.tree.map(jnp.multiply, forget, noise)
  make = functools.partial(
    saliency_lib.mask_from_saliency,
    saliency_lib.saliency(forget, preserve),
    threshold=1.0,
    ties=saliency_lib.dead(forget, preserve),
  )
  mask = tree_lib.flatten(make())
  assert list(mask) == list(tree_lib.flatten(toy.llava_params(0)))
  for part in (
    'language_model/lm_head/kernel',
    'language_model/model/embed_tokens/embedding',
    'language_model/model/norm/scale',
    'language_model/model/layers/input_layernorm/scale',
    'vision_tower/vision_model/pre_layrnorm/scale',
    'vision_tower/vision_model/embeddings/class_embedding',
    'vision_tower/vision_model/embeddings/position_embedding/embedding',
  ):
    assert 0 < np.mean(mask[part]) < 1, part  # judged like all others
  # What a scope leaves out is frozen, not left to ascend without a mask.
  scoped = tree_lib.flatten(make(scope=lambda name: '_proj' in name))
  assert list(scoped) == list(mask)
  for name, x in scoped.items():
    np.testing.assert_array_equal(x, mask[name] & ('_proj' in name))


def _handlers():
  for path in sorted(PACKAGE.rglob('*.py')):
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.ExceptHandler):
        yield f'{path.relative_to(PACKAGE)}:{node.lineno}', node


def _passes_on(handler):
  """Whether a handler ends by raising what it caught."""
  last = handler.body[-1]
  return isinstance(last, ast.Raise) and last.exc is None


def test_trap_07_no_error_is_swallowed_by_a_broad_except():
  handlers = dict(_handlers())
  assert handlers  # the scan sees the code
  broad = {'Exception', 'BaseException'}
  names = lambda kind: {n.id for n in ast.walk(kind) if isinstance(n, ast.Name)}
  assert not [
    where
    for where, node in handlers.items()
    if node.type is None or names(node.type) & broad
    if not _passes_on(node)
  ]
  suppressed = {
    kind
    for path in PACKAGE.rglob('*.py')
    for kind in re.findall(r'suppress\((.*?)\)', path.read_text())
  }
  assert suppressed <= {'OSError'}  # where cleaning up fails too


def _rows(n, picture):
  rng = np.random.default_rng(8)
  image = lambda: rng.integers(0, 255, (24, 24, 3), dtype=np.uint8)
  return [
    Row(
      key=f'row{i}',
      question='Who is the person in this picture?',
      answer=f'This is {vocabulary.FIRST_NAMES[i]}.',
      fact=vocabulary.FIRST_NAMES[i],
      picture=Picture(f'picture{i}', image()) if picture else None,
    )
    for i in range(n)
  ]


@pytest.fixture(scope='module')
def encoder():
  return batching.Encoder(vocabulary.make_processor(24, 12))


@pytest.mark.parametrize('picture', [True, False])
def test_trap_08_a_stream_goes_on_after_its_last_row(picture, encoder):
  part = batching.Part(_rows(5, picture), size=2)
  stream = batching.Stream([part], encoder, seed=0)
  seen = [key for step in range(50) for key in stream.keys(step)]
  epochs = [seen[i : i + 5] for i in range(0, 100, 5)]
  for epoch in epochs:  # each of the 20 has every row once
    assert sorted(epoch) == [f'row{i}' for i in range(5)]
  assert len(set(map(tuple, epochs))) > 5  # in orders of their own
  far, near = stream(10**6), stream(0)
  assert {k: v.shape for k, v in far.items()} == {
    k: v.shape for k, v in near.items()
  }
  assert np.all((far['weights'] > 0).any(axis=1))


def test_trap_08_a_schedule_is_counted_in_steps_as_it_is_sized():
  rate = optimizer.schedule('linear', 1.0, steps=40)
  assert float(rate(20)) == pytest.approx(0.5)
  assert float(rate(39)) == pytest.approx(1 / 40)


@pytest.mark.parametrize('text, value', [('False', False), ('True', True)])
def test_trap_08_a_false_on_the_command_line_is_false(text, value):
  config = fields.read('people:fast', [f'--config.saliency.normalize={text}'])
  assert config.saliency.normalize is value
  assert config.saliency.batches == 4  # of the variant


@pytest.mark.parametrize(
  'override, message',
  [
    ('--config.saliency.normalise=False', 'normalise'),
    ('--config.saliency.normalize=perhaps', 'perhaps'),
    ('--config.saliency.batches=many', 'many'),
    ('--configs.seed=1', 'configs.seed'),
    # Its value is not shown, since it may be a key.
    ('normalize=False', 'unexpected arguments: normalize'),
  ],
)
def test_trap_08_an_override_that_sets_nothing_is_an_error(override, message):
  with pytest.raises(ValueError, match=message):
    fields.read('people:fast', [override])


def test_trap_09_importance_per_batch_depends_on_the_batch_size():
  params = toy.params(9)
  made = toy.batch(9, rows=8, packed=False)
  made['weights'] /= made['weights'].sum(1, keepdims=True)  # rows count alike

  def measure(granularity, size):
    cut = [toy.take(made, np.s_[i : i + size]) for i in range(0, 8, size)]
    return saliency_lib.importance(
      toy.loss, params, cut, granularity=granularity
    )

  ones, fours = (toy.vector(measure('batch', n)) for n in (1, 4))
  # The square of a mean is at most the mean of the squares.
  assert np.all(fours <= ones * (1 + 1e-5))
  assert 0.2 < fours.sum() / ones.sum() < 0.8
  each = [toy.vector(measure('example', n)) for n in (1, 4)]
  np.testing.assert_allclose(each[1], each[0], rtol=1e-5, atol=1e-12)
  np.testing.assert_allclose(each[0], ones, rtol=1e-5, atol=1e-12)
  doc = ' '.join(saliency_lib.importance.__doc__.split())
  assert 'It depends on the batch size' in doc


@pytest.mark.parametrize(
  'name, protected', [('mmunlearner', False), ('mmunlearner_strict', True)]
)
def test_the_scope_of_protection_is_a_choice_by_name(
  name, protected, all_optimizations
):
  tx, mask = optimizer.build('adamw', weight_decay=0.1), _mask(11)
  start = toy.plant_fragile(toy.params(11), mask)
  state = step_lib.init(jax.tree.map(jnp.copy, start), tx)
  for i in range(2):
    for turn in methods.make(name):
      state, _ = step_lib.take_turn(
        state,
        toy.batch(i),
        1e-2,
        masks.pack(mask) if turn.masked else None,
        forward=toy.forward,
        turn=turn,
        tx=tx,
      )
  assert toy.frozen_bits_kept(start, state.params, mask) == protected
