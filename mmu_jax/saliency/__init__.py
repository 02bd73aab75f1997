"""Which weights a forget set needs more than what must survive.

``importance`` measures squared gradients (``fisher``), ``saliency`` is the
ratio of two importances (``ratio``), ``mask_from_importances`` and
``mask_from_saliency`` mark the weights that may change (``selection``).
"""

from mmu_jax.saliency.fisher import importance
from mmu_jax.saliency.ratio import check_protects
from mmu_jax.saliency.ratio import component_means
from mmu_jax.saliency.ratio import component_saliency
from mmu_jax.saliency.ratio import dead
from mmu_jax.saliency.ratio import EPS
from mmu_jax.saliency.ratio import FORGET
from mmu_jax.saliency.ratio import ReadLeaf
from mmu_jax.saliency.ratio import saliency
from mmu_jax.saliency.ratio import score_leaves
from mmu_jax.saliency.selection import mask_from_importances
from mmu_jax.saliency.selection import mask_from_saliency
from mmu_jax.saliency.selection import top_mask
from mmu_jax.saliency.selection import top_share

__all__ = [
  'EPS',
  'FORGET',
  'ReadLeaf',
  'check_protects',
  'component_means',
  'component_saliency',
  'dead',
  'importance',
  'mask_from_importances',
  'mask_from_saliency',
  'saliency',
  'score_leaves',
  'top_mask',
  'top_share',
]
