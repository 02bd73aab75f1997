"""Meshes and partition rules: what is split, and what is refused."""

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest
import toy

from mmu_jax import masks
from mmu_jax import models
from mmu_jax import saliency
from mmu_jax import sharding
from mmu_jax import tree as tree_lib

MESHES = ('fsdp=8', 'fsdp=4,tensor=2', 'data=2,fsdp=2,tensor=2')


@pytest.mark.parametrize(
  'spec, sizes',
  [
    ('', None),
    ('data=8', (8, 1, 1)),
    ('fsdp=-1', (1, 8, 1)),
    ('tensor=2, data = 2 ,fsdp=2', (2, 2, 2)),
    ('fsdp=-1,tensor=2', (1, 4, 2)),
    ('fsdp=4,tensor=2,data=-1', (1, 4, 2)),
    ('data=-1,', (8, 1, 1)),
  ],
)
def test_a_line_of_a_config_makes_a_mesh(spec, sizes):
  devices = jax.devices()[:1] if sizes is None else None
  mesh = sharding.make_mesh(spec, devices)
  assert mesh.axis_names == ('data', 'fsdp', 'tensor')
  assert mesh.devices.shape == (sizes or (1, 1, 1))
  assert set(mesh.axis_types) == {jax.sharding.AxisType.Auto}
  assert mesh.devices.size == len(devices or jax.devices())


@pytest.mark.parametrize(
  'spec, count, words',
  [
    (
      'model=8',
      8,
      'data, fsdp, tensor once and with a size >= 1 or -1; '
      "model=8 of 'model=8' is not",
    ),
    ('fsdp', 8, 'fsdp= of'),
    ('fsdp=0', 8, 'fsdp=0 of'),
    ('fsdp=-2', 8, 'fsdp=-2 of'),
    ('fsdp=2.0', 8, 'fsdp=2.0 of'),
    ('data=2,fsdp=2,data=2', 8, 'data=2 of'),
    ('fsdp=3', 2, "'fsdp=3' does not fit 2. Use -1 for one axis"),
    ('fsdp=-1,data=3', 8, "'fsdp=-1,data=3' does not fit 8"),
    ('fsdp=16', 8, "'fsdp=16' does not fit 8"),
    ('fsdp=-1,data=16', 8, "'fsdp=-1,data=16' does not fit 8"),
    # Two of -1 multiply to 1.
    ('data=-1,fsdp=-1', 1, "'data=-1,fsdp=-1' does not fit 1"),
    ('data=-1,fsdp=-1,tensor=8', 8, 'does not fit 8'),
  ],
)
def test_a_mesh_that_cannot_be_is_refused(spec, count, words):
  with pytest.raises(ValueError) as raised:
    sharding.make_mesh(spec, jax.devices()[:count])
  assert words in str(raised.value)


@pytest.mark.parametrize('spec, count', [('', 1), ('fsdp=2,tensor=2', 4)])
def test_a_smaller_mesh_has_the_first_devices(spec, count):
  mesh = sharding.make_mesh(spec)
  assert list(mesh.devices.flat) == jax.devices()[:count]


@pytest.mark.parametrize('spec, parts', [('fsdp=8', 8), ('data=2,tensor=4', 2)])
@pytest.mark.parametrize('num_rows', (1, 5, 16))
@pytest.mark.parametrize('micro_batches', (1, 3))
def test_a_batch_is_padded_to_what_devices_and_micro_batches_share(
  spec, parts, num_rows, micro_batches
):
  mesh = sharding.make_mesh(spec)
  total = sharding.row_count(num_rows, mesh, micro_batches)
  assert total % (parts * micro_batches) == 0
  assert num_rows <= total < num_rows + parts * micro_batches
  assert sharding.local_rows(total, mesh).tolist() == list(range(total))


def test_a_placed_batch_has_its_rows_in_order():
  mesh = sharding.make_mesh('data=2,fsdp=2,tensor=2')
  rows = np.random.default_rng(0).normal(size=(8, 3))
  placed = sharding.place({'x': rows}, mesh, 8)['x']
  assert placed.sharding.spec == P(('data', 'fsdp'))
  assert {x.data.shape for x in placed.addressable_shards} == {(2, 3)}
  np.testing.assert_array_equal(placed, rows.astype(np.float32))
  with pytest.raises(ValueError, match='holds 8 of the 8 rows.*got 7'):
    sharding.place({'x': rows[:7]}, mesh, 8)


