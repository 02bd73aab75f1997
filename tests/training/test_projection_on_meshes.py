"""A projected turn keeps split gradients split."""

import functools
import re

import jax
import numpy as np
import pytest

from mmu_jax import sharding
from mmu_jax import transforms
from mmu_jax import tree as tree_lib

MESHES = ('fsdp=8', 'fsdp=4,tensor=2')
RULES = ((r'.*', jax.sharding.PartitionSpec('fsdp', 'tensor')),)


def _trees(seed):
  rng = np.random.default_rng(seed)
  shapes = {'a': (3, 16, 8), 'b': (64, 24)}
  return {k: rng.normal(size=s).astype(np.float32) for k, s in shapes.items()}


@pytest.mark.parametrize('spec', MESHES)
def test_nothing_is_gathered_to_project(spec):
  mesh = sharding.make_mesh(spec)
  tx = transforms.project_updates('always')
  updates, against = _trees(0), _trees(1)
  place = functools.partial(sharding.shardings, rules=RULES, mesh=mesh)
  put = lambda tree: jax.device_put(tree, place(tree))

  @jax.jit
  def project(updates, against):
    return tx.update(updates, tx.init(updates), against=against)[0]

  with jax.set_mesh(mesh):
    program = project.lower(put(updates), put(against)).compile().as_text()
    got = project(put(updates), put(against))
  assert not re.search('all-gather|all-to-all|collective-permute', program)
  assert re.search('all-reduce', program)  # of two numbers
  flat = lambda tree: np.concatenate(
    [x.ravel() for x in tree_lib.flatten(tree).values()]
  ).astype(np.float64)
  u, r = flat(updates), flat(against)
  want = u - (u @ r) / (r @ r) * r
  np.testing.assert_allclose(
    flat(jax.tree.map(np.asarray, got)), want, rtol=1e-5, atol=1e-6
  )
