"""Merged leaves and gradients of their factors, against float64 formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from mmu_jax import lora as lora_lib
from mmu_jax import masks
from mmu_jax import models
from mmu_jax import sharding
from mmu_jax import tree as tree_lib
from mmu_jax.errors import UserError

pytestmark = pytest.mark.usefixtures('quick_compile')
KINDS = (lora_lib.MASKED, lora_lib.FREE)
F64 = np.float64


def _adapters(params, lora, seed, kinds=KINDS):
  """Adapters all of whose entries are random."""
  made = lora_lib.new_adapters(jax.random.key(seed), params, lora, kinds)
  return toy.tree_like(made, seed)


def _lora(params, **options):
  names = lora_lib.choose_targets(['all-linear'], params, {})
  return lora_lib.Lora(names, **{'rank': 3, 'alpha': 5.0} | options)


def _f64(tree):
  return {k: np.asarray(x, F64) for k, x in tree_lib.flatten(tree).items()}


@pytest.mark.parametrize('kinds', [KINDS, KINDS[:1], KINDS[1:]])
def test_merged_leaves_and_gradients_are_the_dense_formulas(kinds):
  """dB = s A^T (M * G) and dA = s (M * G) B^T in our layout, to 1e-6."""
  params, mask = toy.params(1), toy.random_mask(toy.params(1), 2)
  lora = _lora(params)
  adapters = _adapters(params, lora, 3, kinds)
  direction = toy.tree_like(params, 4)  # G of a loss that is linear in W

  def loss(adapters, mask):
    whole = lora_lib.merge(params, adapters, mask, scale=lora.scale)
    products = jax.tree.map(lambda w, g: jnp.sum(w * g), whole, direction)
    return jax.tree.reduce(jnp.add, products), whole

  grads, whole = jax.grad(loss, has_aux=True)(adapters, masks.pack(mask))
  base, parts, m = _f64(params), _f64(adapters), _f64(mask)
  g, s = _f64(direction), 5.0 / 3
  want, want_grads = dict(base), {}
  for name in lora.targets:
    for kind in kinds:
      a, b = (parts[f'{kind}/{name}/{x}'] for x in 'AB')
      on = m[name] if kind == 'masked' else 1.0
      want[name] = want[name] + on * (s * a @ b)
      back = on * g[name]
      flip = lambda x: np.swapaxes(x, -1, -2)
      want_grads[f'{kind}/{name}/A'] = s * back @ flip(b)
      want_grads[f'{kind}/{name}/B'] = s * flip(a) @ back
  assert set(want_grads) == set(_f64(grads)) and len(lora.targets) == 3
  for name, x in _f64(whole).items():
    np.testing.assert_allclose(x, want[name], rtol=0, atol=1e-6 * 8)
  for name, x in _f64(grads).items():
    bound = 1e-6 * np.abs(want_grads[name]).max()
    np.testing.assert_allclose(x, want_grads[name], rtol=0, atol=bound)
    assert bound > 1e-7


WHOLE = ('language_model/embed_tokens', 'vision_tower/bias')


@pytest.mark.parametrize('kinds', [KINDS, KINDS[:1], KINDS[1:]])
def test_a_leaf_without_factors_changes_by_all_of_its_change(kinds):
  """W + M * D_m + D_f; dD = (M * G) or G, whatever the scale."""
  params, mask = toy.params(1), toy.random_mask(toy.params(1), 2)
  lora = _lora(params, whole=WHOLE)
  fresh = lora_lib.new_adapters(jax.random.key(3), params, lora, kinds)
  changes = {k: x for k, x in _f64(fresh).items() if k.endswith('/D')}
  assert len(changes) == 2 * len(kinds)
  assert not any(x.any() for x in changes.values())
  adapters = _adapters(params, lora, 4, kinds)
  direction = toy.tree_like(params, 5)

  def loss(adapters):
    whole = lora_lib.merge(params, adapters, mask, scale=lora.scale)
    products = jax.tree.map(lambda w, g: jnp.sum(w * g), whole, direction)
    return jax.tree.reduce(jnp.add, products), whole

  grads, whole = jax.grad(loss, has_aux=True)(adapters)
  base, parts, m, g = map(_f64, (params, adapters, mask, direction))
  got, slopes = _f64(whole), _f64(grads)
  for name in WHOLE:
    want = base[name]
    for kind in kinds:
      on = m[name] if kind == 'masked' else 1.0
      want = want + on * parts[f'{kind}/{name}/D']
      slope = slopes[f'{kind}/{name}/D']
      np.testing.assert_allclose(slope, on * g[name], rtol=1e-6)
    np.testing.assert_allclose(got[name], want, rtol=0, atol=1e-6)
    assert np.abs(want - base[name]).max() > 0.1
  frozen = got.keys() - {*WHOLE, *lora.targets}
  assert frozen and all((got[k] == base[k]).all() for k in frozen)


def test_leaves_that_are_trained_whole_are_components_or_regexes():
  model = models.build(models.LlavaConfig())
  choose = lambda *words: lora_lib.choose_whole(
    words, model.abstract_params, model.components
  )
  leaves = list(tree_lib.flatten(model.abstract_params))
  found = choose('projector', r'vision_tower/.*/bias')
  assert [n for n in leaves if n in found] == list(found)  # their order
  projector = [n for n in found if n.startswith('multi_modal_projector/')]
  assert len(projector) == 4
  assert all(n.endswith('bias') for n in {*found} - {*projector})
  assert choose() == ()
  assert {*choose('vision')} == {n for n in leaves if n.startswith('vision_')}
  with pytest.raises(UserError, match="whole are components.*'tower' names no"):
    choose('tower')


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_weights_outside_of_the_mask_keep_their_bits(dtype):
  """-0.0 and subnormal numbers too; inside nearly all of them move."""
  params = toy.params(5, dtype)
  odd = jnp.asarray([-0.0, 1e-40, -1e-40, 0.0, -0.0], dtype)
  kernel = params['vision_tower']['kernel'].at[0].set(odd)
  params['vision_tower']['kernel'] = kernel
  mask, lora = toy.random_mask(params, 6), _lora(params)
  adapters = _adapters(params, lora, 7, KINDS[:1])
  whole = jax.jit(lora_lib.merge)(params, adapters, mask, scale=1.0)
  bits = np.uint32 if dtype == jnp.float32 else np.uint16
  found = tree_lib.flatten(whole)
  on = {k: np.asarray(x) for k, x in tree_lib.flatten(mask).items()}
  for name, w in tree_lib.flatten(params).items():
    same = np.asarray(w).view(bits) == np.asarray(found[name]).view(bits)
    if name in lora.targets:
      assert same[~on[name]].all() and same[on[name]].mean() < 0.1
    else:
      assert same.all() and found[name] is not None


def test_fresh_adapters_change_nothing_and_have_gradients_of_b_alone():
  """So the importance of a fresh A is 0: masks are of whole weights."""
  params = toy.params(8)
  lora = _lora(params)
  adapters = lora_lib.new_adapters(jax.random.key(1), params, lora, ['free'])
  made = toy.batch(9)
  loss = lambda a: toy.loss(lora_lib.merge(params, a, scale=2.0), made)
  np.testing.assert_allclose(loss(adapters), toy.loss(params, made), rtol=1e-6)
  for name, g in _f64(jax.jit(jax.grad(loss))(adapters)).items():
    assert (np.abs(g).max() > 1e-6) == name.endswith('/B')
  for name, x in _f64(adapters).items():
    if name.endswith('/A'):
      bound = x.shape[-2] ** -0.5
      assert 0.6 * bound < np.abs(x).max() <= bound


def test_rslora_divides_by_the_root_of_the_rank():
  params = toy.params(1)
  scale = lambda **options: _lora(params, rank=16, alpha=8.0, **options).scale
  assert (scale(), scale(rslora=True)) == (0.5, 2.0)


def test_a_mask_of_another_model_is_an_error():
  params = toy.params(1)
  adapters = _adapters(params, _lora(params), 2, KINDS[:1])
  mask = toy.random_mask(params, 3)
  del mask['language_model']['lm_head']
  with pytest.raises(UserError, match='the mask must have the leaves of the'):
    lora_lib.merge(params, adapters, mask, scale=1.0)
  mask = toy.random_mask(params, 3)
  mask['vision_tower']['kernel'] = mask['vision_tower']['kernel'].T
  with pytest.raises(UserError, match='was made for another model'):
    lora_lib.merge(params, adapters, mask, scale=1.0)
  with pytest.raises(UserError, match='need the mask that they were trained'):
    lora_lib.merge(params, adapters, scale=1.0)


def test_adapters_of_another_model_are_an_error():
  params = toy.params(1)
  adapters = _adapters(params, _lora(params), 2, KINDS[1:])
  base = dict(params, vision_tower={'kernel': jnp.ones((3, 5))})
  with pytest.raises(UserError, match="'free/vision_tower/kernel/A'.*12, 3.*3"):
    lora_lib.merge(base, adapters, scale=1.0)
  adapters = {'free': {'vision_tower': {'kernel': {'D': jnp.ones((12, 4))}}}}
  with pytest.raises(UserError, match='12, 4.*which has .12, 5'):
    lora_lib.merge(params, adapters, scale=1.0)


def test_a_turn_trains_the_kind_of_its_mask():
  params = toy.params(1)
  adapters = _adapters(params, _lora(params), 2)
  for masked in (True, False):
    found = lora_lib.trained(adapters, masked)
    flags = {k: bool(jnp.all(x)) for k, x in tree_lib.flatten(found).items()}
    assert all(on == (('masked/' in k) == masked) for k, on in flags.items())
    assert len(flags) == 12
  assert lora_lib.trained({'free': adapters['free']}, False) is None
  assert lora_lib.kinds_of([False, False]) == ('free',)


QWEN = models.Qwen2VLConfig(tie_word_embeddings=True)
CASES = {'llava': models.LlavaConfig(), 'qwen2_vl': QWEN}


@pytest.mark.parametrize('family', sorted(CASES))
def test_all_linear_is_every_linear_layer_but_the_output(family):
  """At 7B, from shapes: the counts are those of nn.Linear in transformers."""
  model = models.build(CASES[family])
  ends = models.MODELS[family].convolutions(model.config)
  choose = lambda *words: lora_lib.choose_targets(
    words, model.abstract_params, model.components, ends
  )
  found, leaves = choose('all-linear'), tree_lib.flatten(model.abstract_params)
  depths = [s[0] if len(s := leaves[name].shape) == 3 else 1 for name in found]
  want = {'llava': 7 * 32 + 6 * 24 + 2, 'qwen2_vl': 7 * 28 + 4 * 32 + 2}
  assert sum(depths) == want[family]
  assert not any('lm_head' in n or 'embed' in n for n in found)
  words = choose('language'), choose('vision', 'projector')
  assert sorted(words[0] + words[1]) == sorted(found) and len(words[0]) == 7
  assert len(choose(r'.*/(q|v)_proj/kernel')) == (4 if family == 'llava' else 2)
  with pytest.raises(UserError, match='embeddings, norms or biases'):
    choose('.*embed_tokens/.*')
  with pytest.raises(UserError, match="'qkv_proj' names none"):
    choose('qkv_proj')
  if family == 'llava':
    assert len(choose('.*lm_head/kernel')) == 1


def test_adapters_are_split_as_their_kernels():
  rules = models.MODELS['llava'].partition_rules
  mesh = sharding.make_mesh('fsdp=4,tensor=2')
  made = lora_lib.adapter_rules(rules)
  spec = lambda name, shape: tuple(
    sharding.spec_of(f'mu/free/language_model/{name}', shape, made, mesh)
  )
  assert spec('layers/q_proj/kernel/A', (2, 16, 4)) == (None, 'fsdp', None)
  assert spec('layers/q_proj/kernel/B', (2, 4, 16)) == (None, None, 'tensor')
  assert spec('layers/o_proj/kernel/A', (2, 16, 4)) == (None, 'tensor', None)
  assert spec('layers/o_proj/kernel/B', (2, 4, 16)) == (None, None, 'fsdp')
  whole = spec('layers/o_proj/kernel/D', (2, 16, 16))
  assert whole == (None, 'tensor', 'fsdp')
