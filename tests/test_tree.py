"""Trees by path: names, components, counts, and the check of two trees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from mmu_jax import tree as tree_lib


def test_every_leaf_of_a_model_has_one_name_and_flatten_keeps_the_order():
  params = toy.llava_params(0)
  leaves = tree_lib.flatten(params)
  assert len(leaves) == len(jax.tree.leaves(params)) == 39
  for mine, jaxs in zip(leaves.values(), jax.tree.leaves(params)):
    assert mine is jaxs
  name = 'language_model/model/layers/self_attn/q_proj/kernel'
  layers = params['language_model']['model']['layers']
  assert leaves[name] is layers['self_attn']['q_proj']['kernel']


def test_map_with_name_passes_the_leaves_of_all_trees():
  a, b = toy.params(0), toy.params(1)
  got = tree_lib.map_with_name(lambda name, x, y: (name, x, y), a, b)
  is_leaf = lambda x: isinstance(x, tuple)
  flat = jax.tree.leaves(got, is_leaf=is_leaf)
  assert [name for name, _, _ in flat] == list(tree_lib.flatten(a))
  assert all(x is tree_lib.flatten(a)[name] for name, x, _ in flat)
  assert all(y is tree_lib.flatten(b)[name] for name, _, y in flat)


def test_count_is_the_sum_of_the_sizes_scalars_included():
  params = toy.params(0)
  assert tree_lib.count(params) == toy.vector(params).size == 786
  shapes = jax.eval_shape(lambda: params)
  assert tree_lib.count(shapes) == 786


def test_every_parameter_of_the_model_belongs_to_one_component():
  found = {
    tree_lib.component_of(name, toy.llava().components)
    for name in tree_lib.flatten(toy.llava_params(0))
  }
  assert found == {'vision', 'projector', 'language'}


@pytest.mark.parametrize(
  'rules, found',
  [
    ({'vision': 'vision_tower/'}, r'\[\]'),
    ({'a': 'lora', 'b': 'lora_x'}, r"\['a', 'b'\]"),
  ],
)
def test_a_parameter_of_no_component_or_of_two_is_an_error(rules, found):
  with pytest.raises(ValueError, match=f'exactly one component.*{found}.*Give'):
    tree_lib.component_of('lora_x/kernel', rules)


def test_a_component_is_searched_from_the_start_of_the_name_only():
  rules = {'vision': 'vision_tower/', 'language': 'language_model/'}
  name = 'language_model/vision_tower/kernel'
  assert tree_lib.component_of(name, rules) == 'language'


def test_by_component_takes_each_leaf_from_the_tree_of_its_component():
  trees = {name: toy.params(i) for i, name in enumerate(toy.COMPONENTS)}
  got = tree_lib.flatten(tree_lib.by_component(trees, toy.COMPONENTS))
  for name, leaf in got.items():
    component = tree_lib.component_of(name, toy.COMPONENTS)
    assert leaf is tree_lib.flatten(trees[component])[name]


def _without(params):
  del params['language_model']['norm']
  return params


def _renamed(params):
  return {'base_model': params}


def _reshaped(params):
  params['language_model']['norm'] = jnp.ones(toy.WIDTH + 1)
  return params


@pytest.mark.parametrize(
  'change, message',
  [
    (_without, r'1 \(language_model/norm\) missing, 0 unexpected, 0 of'),
    (_renamed, r'9 \(.*, \.\.\.\) missing, 9 \(base_model/.*\) unexpected'),
    (_reshaped, r'0 missing, 0 .*norm: \(7,\) instead of \(6,\)\) of an'),
  ],
)
def test_trees_that_differ_are_named_leaf_by_leaf(change, message):
  with pytest.raises(ValueError, match=message) as error:
    tree_lib.check_same(
      change(toy.params(0)),
      toy.params(1),
      got_name='the mask',
      want_name='the parameters',
    )
  assert str(error.value).startswith('the mask must have the leaves of the par')
  assert 'make it again' in str(error.value)


def test_trees_that_agree_pass_whatever_their_values_dtypes_and_key_order():
  a, b = toy.params(0), toy.params(1, jnp.bfloat16)
  b = dict(reversed(b.items()))
  names = dict(got_name='a', want_name='b')
  tree_lib.check_same(a, b, **names)
  tree_lib.check_same(jax.eval_shape(lambda: a), b, **names)
  b['language_model']['norm'] = np.ones(9)
  tree_lib.check_same(a, b, shapes=False, **names)
