"""Scores of answers: strings and floats in, floats out, no JAX."""

from mmu_jax.metrics.bootstrap import bootstrap_interval
from mmu_jax.metrics.divergence import forget_quality
from mmu_jax.metrics.divergence import js_divergence
from mmu_jax.metrics.fluency import is_empty
from mmu_jax.metrics.fluency import is_gibberish
from mmu_jax.metrics.likelihoods import answer_probability
from mmu_jax.metrics.likelihoods import exposure
from mmu_jax.metrics.likelihoods import forget_score
from mmu_jax.metrics.likelihoods import option_shares
from mmu_jax.metrics.likelihoods import retain_score
from mmu_jax.metrics.likelihoods import truth_ratio
from mmu_jax.metrics.marking import contains
from mmu_jax.metrics.marking import exact_match
from mmu_jax.metrics.marking import find_letter
from mmu_jax.metrics.marking import first_letter
from mmu_jax.metrics.marking import letter_of
from mmu_jax.metrics.overlap import bleu
from mmu_jax.metrics.overlap import rouge
from mmu_jax.metrics.utility import harmonic_mean

__all__ = (
  'answer_probability',
  'bleu',
  'bootstrap_interval',
  'contains',
  'exact_match',
  'exposure',
  'find_letter',
  'first_letter',
  'forget_quality',
  'forget_score',
  'harmonic_mean',
  'is_empty',
  'is_gibberish',
  'js_divergence',
  'letter_of',
  'option_shares',
  'retain_score',
  'rouge',
  'truth_ratio',
)
