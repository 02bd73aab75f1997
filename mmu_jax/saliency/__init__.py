"""Which weights a forget set needs more than what must survive.

``importance`` measures squared gradients, ``saliency`` is the ratio of two
importances, ``mask_from_saliency`` marks the weights that may change.
"""

from mmu_jax.saliency.fisher import component_means
from mmu_jax.saliency.fisher import dead
from mmu_jax.saliency.fisher import EPS
from mmu_jax.saliency.fisher import importance
from mmu_jax.saliency.fisher import mask_from_saliency
from mmu_jax.saliency.fisher import saliency
from mmu_jax.saliency.ratio import component_saliency
from mmu_jax.saliency.ratio import top_share

__all__ = [
  'EPS',
  'component_means',
  'component_saliency',
  'dead',
  'importance',
  'mask_from_saliency',
  'saliency',
  'top_share',
]
