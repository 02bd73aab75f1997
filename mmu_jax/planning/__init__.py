"""Plans what a job needs of each device: no weights, no devices.

``plan(config) -> Plan`` gives the numbers, ``tables(plan)`` what ``mmu plan``
prints.
"""

from mmu_jax.planning.fits import Plan
from mmu_jax.planning.fits import plan
from mmu_jax.planning.tables import tables

__all__ = ['Plan', 'plan', 'tables']
