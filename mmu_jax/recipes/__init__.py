"""Building blocks of configs, and how a config is found by its name.

A config is a file with a function ``get_config(variant)``. Those in
``configs/`` come with the package, so ``mmu pipeline --config=people:fast``
works in any folder. Your own file starts from one of them, or from the blocks
below::

  from mmu_jax import recipes

  def get_config(variant=''):
    config = recipes.load('people:fast')
    config.unlearn.rounds = 30
    config.runs = dict(mine=recipes.run('mmunlearner', 2e-4, 'saliency'))
    return config
"""

from mmu_jax.recipes.benchmarks import benchmark
from mmu_jax.recipes.benchmarks import make_fast
from mmu_jax.recipes.benchmarks import make_published
from mmu_jax.recipes.benchmarks import variant_and_ratio
from mmu_jax.recipes.finding import known
from mmu_jax.recipes.finding import load
from mmu_jax.recipes.parts import attacks
from mmu_jax.recipes.parts import counterfactual_run
from mmu_jax.recipes.parts import hardware
from mmu_jax.recipes.parts import part
from mmu_jax.recipes.parts import run
from mmu_jax.recipes.parts import saliency
from mmu_jax.recipes.parts import small_model
from mmu_jax.recipes.parts import unlearn
from mmu_jax.recipes.parts import variant
from mmu_jax.recipes.people import people
from mmu_jax.recipes.published import exempt
from mmu_jax.recipes.published import paper_exact

__all__ = [
  'attacks',
  'benchmark',
  'counterfactual_run',
  'exempt',
  'hardware',
  'known',
  'load',
  'make_fast',
  'make_published',
  'paper_exact',
  'part',
  'people',
  'run',
  'saliency',
  'small_model',
  'unlearn',
  'variant',
  'variant_and_ratio',
]
