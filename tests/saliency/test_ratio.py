"""Saliency: the ratio, its ties, and the preserve sets of each component."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from mmu_jax import errors
from mmu_jax import saliency as saliency_lib
from mmu_jax import tree as tree_lib

pytestmark = pytest.mark.usefixtures('quick_compile')

RULES = toy.COMPONENTS
EPS = saliency_lib.EPS


def _normalized(tree):
  """Each entry over the mean of its component, in float64."""
  flat = tree_lib.flatten(tree)
  made = {}
  for rule in RULES.values():
    inside = {n: np.float64(x) for n, x in flat.items() if n.startswith(rule)}
    mean = np.mean(np.concatenate([x.ravel() for x in inside.values()]))
    made |= {n: x / mean for n, x in inside.items()}
  return made


def _shares(forget, preserves):
  """The normalised saliency to sets that restrict every component."""
  sets = {str(i): tree for i, tree in enumerate(preserves)}
  scores, _ = saliency_lib.component_saliency(
    forget,
    sets,
    protects=dict.fromkeys(RULES, [*sets]),
    components=RULES,
    normalize=True,
  )
  return scores


def _three_importances():
  """Three random importances of very different sizes."""
  scale = lambda tree, c: jax.tree.map(lambda x: c * x, tree)
  make = lambda seed: toy.tree_like(toy.params(0), seed, sign=False)
  return make(1), scale(make(2), 1e3), scale(make(3), 1e-2)


def _component(protects):
  f = toy.tree_like(toy.params(0), 0, sign=False)
  return saliency_lib.component_saliency(
    f, {'vqa': f, 'qa': f}, protects=protects, components=RULES
  )


def _unprotected_component():
  return _component({'vision': ['vqa'], 'language': ['vqa']})


def _unknown_preserve_set():
  return _component(dict.fromkeys(RULES, ['vqa', 'text']))


def _no_preserve():
  return saliency_lib.saliency(toy.params(0), [])


def _forget_set_to_preserve():
  f = {'w': jnp.ones(1)}
  return saliency_lib.component_saliency(
    f, {'forget': f}, protects={'all': ['forget']}, components={'all': ''}
  )


@pytest.mark.parametrize(
  'wrong, message',
  [
    (_no_preserve, 'at least one preserve importance'),
    (_forget_set_to_preserve, "cannot be called 'forget'.*another name"),
    (
      _unprotected_component,
      r"component 'projector' must name preserve sets .*got \[\]; known: "
      'vqa, qa.*would change freely',
    ),
    (
      _unknown_preserve_set,
      r"component 'vision' .*got \['vqa', 'text'\]; known: vqa, qa",
    ),
  ],
)
def test_an_error_states_the_rule_the_value_and_what_to_do(wrong, message):
  with pytest.raises(ValueError, match=message):
    wrong()


def test_an_importance_of_another_tree_is_named():
  f, a, _ = _three_importances()
  del a['language_model']['norm']
  message = "importance of 'vqa' must .*norm.* miss"
  with pytest.raises(ValueError, match=message):
    saliency_lib.component_saliency(
      f, {'vqa': a}, protects=dict.fromkeys(RULES, ['vqa']), components=RULES
    )


PROTECTS = {'vision': ['vqa'], 'projector': ['vqa'], 'language': ['vqa', 'qa']}


@pytest.mark.parametrize('normalize', [False, True])
def test_each_component_is_restricted_by_its_own_preserve_sets(normalize):
  f, vqa, qa = _three_importances()
  scores, _ = saliency_lib.component_saliency(
    f,
    {'vqa': vqa, 'qa': qa},
    protects=PROTECTS,
    components=RULES,
    normalize=normalize,
  )
  plain = lambda t: {k: np.float64(x) for k, x in tree_lib.flatten(t).items()}
  f, vqa, qa = map(_normalized if normalize else plain, (f, vqa, qa))
  for name, got in tree_lib.flatten(scores).items():
    below = vqa[name]
    if name.startswith('language_model/'):
      # One set in the paper: the mean. By shares: what either set needs.
      below = (
        np.maximum(below, qa[name]) if normalize else ((below + qa[name]) / 2)
      )
    want = (f[name] + EPS) / (below + EPS)
    np.testing.assert_allclose(got, want, rtol=1e-5, err_msg=name)


def test_ties_are_where_the_sets_of_that_component_see_nothing():
  f, vqa, qa = _three_importances()
  for i, tree in enumerate((f, vqa, qa)):
    kill = toy.random_mask(tree, 20 + i, share=0.8)
    tree |= jax.tree.map(lambda x, k: jnp.where(k, 1e-16, x), tree, kill)
  _, ties = saliency_lib.component_saliency(
    f, {'vqa': vqa, 'qa': qa}, protects=PROTECTS, components=RULES
  )
  flat = [tree_lib.flatten(tree) for tree in (f, vqa, qa)]
  for name, got in tree_lib.flatten(ties).items():
    f_, vqa_, qa_ = (np.asarray(tree[name]) < EPS for tree in flat)
    want = f_ & vqa_ & (qa_ | (not name.startswith('language_model/')))
    np.testing.assert_array_equal(got, want, err_msg=name)
  assert 0.3 < toy.vector(ties).mean() < 0.7


@pytest.mark.parametrize('normalize', [False, True])
def test_a_component_is_scored_as_if_it_stood_alone(normalize):
  """Bit for bit: the whole-tree saliency with that component's sets."""
  f, vqa, qa = _three_importances()
  scores, _ = saliency_lib.component_saliency(
    f,
    {'vqa': vqa, 'qa': qa},
    protects=PROTECTS,
    components=RULES,
    normalize=normalize,
  )
  sets = {'vision': [vqa], 'projector': [vqa], 'language': [vqa, qa]}
  if not normalize:
    mean = jax.tree.map(lambda a, b: (a + b) / 2, vqa, qa)
    sets['language'] = [mean]
  for component, chosen in sets.items():
    score = _shares if normalize else saliency_lib.saliency
    alone = tree_lib.flatten(score(f, chosen))
    for name, got in tree_lib.flatten(scores).items():
      if tree_lib.component_of(name, RULES) == component:
        np.testing.assert_array_equal(got, alone[name], err_msg=name)


