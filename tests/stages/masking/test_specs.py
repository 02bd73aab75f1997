"""A mask of the config has the settings of config.saliency, some changed."""

import pytest

from mmu_jax import recipes
from mmu_jax.saliency import FORGET
from mmu_jax.stages.masking import specs


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
