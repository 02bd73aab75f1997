"""Masks from scores and from importances, and the top-k control."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from mmu_jax import masks
from mmu_jax import saliency as saliency_lib
from mmu_jax import tree as tree_lib

pytestmark = pytest.mark.usefixtures('quick_compile')

RULES = toy.COMPONENTS
PROTECTS = {'vision': ['vqa'], 'projector': ['vqa'], 'language': ['vqa', 'qa']}
FORGET, VQA, QA = 'forget', 'vqa', 'qa'


def _importances():
  """Three random importances with ties, of very different sizes."""
  found = {}
  for i, (name, scale) in enumerate({FORGET: 1, VQA: 1e3, QA: 1e-2}.items()):
    tree = toy.tree_like(toy.params(0), i, sign=False)
    unused = toy.random_mask(tree, 20 + i, share=0.5)
    found[name] = jax.tree.map(
      lambda x, k, c=scale: jnp.where(k, 0, c * x), tree, unused
    )
  return found


def _by_hand(found, threshold, normalize, ties_are_salient):
  """The mask and the ties in float64 NumPy: leaf -> (bool, bool)."""
  flat = {
    k: {n: np.float64(x) for n, x in tree_lib.flatten(tree).items()}
    for k, tree in found.items()
  }
  made = {}
  for component, rule in RULES.items():
    inside = [n for n in flat[FORGET] if n.startswith(rule)]
    join = lambda k, names=inside: np.concatenate(
      [flat[k][n].ravel() for n in names]
    )
    mean = {k: join(k).mean() if normalize else 1.0 for k in flat}
    combine = np.max if normalize else np.mean
    for n in inside:
      sets = [flat[k][n] for k in PROTECTS[component]]
      shares = [flat[k][n] / mean[k] for k in PROTECTS[component]]
      below = combine(shares, axis=0) + 1e-15
      ratio = (flat[FORGET][n] / mean[FORGET] + 1e-15) / below
      ties = np.max([flat[FORGET][n], *sets], axis=0) < 1e-15
      made[n] = (ratio >= threshold) & (ties_are_salient | ~ties), ties
  return made


@pytest.mark.parametrize('ties_are_salient', [False, True])
@pytest.mark.parametrize('normalize', [False, True])
@pytest.mark.parametrize('threshold', [1.0, 3.0])
def test_a_mask_from_importances_is_the_one_computed_by_hand(
  threshold, normalize, ties_are_salient
):
  found = _importances()
  leaves = {k: tree_lib.flatten(tree) for k, tree in found.items()}
  means = {
    k: saliency_lib.component_means(tree, RULES) for k, tree in found.items()
  }
  mask, ties = saliency_lib.mask_from_importances(
    lambda importance, name: leaves[importance][name],
    found[FORGET],
    protects=PROTECTS,
    components=RULES,
    means=means if normalize else None,
    threshold=threshold,
    ties_are_salient=ties_are_salient,
  )
  want = _by_hand(found, threshold, normalize, ties_are_salient)
  for name, x in tree_lib.flatten(mask).items():
    np.testing.assert_array_equal(x, want[name][0], err_msg=name)
    got_ties = tree_lib.flatten(ties)[name]
    np.testing.assert_array_equal(got_ties, want[name][1], err_msg=name)
  assert toy.vector(ties).sum() > 100  # of 786


@pytest.mark.parametrize('ties_are_salient', [False, True])
@pytest.mark.parametrize('density', [0.1, 0.4])
def test_a_density_marks_the_highest_ratios_of_each_component(
  density, ties_are_salient
):
  """In the place of a threshold: the one that as many ratios reach."""
  found = _importances()
  leaves = {k: tree_lib.flatten(tree) for k, tree in found.items()}
  means = {
    k: saliency_lib.component_means(tree, RULES) for k, tree in found.items()
  }
  make = lambda **choice: saliency_lib.mask_from_importances(
    lambda importance, name: leaves[importance][name],
    found[FORGET],
    protects=PROTECTS,
    components=RULES,
    means=means,
    ties_are_salient=ties_are_salient,
    **choice,
  )
  mask, ties = make(density=density)
  scores, _ = saliency_lib.component_saliency(
    found[FORGET],
    {k: tree for k, tree in found.items() if k != FORGET},
    protects=PROTECTS,
    components=RULES,
    normalize=True,
  )
  scores = {k: np.array(x) for k, x in tree_lib.flatten(scores).items()}
  mask, ties = tree_lib.flatten(mask), tree_lib.flatten(ties)
  for rule in RULES.values():
    inside = [name for name in mask if name.startswith(rule)]
    join = lambda of, names=inside: np.concatenate(
      [np.ravel(of[name]) for name in names]
    )
    alive = np.where(ties_are_salient | ~join(ties), join(scores), 0)
    lowest = np.sort(alive)[::-1][max(round(density * alive.size), 1) - 1]
    np.testing.assert_array_equal(join(mask), alive >= lowest)
    assert ties_are_salient or abs(join(mask).mean() - density) < 0.02


@pytest.mark.parametrize('choice, reads', [({}, 1), (dict(density=0.3), 3)])
def test_importances_are_read_so_often(choice, reads):
  """They come from a disk: each reading of a 7B model is 28 GB."""
  read = collections.Counter()
  found = {FORGET: jnp.arange(8.0), VQA: jnp.ones(8)}

  def read_leaf(importance, name):
    read[importance, name] += 1
    return found[importance]

  saliency_lib.mask_from_importances(
    read_leaf,
    {'a': jnp.zeros(8), 'b': jnp.zeros(8)},
    protects={'all': [VQA]},
    components={'all': ''},
    **choice,
  )
  assert len(read) == 4 and set(read.values()) == {reads}


def test_ties_stay_frozen_where_a_density_asks_for_more_than_there_is():
  found = {'forget': [4.0, 1.0, 0.0, 0.0, 0.0], 'text': [2.0, 2.0, 0, 0, 0]}
  mask, ties = saliency_lib.mask_from_importances(
    lambda importance, name: jnp.array(found[importance]),
    {'w': jnp.zeros(5)},
    protects={'all': ['text']},
    components={'all': ''},
    density=0.6,
  )
  assert mask['w'].tolist() == [True, True, False, False, False]
  assert ties['w'].tolist() == [False, False, True, True, True]


def test_a_score_at_the_threshold_is_salient_and_the_float_below_is_not():
  below = float(np.nextafter(np.float32(2), np.float32(0)))
  found = {FORGET: jnp.array([2.0, below, 1.0]), VQA: jnp.ones(3)}
  mask, ties = saliency_lib.mask_from_importances(
    lambda importance, _: found[importance],
    {'w': jnp.zeros(3)},
    protects={'all': [VQA]},
    components={'all': ''},
    threshold=2.0,
  )
  assert mask['w'].tolist() == [True, False, False]
  assert not ties['w'].any()


@pytest.mark.parametrize(
  'choice, message',
  [
    (
      dict(threshold=1.0, density=0.5),
      'either threshold or density, got threshold=1.0, densi',
    ),
    ({}, 'either threshold or density, got threshold=None, densi'),
    (dict(density=1.2), r'density is a share in \(0, 1\], got 1.2'),
    (
      dict(density=0.5, scope=lambda name: False),
      'no entry is in scope, so none can be salient',
    ),
  ],
)
def test_an_error_states_the_rule_the_value_and_what_to_do(choice, message):
  with pytest.raises(ValueError, match=message):
    saliency_lib.mask_from_saliency({'w': jnp.ones(3)}, **choice)


@pytest.mark.parametrize('threshold', [0.5, 1.0, 2.0])
def test_a_threshold_marks_the_scores_that_reach_it(threshold):
  scores = toy.tree_like(toy.params(0), 30, sign=False)
  scores['language_model']['norm'] = jnp.full(toy.WIDTH, threshold)
  got = saliency_lib.mask_from_saliency(scores, threshold=threshold)
  np.testing.assert_array_equal(
    toy.vector(got), toy.vector(scores) >= threshold
  )
  assert all(x.dtype == bool for x in jax.tree.leaves(got))
  assert np.all(got['language_model']['norm'])


@pytest.mark.parametrize('density', [1e-4, 0.1, 0.37, 0.9, 1.0])
def test_a_density_marks_that_share_of_the_highest_scores(density):
  scores = toy.tree_like(toy.params(0), 31, sign=False)
  got = toy.vector(saliency_lib.mask_from_saliency(scores, density=density))
  values = toy.vector(scores)
  assert got.sum() == max(round(density * 786), 1)
  assert values[got == 1].min() >= values[got == 0].max(initial=0)


@pytest.mark.parametrize('density', [0.02, 0.3, 0.9])
def test_a_density_holds_among_the_smallest_numbers(density):
  """Squared gradients below 1.2e-38 differ, though XLA compares them as 0."""
  rng = np.random.default_rng(3)
  x = (10.0 ** rng.uniform(-41, -37.5, 4000)).astype(np.float32)
  mask = saliency_lib.mask_from_saliency({'w': jnp.array(x)}, density=density)
  lowest = np.sort(x)[-round(density * x.size)]
  np.testing.assert_array_equal(mask['w'], x >= lowest)
  assert abs(float(np.mean(mask['w'])) - density) < 1e-3
  top = saliency_lib.top_share({'w': jnp.array(x)}, {'a': density}, {'a': ''})
  np.testing.assert_array_equal(top['w'], mask['w'])


def test_equal_scores_at_the_border_of_a_density_are_all_taken():
  scores = {'w': jnp.array([3.0, 2.0, 2.0, 2.0, 1.0])}
  got = saliency_lib.mask_from_saliency(scores, density=0.4)
  assert got['w'].tolist() == [True, True, True, True, False]


@pytest.mark.parametrize('choice', [{'threshold': 0.3}, {'density': 0.5}])
def test_leaves_out_of_scope_and_ties_are_frozen_and_not_forgotten(choice):
  scores = toy.tree_like(toy.params(0), 32, sign=False)
  ties = toy.random_mask(scores, 32)
  inside = lambda name: 'kernel' in name
  got = tree_lib.flatten(
    saliency_lib.mask_from_saliency(scores, ties=ties, scope=inside, **choice)
  )
  assert list(got) == list(tree_lib.flatten(scores))  # every leaf is covered
  for name, x in got.items():
    if inside(name):
      assert not np.any(x & tree_lib.flatten(ties)[name])
      assert np.any(x)
    else:
      assert not np.any(x)
  if 'density' in choice:  # a share of what is in scope
    free = [
      ~np.asarray(t) for n, t in tree_lib.flatten(ties).items() if inside(n)
    ]
    total = sum(f.sum() for f in free)
    assert sum(int(jnp.sum(x)) for x in got.values()) == round(total / 2)


def test_ties_of_another_tree_are_an_error():
  scores = toy.tree_like(toy.params(0), 33)
  with pytest.raises(ValueError, match='ties must have the leaves of the sco'):
    saliency_lib.mask_from_saliency(scores, threshold=1.0, ties={'w': scores})


def _batches(seed, n=3, rows=4):
  options = dict(packed=False, weighted=True)
  return [toy.batch(100 * seed + i, rows, **options) for i in range(n)]


def _saliency_mask(params, forget, preserve, granularity):
  measure = lambda batches: saliency_lib.importance(
    toy.loss, params, batches, granularity=granularity
  )
  f, p = map(measure, (forget, preserve))
  scores = saliency_lib.saliency(f, p)
  ties = saliency_lib.dead(f, p)
  mask = saliency_lib.mask_from_saliency(scores, threshold=1.0, ties=ties)
  return toy.vector(mask), np.abs(np.log(toy.vector(scores)))


@pytest.mark.parametrize('granularity', ['batch', 'example'])
@pytest.mark.parametrize('change', ['padding', 'order'])
def test_the_mask_does_not_see_padding_or_the_order_of_batches(
  granularity, change
):
  params = toy.params(40)
  forget, preserve = _batches(41, n=4), _batches(42, n=4)
  mask, log_ratio = _saliency_mask(params, forget, preserve, granularity)
  if change == 'padding':
    alter = lambda made: [toy.pad(b, 43, rows=2, columns=3) for b in made]
  else:
    alter = lambda made: [made[i] for i in (2, 0, 3, 1)]
  again, _ = _saliency_mask(params, alter(forget), alter(preserve), granularity)
  near_ties = (log_ratio < 1e-4) & (log_ratio > 0)
  assert near_ties.sum() <= 2  # of 786
  np.testing.assert_array_equal(again[~near_ties], mask[~near_ties])
  assert 0.1 < mask.mean() < 0.9


@pytest.mark.parametrize('seed', [0, 1])
def test_top_share_has_the_asked_density_in_each_component(seed):
  scores = toy.tree_like(toy.params(0), seed, sign=False)
  shares = {'vision': 0.3, 'projector': 0.0, 'language': 0.05}
  got = saliency_lib.top_share(scores, shares, RULES)
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


def test_the_top_mask_reads_leaves_one_by_one():
  scores = toy.tree_like(toy.params(0), 3, sign=False)
  leaves = tree_lib.flatten(scores)
  shares = {'vision': 0.3, 'projector': 0.0, 'language': 0.05}
  got = saliency_lib.top_mask(
    leaves.__getitem__, jax.eval_shape(lambda: scores), shares, RULES
  )
  for component, rule in RULES.items():
    pick = lambda t, r=rule: np.concatenate(
      [np.ravel(x) for n, x in tree_lib.flatten(t).items() if n.startswith(r)]
    )
    values = pick(scores)
    k = round(shares[component] * len(values))
    lowest = np.sort(values)[::-1][k - 1] if k else np.inf
    np.testing.assert_array_equal(pick(got), values >= lowest)