def test_in_the_whole_model_only_what_is_never_run_is_dead():
  found = toy.llava_importance()
  dead = tree_lib.flatten(saliency_lib.dead(found, found))
  tower = 'vision_tower/vision_model'
  unused = {
    f'{tower}/post_layernorm/scale',
    f'{tower}/post_layernorm/bias',
    'language_model/model/embed_tokens/embedding',
  }
  for name, x in dead.items():
    if name.startswith(f'{tower}/encoder/layers/'):
      assert np.all(x[1]), name  # the last layer is not run
      # Softmax does not see a bias of the keys.
      assert np.all(x[0]) == name.endswith('k_proj/bias'), name
    elif name in unused:
      assert np.any(x)
    else:
      assert not np.any(x), name
  tokens = np.asarray(dead['language_model/model/embed_tokens/embedding'])
  assert np.all(tokens.all(1) == tokens.any(1))  # a token occurs or does not


@pytest.mark.parametrize('score', [saliency_lib.saliency, _shares])
def test_the_saliency_of_a_set_with_itself_is_one_everywhere(score):
  params = toy.params(8)
  batches = [toy.batch(800 + i, 4, packed=False) for i in range(3)]
  found = saliency_lib.importance(toy.loss, params, batches)
  dead = saliency_lib.dead(found, found)
  assert 100 < toy.vector(dead).sum() < 700  # tokens that never occurred
  for preserve in ([found], [found, found]):
    assert np.all(toy.vector(score(found, preserve)) == 1)
  assert np.all(toy.vector(saliency_lib.saliency(found, found)) == 1)


@pytest.mark.parametrize('eps', [1e-15, 1e-3])
def test_saliency_is_the_ratio_to_the_largest_preserve_importance(eps):
  f, a, b = _three_importances()
  got = saliency_lib.saliency(f, [a, b], eps=eps)
  top = np.maximum(toy.vector(a), toy.vector(b))
  want = (toy.vector(f) + eps) / (top + eps)
  np.testing.assert_allclose(toy.vector(got), want, rtol=1e-6)


def test_normalised_saliency_compares_shares_and_not_sizes():
  f, a, b = _three_importances()
  got = _shares(f, [a, b])
  share_f, share_a, share_b = map(_normalized, (f, a, b))
  for name, x in tree_lib.flatten(got).items():
    want = (share_f[name] + EPS) / (
      np.maximum(share_a[name], share_b[name]) + EPS
    )
    np.testing.assert_allclose(x, want, rtol=1e-5)
  scaled = jax.tree.map(lambda x: 1e4 * x, f)
  again = _shares(scaled, [a, b])
  assert toy.relative_error(again, got) < 1e-6


def test_a_component_that_is_never_used_stays_without_importance():
  f, a, _ = _three_importances()
  a['vision_tower'] = jax.tree.map(jnp.zeros_like, a['vision_tower'])
  got = _shares(f, [a])
  assert np.all(np.isfinite(toy.vector(got)))
  assert np.all(toy.vector(got['vision_tower']) > 1e6)


