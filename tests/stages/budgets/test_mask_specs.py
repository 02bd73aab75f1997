"""A mask of the config has the settings of config.saliency, some changed."""

import pytest

from mmu_jax import recipes
from mmu_jax.saliency import FORGET
from mmu_jax.stages.budgets import mask_specs as specs


def _config(**masks):
  config = recipes.load('people')
  with config.unlocked():
    config.masks = masks
  return config


def test_built_in_masks_come_first_and_are_what_they_were():
  config = _config(mine=dict(density=0.1))
  kinds = ['saliency', 'literal', 'topk', 'random']
  assert specs.known_masks(config) == [*kinds, 'mine']
  own = config.saliency.to_dict()
  assert specs.spec(config, 'saliency') == own | {'kind': 'saliency'}
  assert not specs.spec(config, 'literal')['normalize']
  for name in ('saliency', 'literal'):
    found = specs.importances(config, specs.spec(config, name))
    assert [which.folder for which in found.values()] == [
      FORGET,
      *own['preserve'],
    ]
  assert all(not specs.claim_of(config, name) for name in ('', *kinds))


def test_masks_of_equal_batches_and_loss_share_importances():
  parts = (recipes.part('relabelled', size=2),)
  turn = dict(forget=parts, teacher='others', retain='mixed')
  config = _config(
    a=turn | dict(density=0.1),
    b=turn | dict(density=0.3),
    c=turn | dict(teacher='base'),
    d=dict(preserve_loss='margin'),
  )
  folders = {
    name: {
      k: which.folder
      for k, which in specs.importances(
        config, specs.spec(config, name)
      ).items()
    }
    for name in 'abcd'
  }
  assert folders['a'] == folders['b'] != folders['c']
  assert folders['a']['text'] == 'text' and folders['a'][FORGET] != FORGET
  assert folders['d'][FORGET] == FORGET and folders['d']['text'] != 'text'
  assert specs.claim_of(config, 'a') != specs.claim_of(config, 'b')


@pytest.mark.parametrize(
  'name, words',
  [
    ('best', "unknown mask 'best'; known: saliency, .*, random, again"),
    ('again', 'config.masks.again.of=random is of the kind random'),
  ],
)
def test_a_mask_that_cannot_be_made_is_refused(name, words):
  config = _config(again=dict(kind='topk', of='random'))
  with pytest.raises(ValueError, match=words):
    specs.spec(config, name)


_PARTS = (recipes.part('relabelled', size=2),)


@pytest.mark.parametrize(
  'masks, words',
  [
    (dict(topk=dict(density=0.1)), 'masks.topk has the name of a built-in'),
    (dict(a=dict(of='saliency')), 'masks.a.of=saliency is for the kinds'),
    (
      dict(a=dict(kind='random', of='turn', density=0.1)),
      "has its settings, so 'density' would do nothing",
    ),
    (dict(a=dict(kind='random', of='a')), 'masks.a.of=a is of the kind random'),
    (dict(a=dict(forget=_PARTS)), "masks.a has teacher='': .*has one"),
    (dict(a=dict(teacher='base')), "masks.a has teacher='base'"),
    (
      dict(a=dict(forget=_PARTS, teacher='base')),
      "masks.a.retain is the stream .* one of forget, .*; got ''",
    ),
  ],
)
def test_settings_that_would_do_nothing_are_refused(masks, words):
  with pytest.raises(ValueError, match=words):
    specs.check_masks(_config(**masks))
  specs.check_masks(recipes.load('frontier:masks'))


def test_an_importance_of_relabelled_rows_names_the_people_behind_them():
  config = _config(
    a=dict(forget=_PARTS, teacher='others', retain='mixed', density=0.1)
  )
  which = lambda: specs.importances(config, specs.spec(config, 'a'))[FORGET]
  before, claim = which(), specs.claim_of(config, 'a')
  config.unlearn.streams.mixed = config.unlearn.streams.mixed[:2]
  assert which().folder != before.folder
  assert specs.claim_of(config, 'a') != claim
