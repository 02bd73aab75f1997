"""Each component has preserve sets of its own, and so has its control."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from mmu_jax import masks
from mmu_jax import saliency as saliency_lib
from mmu_jax import tree as tree_lib
from mmu_jax.saliency import ratio as restriction

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


def _three_importances():
  """Three random importances of very different sizes."""
  scale = lambda tree, c: jax.tree.map(lambda x: c * x, tree)
  make = lambda seed: toy.tree_like(toy.params(0), seed, sign=False)
  return make(1), scale(make(2), 1e3), scale(make(3), 1e-2)


def _component(protects):
  f = toy.tree_like(toy.params(0), 0, sign=False)
  return restriction.component_saliency(
    f, {'vqa': f, 'qa': f}, protects=protects, components=RULES
  )


def _unprotected_component():
  return _component({'vision': ['vqa'], 'language': ['vqa']})


def _unknown_preserve_set():
  return _component(dict.fromkeys(RULES, ['vqa', 'text']))


@pytest.mark.parametrize(
  'wrong, message',
  [
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
    restriction.component_saliency(
      f, {'vqa': a}, protects=dict.fromkeys(RULES, ['vqa']), components=RULES
    )


PROTECTS = {'vision': ['vqa'], 'projector': ['vqa'], 'language': ['vqa', 'qa']}


@pytest.mark.parametrize('normalize', [False, True])
def test_each_component_is_restricted_by_its_own_preserve_sets(normalize):
  f, vqa, qa = _three_importances()
  scores, _ = restriction.component_saliency(
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
  _, ties = restriction.component_saliency(
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
  scores, _ = restriction.component_saliency(
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
    alone = saliency_lib.saliency(
      f, chosen, normalize=RULES if normalize else None
    )
    alone = tree_lib.flatten(alone)
    for name, got in tree_lib.flatten(scores).items():
      if tree_lib.component_of(name, RULES) == component:
        np.testing.assert_array_equal(got, alone[name], err_msg=name)


@pytest.mark.parametrize('seed', [0, 1])
def test_top_share_has_the_asked_density_in_each_component(seed):
  scores = toy.tree_like(toy.params(0), seed, sign=False)
  shares = {'vision': 0.3, 'projector': 0.0, 'language': 0.05}
  got = restriction.top_share(scores, shares, RULES)
  found = masks.density(got, components=RULES)
  sizes = {'vision': 65, 'projector': 30, 'language': 691}
  for component, size in sizes.items():
    assert found[component] * size == pytest.approx(
      round(shares[component] * size)
    )
  for name, rule in RULES.items():
    pick = lambda t, r=rule: np.concatenate(
      [np.ravel(x) for n, x in tree_lib.flatten(t).items() if n.startswith(r)]
    )
    marked, values = pick(got), pick(scores)
    if shares[name]:
      assert values[marked].min() > values[~marked].max()
