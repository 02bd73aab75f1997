"""Plans the memory of each device in a job: no weights, no devices.

``plan`` gives the numbers, and ``plan_tables`` the tables of ``mmu plan``.
"""

from mmu_jax.planning.fits import MemoryPlan
from mmu_jax.planning.fits import plan
from mmu_jax.planning.tables import plan_tables

__all__ = ['MemoryPlan', 'plan', 'plan_tables']