def test_saliency_of_other_trees_is_an_error():
  f, a, _ = _three_importances()
  del a['language_model']['norm']
  with pytest.raises(ValueError, match='preserve importance.*1 .*norm.* miss'):
    saliency_lib.saliency(f, [f, a])


def test_dead_is_below_eps_in_every_set_and_not_at_it():
  tree = lambda *x: {'w': jnp.asarray(x, jnp.float32)}
  dead = lambda *trees: saliency_lib.dead(*trees, eps=1.0)['w'].tolist()
  f, p = tree(0.5, 0.5, 1.0, 2.0), tree(0.9, 1.0, 0.5, 2.0)
  assert dead(f, p) == [True, False, False, False]
  assert dead(f, [f, p]) == [True, False, False, False]
  assert dead(f, f) == [True, True, False, False]


def test_the_mean_of_more_entries_than_an_int32_counts():
  """As in the language model of a 7B model, of 6.7 billion weights."""
  shapes = {'w': jax.ShapeDtypeStruct((2, 2**31), jnp.float32)}
  means = lambda tree: saliency_lib.component_means(tree, {'language': '.*'})
  assert jax.eval_shape(means, shapes)['language'].shape == ()


@pytest.mark.parametrize('normalize', [False, True])
def test_leaves_read_one_by_one_give_the_bits_of_whole_trees(normalize):
  """What makes masks from a disk: a leaf of each importance, and its means."""
  f, vqa, qa = _three_importances()
  vqa['language_model']['norm'] *= 0
  trees = {'forget': f, 'vqa': vqa, 'qa': qa}
  leaves = {k: tree_lib.flatten(tree) for k, tree in trees.items()}
  means = {
    k: {
      c: float(m) for c, m in saliency_lib.component_means(tree, RULES).items()
    }
    for k, tree in trees.items()
  }
  reads = []

  def read(importance, name):
    reads.append((importance, name))
    return leaves[importance][name]

  got = saliency_lib.score_leaves(
    read,
    jax.eval_shape(lambda: f),
    lambda scores, ties: (scores, ties),
    protects=PROTECTS,
    components=RULES,
    means=means if normalize else None,
  )
  want = saliency_lib.component_saliency(
    f,
    {'vqa': vqa, 'qa': qa},
    protects=PROTECTS,
    components=RULES,
    normalize=normalize,
  )
  for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    np.testing.assert_array_equal(x, y)
  assert len(reads) == len(set(reads))  # each leaf of each importance once
  assert not any(i == 'qa' and 'language' not in n for i, n in reads)


class _Pair(NamedTuple):
  """Parameters whose root is a NamedTuple."""

  w: Any
  b: Any


# Trees of two leaves, whatever holds them.
ROOTS = {
  'dict': lambda w, b: {'w': w, 'b': b},
  'tuple': lambda w, b: (w, b),
  'list': lambda w, b: [w, b],
  'NamedTuple': _Pair,
  'nested': lambda w, b: ([w], (b,)),
}


def _leaves(seed, *, shape=(2,)):
  rng = np.random.default_rng(seed)
  draw = lambda: jnp.asarray(rng.uniform(1, 2, shape), jnp.float32)
  return draw(), draw()


@pytest.mark.parametrize('shape', [(2,), ()], ids=['vectors', 'numbers'])
@pytest.mark.parametrize('root', ROOTS)
def test_the_root_of_the_parameters_may_be_any_tree(root, shape):
  """One preserve set with a sequence for its root is not several sets."""
  make = ROOTS[root]
  f, a, b = (_leaves(seed, shape=shape) for seed in (1, 2, 3))
  for score in (saliency_lib.saliency, saliency_lib.dead):
    score = functools.partial(score, eps=1.5)
    for preserve, several in (
      (make(*a), a),
      ([make(*a), make(*b)], jax.tree.map(jnp.maximum, a, b)),
      ((make(*a), make(*b)), jax.tree.map(jnp.maximum, a, b)),
    ):
      got = score(make(*f), preserve)
      want = [score({'x': x}, {'x': p})['x'] for x, p in zip(f, several)]
      assert jax.tree.structure(got) == jax.tree.structure(make(*f))
      named = jax.tree.leaves(make(*want))
      for x, y in zip(jax.tree.leaves(got), named, strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize('score', ['saliency', 'dead'])
def test_a_preserve_set_of_another_root_is_an_error(score):
  (w, b), score = _leaves(1), getattr(saliency_lib, score)
  for preserve in ((w,), {'w': w}, _Pair(w, b), [(w, b), (w,)], [w, b, w]):
    with pytest.raises(errors.UserError, match='a preserve importance must'):
      score((w, b), preserve)