@pytest.mark.parametrize('spec', MESHES)
def test_a_constrained_tree_keeps_its_places_and_values(spec):
  mesh = sharding.make_mesh(spec)
  rules = ((r'.*kernel', P('fsdp', 'tensor')), (r'.*', P()))
  tree = {'a': {'kernel': jnp.arange(128.0).reshape(8, 16)}, 'b': jnp.ones(3)}
  tree = jax.device_put(tree, sharding.shardings(tree, rules, mesh))
  twice = lambda tree: jax.tree.map(lambda x: 2 * x, tree)
  double = jax.jit(lambda tree: sharding.constrain(twice(tree), rules))
  with jax.set_mesh(mesh):
    made = double(tree)
  same = jax.tree.map(
    lambda x, y: x.sharding.is_equivalent_to(y.sharding, x.ndim), made, tree
  )
  assert all(jax.tree.leaves(same))
  np.testing.assert_array_equal(made['a']['kernel'], 2 * tree['a']['kernel'])
  assert double(tree)['b'].tolist() == [2, 2, 2]  # without a mesh too


@pytest.mark.parametrize(
  'shape, rule, spec',
  [
    ((16, 24), P('fsdp', 'tensor'), P('fsdp', 'tensor')),
    # Leading axes (layers, say) are not split.
    ((3, 16, 24), P('fsdp', 'tensor'), P(None, 'fsdp', 'tensor')),
    ((8, 3, 16, 24), P('fsdp'), P(None, None, None, 'fsdp')),
    # An axis that does not divide its dimension is left out.
    ((32003, 16), P('tensor', 'fsdp'), P(None, 'fsdp')),
    ((16, 3), P('fsdp', 'tensor'), P('fsdp', None)),
    ((6, 5), P('fsdp', 'tensor'), P(None, None)),
    # Two axes split by both of their sizes.
    ((16, 24), P(None, ('fsdp', 'tensor')), P(None, ('fsdp', 'tensor'))),
    ((16, 20), P(None, ('fsdp', 'tensor')), P(None, None)),
    # The last axes of the rule are those of the leaf.
    ((24,), P('fsdp', 'tensor'), P('tensor')),
    ((), P('fsdp', 'tensor'), P()),
    ((5, 7), P(), P(None, None)),
  ],
)
def test_a_rule_splits_the_last_axes_that_it_divides(shape, rule, spec):
  mesh = sharding.make_mesh('fsdp=4,tensor=2')
  got = sharding.spec_of('a/kernel', shape, [('.*', rule)], mesh)
  assert tuple(got) == tuple(spec)
  named = jax.sharding.NamedSharding(mesh, got)
  parts = [{None: 1, 'fsdp': 4, 'tensor': 2}.get(axis, 8) for axis in got]
  assert named.shard_shape(shape) == tuple(
    n // part for n, part in zip(shape, parts)
  )


def test_the_first_rule_that_matches_the_whole_name_counts():
  mesh = sharding.make_mesh('fsdp=8')
  rules = [
    ('kernel', P()),  # not the whole of any name
    ('.*/q/kernel', P('fsdp', None)),
    ('.*kernel', P(None, 'fsdp')),
  ]
  spec = lambda name: sharding.spec_of(name, (8, 8), rules, mesh)
  assert spec('a/q/kernel') == P('fsdp', None)
  assert spec('a/k/kernel') == P(None, 'fsdp')
  with pytest.raises(ValueError, match="none matches 'a/q/bias'. End the rul"):
    spec('a/q/bias')


def test_a_rule_names_axes_of_the_mesh():
  mesh = sharding.make_mesh('fsdp=8')
  with pytest.raises(ValueError, match='data, fsdp, tensor; got model'):
    sharding.spec_of('w', (8, 8), [('.*', P('fsdp', 'model'))], mesh)


@pytest.mark.parametrize('mesh', MESHES)
@pytest.mark.parametrize('family', models.MODELS)
def test_a_device_holds_an_eighth_of_a_7b_model(family, mesh):
  """Abstractly: all but vectors and one odd matrix (588 rows) are split."""
  model = models.build(models.MODELS[family].config())
  mesh = sharding.make_mesh(mesh)
  made = tree_lib.flatten(
    sharding.shardings(model.abstract_params, model.partition_rules, mesh)
  )
  params = tree_lib.flatten(model.abstract_params)
  held = {k: np.prod(made[k].shard_shape(x.shape)) for k, x in params.items()}
  whole = {k for k, x in params.items() if held[k] == x.size}
  vectors = ('scale', 'bias', 'class_embedding', 'image_newline')
  vectors += ('patch_embedding/kernel',)
  assert whole and all(name.endswith(vectors) for name in whole)
  parts = mesh.shape['fsdp'] * mesh.shape['tensor']
  more = sum(held.values()) - tree_lib.count(params) / parts
  assert 0 <= more < 1.8e6  # of a 7B model .2 % of its part


