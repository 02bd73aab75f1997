"""mmu_jax: machine unlearning for multimodal LLMs, in JAX.

A model that answers questions about people must stop recognising a person in
an image, and keep what it knows in text about that person and everything about
everybody else. See ``mmu --help`` for the command line.
"""

from mmu_jax import version

version.check_installed()  # before Flax is imported, which would fail obscurely

from mmu_jax import losses
from mmu_jax import masks
from mmu_jax import methods
from mmu_jax import saliency
from mmu_jax import transforms

__version__ = version.__version__

__all__ = [
  '__version__',
  'losses',
  'masks',
  'methods',
  'saliency',
  'transforms',
]
