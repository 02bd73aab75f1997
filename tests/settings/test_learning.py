"""A mask of the config changes fields of config.saliency, and adds a few."""

from mmu_jax.settings import learning
from mmu_jax.settings import table


def test_a_mask_has_the_rules_of_saliency_and_four_fields_of_its_own():
  own = {'kind', 'of', 'teacher', 'retain'}
  for path, entry in learning.MASK.items():
    if path not in own:
      assert table.TABLE[f'saliency.{path}'] == entry, path
    assert table.TABLE[f'masks.*.{path}'] == entry, path
  assert own <= {*learning.MASK}
