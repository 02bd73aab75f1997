"""Rounded weights are within half a step, and only matrices are rounded."""

from attacked import small_job
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import toy

from mmu_jax import sharding
from mmu_jax import tree as tree_lib
from mmu_jax.attacks import asking
from mmu_jax.attacks import quantize
from mmu_jax.errors import UserError

pytestmark = pytest.mark.usefixtures('quick_compile')


def _reference(x, bits, group, axis):
  """The same by a loop over groups, in float64."""
  most, made = (
    2 ** (bits - 1) - 1,
    np.moveaxis(np.array(x, np.float64), axis, 0),
  )
  steps = np.zeros_like(made)
  for start in range(0, len(made), group):
    here = slice(start, start + group)
    scale = np.abs(made[here]).max(0) / most
    steps[here] = scale
    whole = np.rint(made[here] / np.where(scale > 0, scale, 1))
    made[here] = whole * scale
  return np.moveaxis(made, 0, axis), np.moveaxis(steps, 0, axis)


@pytest.mark.parametrize('axis', (-1, -2))
@pytest.mark.parametrize(
  'bits, group', [(8, 300), (8, 128), (4, 300), (4, 128)]
)
def test_the_error_is_at_most_half_a_step(bits, group, axis):
  """The axis of 300 ends in a group of 44."""
  rng = np.random.default_rng(bits + group)
  x = rng.normal(size=(2, 300, 300)).astype(np.float32)
  x[0, :, 3] = 0
  got = np.asarray(quantize.rounded(jnp.asarray(x), bits, group, axis))
  want, step = _reference(x, bits, group, axis)
  assert (np.abs(got - x) <= step / 2 * (1 + 1e-5) + 1e-7).all()
  differ = np.abs(got - want) > 1e-5
  assert differ.mean() < 1e-4  # where x is in the middle of two multiples
  values = np.unique((want / np.where(step > 0, step, 1)).round(6))
  assert np.abs(values).max() == 2 ** (bits - 1) - 1
  assert (got[0, :, 3] == 0).all()


def test_smaller_groups_and_more_bits_err_less():
  x = jnp.asarray(
    np.random.default_rng(0).standard_t(3, (512, 64)), jnp.float32
  )
  error = lambda bits, group: float(
    jnp.abs(quantize.rounded(x, bits, group, -2) - x).mean()
  )
  assert error(4, 128) < error(4, 512) and error(8, 512) < error(4, 128) / 5


@pytest.fixture(scope='module')
def params():
  return toy.llava_params(0)


def _is_matrix(name):
  return name.split('/')[-1] in ('kernel', 'embedding')


def test_only_matrices_are_rounded_and_twice_is_once(params):
  made = quantize.quantized(params, 4, 8)
  for name, moved in toy.moved(params, made).items():
    assert moved.any() == _is_matrix(name), name
  before, after = map(tree_lib.flatten, (params, made))
  assert all(x.dtype == after[name].dtype for name, x in before.items())
  again = quantize.quantized(made, 4, 8)
  assert toy.relative_error(again, made) < 1e-6


def test_bfloat16_keeps_eight_bits(params):
  made = tree_lib.flatten(quantize.quantized(params, 0))
  for name, x in tree_lib.flatten(params).items():
    want = np.asarray(x).astype(ml_dtypes.bfloat16).astype(np.float32)
    assert np.array_equal(made[name], want if _is_matrix(name) else x)
    assert (np.abs(want - x) <= 2.0**-8 * np.abs(x)).all()


def test_an_output_channel_has_one_scale():
  """A kernel sums its rows, an embedding gives one of them."""
  rng = np.random.default_rng(0)
  x = rng.normal(size=(6, 5)).astype(np.float32)
  x[2, 1] = 1e3
  params = {'a': {'kernel': jnp.asarray(x)}, 'b': {'embedding': jnp.asarray(x)}}
  made = quantize.quantized(params, 8)
  zeros = lambda x: np.asarray(x == 0)
  kernel, embedding = zeros(made['a']['kernel']), zeros(made['b']['embedding'])
  assert kernel[:, 1].sum() == 5 and kernel.sum() == 5
  assert embedding[2].sum() == 4 and embedding.sum() == 4


def test_a_mesh_changes_nothing(params):
  want = quantize.quantized(params, 4, 8)
  mesh = sharding.make_mesh('fsdp=2,tensor=2')
  rules = tuple(toy.llava().partition_rules)
  with jax.set_mesh(mesh):
    placed = jax.device_put(params, sharding.shardings(params, rules, mesh))
    got = quantize.quantized(placed, 4, 8, rules=rules)
  assert toy.relative_error(got, want) < 1e-6


def test_a_change_below_half_a_step_is_undone(params):
  """A model that hides by small changes is caught: the old one comes back."""
  old = quantize.quantized(params, 4, 8)
  rng = np.random.default_rng(0)

  def nudge(name, x):
    if not _is_matrix(name):
      return x
    axis = -2 if name.endswith('kernel') else -1
    _, step = _reference(x, 4, 8, axis)
    inner = np.abs(x) < 6.5 * step  # the largest stay, and so the scale
    return x + jnp.asarray(inner * step * rng.uniform(-0.45, 0.45, x.shape))

  hidden = tree_lib.map_with_name(nudge, old)
  assert toy.relative_error(hidden, old) > 0.01
  again = quantize.quantized(hidden, 4, 8)
  assert toy.relative_error(again, old) < 1e-6


def test_every_format_is_asked_the_same(tmp_path, monkeypatch):
  """The format of the parameters themselves is the plain score."""
  job = small_job(tmp_path, monkeypatch)
  job.config.attacks.quantize.rows = 5
  with jax.set_mesh(job.mesh):
    found = quantize.quantize(job, 'ga', tmp_path / 'ga')
    look = asking.make_look(job, asking.headline_rows(job, 'vqa', most=5))
    want = look(quantize.runs.final_params(job, 'ga'))
  cases = list(dict.fromkeys(row['case'] for row in found))
  assert cases == ['as it is', *quantize.FORMATS]
  metrics = [row['metric'] for row in found if row['case'] == 'int4']
  assert metrics == [
    'forget vqa',
    'forget vqa, nll',
    'forget qa',
    'retain vqa',
    'retain qa',
  ]
  assert {row['n'] for row in found} == {5}
  nll = [row['value'] for row in found if row['metric'] == 'forget vqa, nll']
  assert nll[0] == pytest.approx(want['nll'], rel=1e-6)
  assert abs(nll[1] - nll[0]) < 0.1 and len(set(nll)) >= 4
  silent = job._replace(data=job.data._replace(tasks={}))
  with pytest.raises(UserError, match='answered in words'):
    quantize.quantize(silent, 'ga', tmp_path / 'ga')
