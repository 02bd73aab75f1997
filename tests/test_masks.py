"""Masks: bits and back, shares against NumPy, and what is not a mask."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from mmu_jax import masks
from mmu_jax import tree as tree_lib

pytestmark = pytest.mark.usefixtures('quick_compile')

SHAPES = [
  (),
  (1,),
  (7,),
  (8,),
  (9,),
  (3, 8),
  (5, 13),
  (1, 1),
  (2, 3, 17),
  (2, 0),
  (4, 2, 5, 1),
]
RULES = toy.COMPONENTS


@pytest.mark.parametrize('shape', SHAPES)
def test_unpack_gives_back_what_was_packed_in_an_eighth_of_the_bytes(shape):
  rng = np.random.default_rng(len(shape) + sum(shape))
  for share in (0.1, 0.5, 0.9):
    mask = {'a': {'w': jnp.asarray(rng.random(shape) < share)}}
    packed = masks.pack(mask)
    *rest, last = shape or (1,)
    assert packed['a']['w'].dtype == jnp.uint8
    assert packed['a']['w'].shape == (*rest, -(-last // 8))
    again = masks.unpack(packed, like=mask)
    assert again['a']['w'].dtype == bool and again['a']['w'].shape == shape
    np.testing.assert_array_equal(again['a']['w'], mask['a']['w'])


def test_the_bits_are_those_of_numpy():
  mask = toy.random_mask(toy.params(0), 0)
  for name, x in tree_lib.flatten(masks.pack(mask)).items():
    want = np.packbits(np.atleast_1d(tree_lib.flatten(mask)[name]), axis=-1)
    np.testing.assert_array_equal(x, want)


def test_unpack_takes_shapes_bool_masks_and_tracers():
  params = toy.params(1)
  mask = toy.random_mask(params, 1)
  shapes = jax.eval_shape(lambda: params)
  for form in (mask, masks.pack(mask)):
    for like in (params, shapes):
      got = jax.jit(lambda m, like=like: masks.unpack(m, like))(form)
      np.testing.assert_array_equal(toy.vector(got), toy.vector(mask))


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.int32, jnp.uint8])
def test_pack_refuses_what_is_not_bool(dtype):
  mask = toy.random_mask(toy.params(0), 2)
  mask['language_model']['norm'] = jnp.ones(toy.WIDTH, dtype)
  with pytest.raises(
    TypeError,
    match="pack takes bool masks; 'language_model/"
    f"norm' is {jnp.dtype(dtype)}. Compare first",
  ):
    masks.pack(mask)


def _mask(seed=3):
  return toy.random_mask(toy.params(0), seed)


def _set(leaf):
  """A mask whose norm is another leaf."""
  mask = _mask()
  mask['language_model']['norm'] = leaf
  return mask


WRONG = {
  'renamed': (lambda: {'base_model': _mask()}, '9 unexpected|9 .* missing'),
  'missing': (lambda: {'vision_tower': _mask()['vision_tower']}, '7 .*miss'),
  'shape': (lambda: _set(jnp.ones(5, bool)), r'\(6,\) must .*\(6,\), got'),
  'packed shape': (
    lambda: _set(jnp.ones(2, jnp.uint8)),
    r'uint8 mask for .*norm.* shape \(6,\) must have shape \(1,\), got '
    r'\(2,\)',
  ),
  'float': (
    lambda: _set(jnp.ones(6)),
    'bool or packed uint8; .* is float32. Make',
  ),
  'int': (lambda: _set(jnp.ones(6, int)), 'packed uint8; .* is int32. Make'),
}


@pytest.mark.parametrize('wrong', WRONG)
def test_a_mask_of_other_parameters_is_refused_before_compiling(wrong):
  make, message = WRONG[wrong]
  reached = []

  def step(params, mask):
    masks.unpack(mask, params)
    reached.append(True)

  with pytest.raises(ValueError, match=message):
    jax.jit(step).trace(toy.params(0), make())
  assert not reached


def _numpy_density(mask, prefix=''):
  values = [
    np.ravel(x)
    for n, x in tree_lib.flatten(mask).items()
    if n.startswith(prefix)
  ]
  return np.concatenate(values).mean()


def test_density_and_counts_equal_numpy_in_all_and_by_component():
  mask, params = _mask(4), toy.params(0)
  got = masks.density(mask, components=RULES)
  assert list(got) == ['all', 'language', 'projector', 'vision']
  assert got['all'] == pytest.approx(_numpy_density(mask))
  for component, rule in RULES.items():
    assert got[component] == pytest.approx(_numpy_density(mask, rule))
  assert masks.density(masks.pack(mask), params, RULES) == got
  assert masks.density(mask) == {'all': got['all']}
  sizes = {'vision': 65, 'projector': 30, 'language': 691}
  counts = masks.counts(mask, RULES)
  assert counts == {c: round(got[c] * sizes[c]) for c in sizes}


def test_density_by_leaf_equals_numpy():
  mask = _mask(5)
  for name, share in masks.density_by_leaf(mask).items():
    leaf = np.asarray(tree_lib.flatten(mask)[name])
    assert share == pytest.approx(leaf.mean())


def test_density_by_layer_takes_the_leading_axis_of_stacked_layers():
  params = toy.llava_params(6)
  mask = toy.random_mask(params, 6, share=0.3)
  got = masks.density_by_layer(mask, RULES)
  assert sorted(got) == ['language', 'vision']  # the projector has no layers
  for component, shares in got.items():
    stacked = [
      np.asarray(x)
      for n, x in tree_lib.flatten(mask).items()
      if n.startswith(RULES[component]) and '/layers/' in n
    ]
    want = [
      np.concatenate([x[i].ravel() for x in stacked]).mean() for i in range(2)
    ]
    assert shares == pytest.approx(want)


def test_density_of_an_empty_and_of_a_full_mask():
  params = toy.params(0)
  for share in (0, 1):
    mask = jax.tree.map(lambda x: jnp.full(x.shape, bool(share)), params)
    assert set(masks.density(mask, components=RULES).values()) == {share}


def test_overlap_is_the_jaccard_index():
  a, b = _mask(7), _mask(8)
  va, vb = toy.vector(a) > 0, toy.vector(b) > 0
  want = (va & vb).sum() / (va | vb).sum()
  assert masks.overlap(a, b) == pytest.approx(want) == masks.overlap(b, a)
  assert masks.overlap(a, a) == 1
  opposite = jax.tree.map(jnp.logical_not, a)
  assert masks.overlap(a, opposite) == 0
  with pytest.raises(ValueError, match='one mask must have the leaves of the'):
    masks.overlap(a, {'w': b})


def test_a_random_mask_has_the_density_of_every_leaf_and_no_more_in_common():
  shapes = {'a': np.ones((37, 20)), 'b': np.ones((2, 5, 30)), 'c': np.ones(())}
  mask = toy.random_mask(shapes, 9, share=0.3)
  got = masks.random_like(mask, jax.random.key(0))
  assert masks.density_by_leaf(got) == masks.density_by_leaf(mask)
  # Two independent masks of share 0.3 overlap by 0.09 / 0.51 = 0.18.
  assert masks.overlap(got, mask) == pytest.approx(0.176, abs=0.06)
  again = masks.random_like(mask, jax.random.key(0))
  other = masks.random_like(mask, jax.random.key(1))
  assert masks.overlap(again, got) == 1
  assert masks.overlap(other, got) == pytest.approx(0.176, abs=0.06)


NEEDS_BOOL = {
  'density': lambda m: masks.density(m),
  'density_by_leaf': masks.density_by_leaf,
  'counts': lambda m: masks.counts(m, RULES),
  'density_by_layer': lambda m: masks.density_by_layer(m, RULES),
  'overlap': lambda m: masks.overlap(m, m),
  'random_like': lambda m: masks.random_like(m, jax.random.key(0)),
}


@pytest.mark.parametrize('name', NEEDS_BOOL)
def test_a_packed_mask_is_never_counted_as_if_its_bytes_were_bools(name):
  with pytest.raises(TypeError, match='bool.*uint8.*unpack'):
    NEEDS_BOOL[name](masks.pack(_mask(10)))


@pytest.mark.parametrize('packed', [False, True])
def test_an_exempt_leaf_may_change_everywhere_and_others_as_before(packed):
  params = toy.params(0)
  mask = toy.random_mask(params, 50)
  form = masks.pack(mask) if packed else mask
  got = masks.unpack(masks.exempt(form, r'(?!.*kernel)'), params)
  before = tree_lib.flatten(mask)
  for name, leaf in tree_lib.flatten(got).items():
    if 'kernel' in name:
      np.testing.assert_array_equal(leaf, before[name])
    else:
      assert np.all(leaf), name
  assert not all(np.all(before[n]) for n in before if 'kernel' not in n)


def test_the_empty_rule_exempts_nothing_and_a_wrong_one_is_an_error():
  mask = toy.random_mask(toy.params(0), 51)
  assert masks.exempt(mask, '') is mask
  with pytest.raises(ValueError, match="'kernel' exempts no leaf .*'language_"):
    masks.exempt(mask, 'kernel')  # it is searched from the start of a name
  with pytest.raises(ValueError, match="'.' exempts every leaf .*without mask"):
    masks.exempt(mask, '.')
