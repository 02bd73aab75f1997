"""Attacks: attempts to get back what a model is said to have forgotten.

``attack`` has the table of attacks, ``stage`` runs one on the models of a
workdir, ``asking`` has the questions, and ``showing`` makes tables and curves.
Each other module is one attack, a function of its name.
"""

from mmu_jax.attacks.attack import Attack
from mmu_jax.attacks.attack import ATTACKS

__all__ = ['ATTACKS', 'Attack']
