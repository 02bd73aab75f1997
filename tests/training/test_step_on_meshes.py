"""A turn on a mesh: one program, nothing whole gathered, nothing copied."""

import functools
import re
import warnings

import jax
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest
import toy

from mmu_jax import masks
from mmu_jax import methods
from mmu_jax import sharding
from mmu_jax import tree as tree_lib
from mmu_jax.training import optimizer
from mmu_jax.training import step as step_lib

pytestmark = pytest.mark.usefixtures('quick_compile')

MESHES = ('data=2,fsdp=4', 'fsdp=4,tensor=2')
# Held to a reference and masked: it reads all that a turn can read.
TURN = methods.make('kl_min')[1]._replace(masked=True)
TX = optimizer.build('hf_adamw')
RULES = toy.llava().partition_rules
take_turn = functools.partial(
  step_lib.take_turn, forward=toy.llava().forward, turn=TURN, tx=TX, rules=RULES
)


def _arguments(mesh):
  """What a turn of the whole model takes, placed on a mesh."""
  put = lambda tree: jax.device_put(tree, sharding.shardings(tree, RULES, mesh))
  params = toy.llava_params(0)
  mask = put(masks.pack(toy.random_mask(params, 1)))
  batch = toy.pad(toy.batch(0, rows=6, weighted=True), 0, rows=2)
  batch = sharding.place(batch, mesh, 8)
  ref = put(toy.perturb(params, 2, 0.1))
  state = step_lib.init(put(params), TX, RULES)
  return state, batch, 1e-3, mask, ref


@functools.cache
def _on_one_device():
  """The numbers after one turn, and after three."""
  mesh = sharding.make_mesh('')
  with jax.set_mesh(mesh):
    return _three_turns(_arguments(mesh))


def _three_turns(arguments):
  state, *rest = arguments
  losses = []
  for _ in range(3):
    state, measured = take_turn(state, *rest)
    losses.append(float(measured['loss']))
  return losses, jax.tree.map(np.asarray, state)


@pytest.mark.parametrize('spec', MESHES)
def test_one_program_serves_all_turns_and_gives_the_numbers_of_one_device(spec):
  mesh = sharding.make_mesh(spec)
  with jax.set_mesh(mesh), warnings.catch_warnings():
    warnings.simplefilter('error')  # 'donated buffers were not usable'
    arguments = _arguments(mesh)
    before = step_lib.take_turn._cache_size()
    losses, state = _three_turns(arguments)
    assert step_lib.take_turn._cache_size() - before == 1
  assert all(x.is_deleted() for x in jax.tree.leaves(arguments[0].params))
  want_losses, want = _on_one_device()
  np.testing.assert_allclose(losses, want_losses, rtol=1e-5)
  assert toy.relative_error(state.params, want.params) < 1e-5


def _shapes(text, operations='', *, last):
  """The results in a program that end in some dimensions."""
  shape = r'\w+\[(?:\d+,)*' + ','.join(map(str, last)) + r'\]'
  found = re.findall(rf'= ({shape}\S*) {operations}', text)
  return sorted(set(found))


def test_the_vocabulary_stays_split_and_every_buffer_is_used_again():
  mesh = sharding.make_mesh('data=2,fsdp=2,tensor=2')
  with jax.set_mesh(mesh):
    arguments = _arguments(mesh)
    program = take_turn.func.lower(*arguments, **take_turn.keywords).compile()
  text = program.as_text()
  length = arguments[1]['tokens'].shape[1]
  assert _shapes(text, last=(length, toy.VOCAB // 2))  # half the logits
  assert not _shapes(text, last=(length, toy.VOCAB))
  assert not _shapes(text, last=(toy.VOCAB, 16))  # the whole embedding
  assert not _shapes(text, last=(16, toy.VOCAB))
  held = lambda x: np.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
  rate = 4  # bytes of the rate of the turn before, which nobody reads
  state_bytes = sum(map(held, jax.tree.leaves(arguments[0])))
  assert program.memory_analysis().alias_size_in_bytes == state_bytes - rate


SMALL_RULES = ((r'.*(kernel|embed_tokens|lm_head)', P('fsdp')), (r'.*', P()))


def _small_state(mesh):
  put = lambda tree: jax.device_put(
    tree, sharding.shardings(tree, SMALL_RULES, mesh)
  )
  return step_lib.init(put(toy.params(0)), TX, SMALL_RULES), put


@pytest.mark.parametrize('spec', ['', 'fsdp=2', 'data=2,fsdp=2,tensor=2'])
def test_moments_go_where_the_parameters_are(spec):
  mesh = sharding.make_mesh(spec)
  with jax.set_mesh(mesh):
    state, _ = _small_state(mesh)
    abstract = step_lib.abstract_state(toy.params(0), TX, SMALL_RULES)
  params = tree_lib.flatten(state.params)
  moments = tree_lib.flatten(state.opt_state)
  for name, x in params.items():
    for moment in ('mu', 'nu'):
      (there,) = [
        x for k, x in moments.items() if k.endswith(f'/{moment}/{name}')
      ]
      assert there.sharding.is_equivalent_to(x.sharding, x.ndim)
      assert not np.any(there)
  for x, want in zip(jax.tree.leaves(state), jax.tree.leaves(abstract)):
    assert (x.shape, x.dtype) == (want.shape, want.dtype)
    assert x.sharding.is_equivalent_to(want.sharding, x.ndim)


def test_a_state_without_rules_or_mesh_has_no_places():
  abstract = step_lib.abstract_state(toy.params(0), TX, SMALL_RULES)
  assert all(x.sharding is None for x in jax.tree.leaves(abstract))
  shapes = jax.eval_shape(lambda: toy.params(0))
  again = step_lib.abstract_state(shapes, TX)
  assert jax.tree.structure(again) == jax.tree.structure(abstract)


@pytest.mark.parametrize('spec', ['', 'data=2,fsdp=2,tensor=2'])
def test_a_reference_on_the_host_gives_the_same_bits(spec):
  mesh, made = sharding.make_mesh(spec), []
  for move in (lambda tree: tree, step_lib.to_host):
    with jax.set_mesh(mesh):
      state, put = _small_state(mesh)
      ref = move(put(toy.perturb(toy.params(0), 1, 0.1)))
      batch = sharding.place(toy.batch(1, rows=8), mesh, 8)
      made.append(
        step_lib.take_turn(
          state,
          batch,
          1e-2,
          None,
          ref,
          forward=toy.forward,
          turn=TURN._replace(masked=False),
          tx=TX,
          rules=SMALL_RULES,
        )
      )
  kinds = {x.sharding.memory_kind for x in jax.tree.leaves(ref)}
  assert kinds == {step_lib.HOST}
  for x, y in zip(*map(jax.tree.leaves, made)):
    assert x.sharding.memory_kind == y.sharding.memory_kind != step_lib.HOST
    np.testing.assert_array_equal(toy.bits(x), toy.bits(y))
  assert step_lib.to_host(None) is None
