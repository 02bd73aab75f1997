"""Scores of answers: strings and floats in, floats out, no JAX."""

from mmu_jax.metrics.bleu import bleu
from mmu_jax.metrics.bootstrap import bootstrap_interval
from mmu_jax.metrics.choice import contains, exact_match
from mmu_jax.metrics.rouge import rouge

__all__ = ('bleu', 'bootstrap_interval', 'contains', 'exact_match', 'rouge')
