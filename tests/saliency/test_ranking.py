"""The k-th largest by counting is the one that sorting finds."""

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from mmu_jax import masks
from mmu_jax import sharding
from mmu_jax.saliency import ranking

SHAPES = ((4, 8, 16), (8,), ())


def _numbers(seed, kind):
  """Arrays of some shapes, and which entries of them count."""
  rng = np.random.default_rng(seed)
  draw = {
    'squares': lambda s: rng.standard_normal(s) ** 2 * 1e-9,
    'signed': lambda s: rng.normal(size=s) * 10.0 ** rng.integers(-30, 30),
    'subnormal': lambda s: (
      rng.normal(size=s) * 10.0 ** rng.uniform(-46, -36, s)
    ),
    'few values': lambda s: rng.choice([-0.0, 0.0, 1.0, 2.5, -1.0], s),
  }[kind]
  arrays = [np.asarray(draw(shape), np.float32) for shape in SHAPES]
  return arrays, [rng.random(shape) < 0.7 for shape in SHAPES]


@pytest.mark.parametrize(
  'kind', ['squares', 'signed', 'subnormal', 'few values']
)
@pytest.mark.parametrize('masked', [False, True])
def test_it_is_the_one_that_sorting_finds(kind, masked):
  arrays, inside = _numbers(0, kind)
  where = inside if masked else [None] * len(arrays)
  kept = [x[w] if masked else x.ravel() for x, w in zip(arrays, where)]
  ordered = np.sort(np.concatenate([np.ravel(x) for x in kept]))[::-1]
  for k in (1, 2, 17, len(ordered) // 2, len(ordered)):
    got = ranking.kth_largest(lambda: zip(arrays, where), k)
    assert got == ordered[k - 1]
  with pytest.raises(ValueError, match=f'fewer than {len(ordered) + 1} numb'):
    ranking.kth_largest(lambda: zip(arrays, where), len(ordered) + 1)


def _smallest(seed, n=4096):
  """Numbers around the smallest normal one, 1.2e-38, most of them below."""
  rng = np.random.default_rng(seed)
  x = rng.normal(size=n) * 10.0 ** rng.uniform(-46, -37, n)
  x = x.astype(np.float32)
  assert np.mean(np.abs(x) < np.finfo(np.float32).tiny) > 0.8
  return x


@pytest.mark.parametrize('seed', range(3))
def test_the_smallest_numbers_are_told_apart(seed):
  """XLA's arithmetic takes them for 0, and NumPy does not."""
  x = _smallest(seed)
  ordered = np.sort(x)[::-1]
  for k in (1, 40, 1500, 2048, 2100, 4096):
    got = ranking.kth_largest(lambda: [(x, None)], k)
    assert got == ordered[k - 1] and (got != 0) == (ordered[k - 1] != 0)
    for f in (ranking.reaches, jax.jit(ranking.reaches)):
      np.testing.assert_array_equal(f(x, got), x >= ordered[k - 1])


def test_no_number_reaches_nan_and_nan_reaches_none():
  x = np.array([np.nan, -np.nan, np.inf, 1, 0, -np.inf], np.float32)
  assert ranking.reaches(x, -np.inf).tolist() == [False] * 2 + [True] * 4
  assert ranking.reaches(x, 0.0).tolist() == [False] * 2 + [True] * 3 + [False]
  assert not ranking.reaches(x, np.nan).any()


def test_arrays_are_read_twice():
  arrays, _ = _numbers(1, 'squares')
  reads = []

  def read():
    reads.append(1)
    yield from ((x, None) for x in arrays)

  ranking.kth_largest(read, 5)
  assert len(reads) == 2


@pytest.mark.parametrize('spec', ['fsdp=8', 'data=2,fsdp=2,tensor=2'])
def test_on_a_mesh_it_is_the_same_and_no_array_is_gathered(spec):
  mesh = sharding.make_mesh(spec)
  x = np.random.default_rng(2).standard_normal((3, 16, 32)).astype(np.float32)
  there = NamedSharding(mesh, P(None, 'fsdp', 'tensor'))
  placed = jax.device_put(x, there)
  with jax.set_mesh(mesh):
    got = ranking.kth_largest(lambda: [(placed, None)], 100)
    program = ranking._histogram.lower(placed, None, 0, 16).compile()
  assert got == np.sort(x.ravel())[-100]
  text = program.as_text()
  assert 'all-reduce(' in text and 'all-gather(' not in text


def test_counts_go_beyond_what_32_bits_hold():
  """XLA multiplies instead of adding: nothing of this size is allocated."""
  shape = 5, 2**15, 2**15
  many = jax.jit(lambda: masks.count(jnp.broadcast_to(True, shape)))()
  assert int(masks.to_int(many)) == 5 * 2**30
  rows = jax.jit(lambda: masks.count(jnp.broadcast_to(True, (2**20, 8191))))()
  assert int(masks.to_int(rows)) == 2**20 * 8191