@pytest.mark.parametrize('mesh', MESHES)
def test_packed_masks_live_on_the_mesh_of_their_parameters(mesh):
  """Their last axis is an eighth: it is split only where that still fits."""
  mesh, model = sharding.make_mesh(mesh), toy.llava()
  shapes = model.abstract_params
  rng = np.random.default_rng(1)
  mask = jax.tree.map(lambda x: rng.random(x.shape) < 0.3, shapes)
  packed = jax.tree.map(lambda x: np.packbits(x, axis=-1), mask)
  abstract = jax.eval_shape(masks.pack, mask)
  made = sharding.shardings(abstract, model.partition_rules, mesh)
  placed = tree_lib.flatten(jax.device_put(packed, made))
  fsdp, tensor = mesh.shape['fsdp'], mesh.shape['tensor']
  local = {name: x.sharding.shard_shape(x.shape) for name, x in placed.items()}
  layers = 'language_model/model/layers/mlp'
  # [2, 16, 24] packs to [2, 16, 3]; [2, 24, 16] to [2, 24, 2].
  assert local[f'{layers}/up_proj/kernel'] == (2, 16 // fsdp, 3)
  odd = 2 % fsdp  # two bytes are not split over four or eight
  assert local[f'{layers}/down_proj/kernel'] == (
    2,
    24 // tensor,
    2 if odd else 2 // fsdp,
  )
  for name, x in tree_lib.flatten(packed).items():
    assert placed[name].dtype == np.uint8
    np.testing.assert_array_equal(placed[name], x)


@pytest.mark.parametrize(
  'mesh, parts',
  [
    ('fsdp=8', 8),
    ('data=2,fsdp=2,tensor=2', 4),
    ('tensor=8', 1),
    ('data=4,tensor=2', 4),
  ],
)
def test_rows_of_a_batch_are_split_over_data_and_fsdp(mesh, parts):
  mesh = sharding.make_mesh(mesh)
  rng = np.random.default_rng(2)
  batch = {
    'tokens': rng.integers(1, 50, (8, 12)),
    'pixel_values': rng.normal(size=(8, 2, 3, 4, 4)),
  }
  placed = jax.device_put(batch, sharding.batch_sharding(mesh))
  for name, x in placed.items():
    assert {s.data.shape[0] for s in x.addressable_shards} == {8 // parts}
    assert {s.data.shape[1:] for s in x.addressable_shards} == {x.shape[1:]}
    assert len({str(s.index) for s in x.addressable_shards}) == parts
    assert np.array_equal(x, batch[name].astype(x.dtype))


def test_activations_are_split_by_rows_where_a_mesh_is_set():
  mesh = sharding.make_mesh('data=2,fsdp=4')
  split = jax.jit(lambda x: sharding.split_rows(jnp.sin(x)))
  x = jnp.arange(32.0).reshape(16, 2)
  with jax.set_mesh(mesh):
    got = split(x)
    odd = split(x[:9])  # rows that the mesh does not divide stay together
  assert got.sharding.spec == P(('data', 'fsdp'))
  assert {s.data.shape for s in got.addressable_shards} == {(2, 2)}
  np.testing.assert_array_equal(got, jnp.sin(x))
  np.testing.assert_array_equal(odd, jnp.sin(x[:9]))
  assert len(split(x).sharding.device_set) == 1


def test_an_importance_lives_where_the_parameters_live():
  mesh = sharding.make_mesh('fsdp=8')
  there = jax.sharding.NamedSharding(mesh, P('fsdp'))
  params = jax.device_put({'w': jnp.linspace(0.1, 1.0, 16)}, {'w': there})
  loss = lambda p, batch: jnp.sum(p['w'] ** 2 * batch)
  found = saliency.importance(loss, params, [jnp.ones(16), jnp.ones(16) * 2])
  assert found['w'].sharding.is_equivalent_to(there, 1)
  want = (2 * params['w']) ** 2 * (1 + 4) / 2
  np.testing.assert_allclose(found['w'], want, rtol=1e-6)
  mask = saliency.mask_from_saliency(found, threshold=1.0)
  assert mask['w'].sharding.is_equivalent_to(there, 1)


def test_sizes_of_a_mesh_are_read_without_devices():
  assert sharding.axis_sizes('tensor=2,fsdp=512') == {
    'data': 1,
    'fsdp': 512,
    'tensor': 2,
  }
  assert sharding.axis_sizes('fsdp=-1')['fsdp'] == -1
