"""Importances and masks do not depend on the mesh, or on an interruption."""

import functools

import jax
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest
import toy

from mmu_jax import gradients
from mmu_jax import masks
from mmu_jax import objectives
from mmu_jax import saliency as saliency_lib
from mmu_jax import sharding

pytestmark = pytest.mark.usefixtures('quick_compile')

RULES = (
  (r'.*embed_tokens', P('tensor', 'fsdp')),
  (r'.*(kernel|lm_head)', P('fsdp', 'tensor')),
  (r'.*', P()),
)
MESHES = ('fsdp=4', 'data=2,fsdp=2,tensor=2', 'data=4,tensor=2')
PROTECTS = {'vision': ['a'], 'projector': ['a'], 'language': ['a', 'b']}


def _batches(name, rows=8):
  seed = {'': 0, 'a': 10, 'b': 20}[name]
  made = [toy.batch(seed + i, 5, packed=False, weighted=True) for i in (0, 1)]
  return [toy.pad(m, seed, rows=rows - 5) for m in made]


def _put(tree, mesh):
  return jax.device_put(tree, sharding.shardings(tree, RULES, mesh))


@functools.cache
def _importances(spec, granularity='batch'):
  """Of the forget set and of two preserve sets, measured on a mesh."""
  mesh = sharding.make_mesh(spec)
  with jax.set_mesh(mesh):
    return {
      name: saliency_lib.importance(
        toy.loss,
        _put(toy.params(0), mesh),
        [sharding.place(m, mesh, 8) for m in _batches(name)],
        granularity=granularity,
        rules=RULES,
        micro_batches=1,
        measure=objectives.answer_weight,
      )
      for name in ('', 'a', 'b')
    }


def _scores(spec, granularity, normalize):
  found = dict(_importances(spec, granularity))
  with jax.set_mesh(sharding.make_mesh(spec)):
    return saliency_lib.component_saliency(
      found.pop(''),
      found,
      protects=PROTECTS,
      components=toy.COMPONENTS,
      normalize=normalize,
    )


@pytest.mark.parametrize('spec', MESHES)
def test_an_importance_is_the_same_on_every_mesh(spec):
  got, want = _importances(spec), _importances('')
  for name in got:
    assert toy.relative_error(got[name], want[name]) < 1e-5
    assert np.all((toy.vector(got[name]) == 0) == (toy.vector(want[name]) == 0))


@pytest.mark.parametrize('spec', ['fsdp=4', 'data=2,fsdp=2,tensor=2'])
def test_an_importance_per_example_is_the_same_on_every_mesh(spec):
  got, want = _importances(spec, 'example'), _importances('', 'example')
  for name in got:
    assert toy.relative_error(got[name], want[name]) < 1e-5


@pytest.mark.parametrize('spec', MESHES)
@pytest.mark.parametrize('normalize', [False, True])
def test_masks_of_a_mesh_differ_in_near_ties_alone(spec, normalize):
  (got, ties), (want, want_ties) = (
    _scores(s, 'batch', normalize) for s in (spec, '')
  )
  assert np.array_equal(toy.vector(ties), toy.vector(want_ties))
  mark = functools.partial(saliency_lib.mask_from_saliency, threshold=1.0)
  mask, want_mask = mark(got, ties=ties), mark(want, ties=want_ties)
  near = np.abs(np.log(toy.vector(want))) < 1e-4
  near &= toy.vector(ties) == 0
  assert near.sum() <= 2  # of 786
  differ = toy.vector(mask) != toy.vector(want_mask)
  assert not np.any(differ & ~near)
  assert 0.05 < toy.vector(mask).mean() < 0.95


def test_a_mesh_changes_nothing_in_what_is_made_of_given_importances():
  """Bit for bit: of one leaf at a time, and of top-k and random controls."""
  mesh = sharding.make_mesh('data=2,fsdp=2,tensor=2')
  found = {
    k: toy.tree_like(toy.params(0), i, sign=False)
    for i, k in enumerate(('', 'a', 'b'))
  }
  placed = {k: _put(tree, mesh) for k, tree in found.items()}
  shares = {'vision': 0.3, 'projector': 0.0, 'language': 0.05}
  key = jax.random.key(0)

  def make(found):
    found = dict(found)
    forget = found.pop('')
    scores, ties = saliency_lib.component_saliency(
      forget, found, protects=PROTECTS, components=toy.COMPONENTS
    )
    mask = saliency_lib.mask_from_saliency(scores, density=0.2, ties=ties)
    top = saliency_lib.top_share(forget, shares, toy.COMPONENTS)
    return scores, mask, top, masks.random_like(mask, key)

  want = make(found)
  with jax.set_mesh(mesh):
    got = make(placed)
    density = masks.density(got[1], components=toy.COMPONENTS)
    overlap = masks.overlap(got[1], got[2])
  for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(want)):
    np.testing.assert_array_equal(x, y)
  assert density == masks.density(want[1], components=toy.COMPONENTS)
  assert overlap == masks.overlap(want[1], want[2])
  for made in got:
    for x, like in zip(jax.tree.leaves(made), jax.tree.leaves(placed[''])):
      assert x.sharding.is_equivalent_to(like.sharding, x.ndim)


def _interrupted(spec, granularity, after):
  """An importance that is saved after some batches and goes on from there."""
  mesh, saved = sharding.make_mesh(spec), {}
  made = [sharding.place(toy.batch(i, 8), mesh, 8) for i in range(4)]

  def on_batch(seen, sums):
    if seen == after:
      saved[seen] = jax.tree.map(np.asarray, sums)

  measure = functools.partial(
    saliency_lib.importance,
    toy.loss,
    _put(toy.params(1), mesh),
    granularity=granularity,
    rules=RULES,
  )
  with jax.set_mesh(mesh):
    whole = measure(made, on_batch=on_batch)
    like = gradients.abstract_sums(toy.params(1), RULES)
    restored = jax.tree.map(
      lambda x, a: jax.device_put(x, a.sharding), saved[after], like
    )
    rest = measure(made[after:], start=restored, seen=after)
  assert all(x.is_deleted() for x in jax.tree.leaves(restored.total))
  return whole, rest


@pytest.mark.parametrize('spec', ['', 'data=2,fsdp=2,tensor=2'])
@pytest.mark.parametrize('granularity', ['batch', 'example'])
@pytest.mark.parametrize('after', [1, 4])
def test_an_importance_goes_on_bit_for_bit_where_it_was_saved(
  spec, granularity, after
):
  whole, rest = _interrupted(spec, granularity, after)
  for x, y in zip(jax.tree.leaves(whole), jax.tree.leaves(rest)):
    np.testing.assert_array_equal(toy.bits(x), toy.bits(y))


def test_one_program_serves_all_batches_of_a_mesh():
  mesh = sharding.make_mesh('fsdp=2,data=2,tensor=2')
  made = [sharding.place(toy.batch(i, 8), mesh, 8) for i in range(4)]
  before = gradients.add_batch._cache_size()
  with jax.set_mesh(mesh):
    params = _put(toy.params(2), mesh)
    found = saliency_lib.importance(
      lambda p, m: 2 * toy.loss(p, m), params, made, rules=RULES
    )
  assert gradients.add_batch._cache_size() - before == 1
  for x, like in zip(jax.tree.leaves(found), jax.tree.leaves(params)):
    assert x.sharding.is_equivalent_to(like.sharding, x.ndim)
