"""The pieces of configs are what stages read."""

import pytest

from mmu_jax import methods
from mmu_jax import recipes
from mmu_jax.stages.budgets import mask_specs
from mmu_jax.stages.budgets import run_rules


def test_a_run_names_a_method_with_its_options():
  run = recipes.run('mmunlearner', 5e-5, 'saliency', forget_every=3)
  turns = methods.make(run['method'], **run['options'])
  assert turns[0].every == 3 and run['clip_norms'] == {}
  assert (
    run['mask'] in mask_specs.MASKS and run['reference'] in run_rules.TRAINED
  )


def test_two_parts_share_nothing():
  first, second = (recipes.part('vqa:forget', size=2) for _ in range(2))
  first['size'] = 9
  assert second == dict(splits=('vqa:forget',), size=2, questions=1, weight=1.0)


def test_the_first_variant_is_the_default():
  assert recipes.variant('', ('full', 'fast')) == 'full'
  assert recipes.variant('fast', ('full', 'fast')) == 'fast'
  with pytest.raises(ValueError, match="one of full, fast; got 'huge'"):
    recipes.variant('huge', ('full', 'fast'))


def test_every_component_of_the_small_model_is_protected():
  part = recipes.part('vqa:retain', size=2)
  made = recipes.saliency(3, part, part, part)
  assert set(made['protects']) == {'vision', 'projector', 'language'}
  for names in made['protects'].values():
    assert set(names) <= set(made['preserve'])


def test_the_result_of_a_run_is_saved_after_its_last_round():
  made = recipes.unlearn(60, 1e-4, {}, probe_every=15)
  assert made['save_every'] == made['rounds'] == 60
