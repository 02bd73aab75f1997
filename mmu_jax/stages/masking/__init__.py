"""Importances at vanilla and the masks that are made from them."""

from mmu_jax.stages.budgets.mask_specs import claim_of
from mmu_jax.stages.masking.masks import mask
from mmu_jax.stages.masking.masks import mask_folder
from mmu_jax.stages.masking.masks import saliency

__all__ = ['mask', 'mask_folder', 'saliency', 'claim_of']
