"""What a job needs, before it is launched: no weights, no devices.

``plan(config, mesh='fsdp=8') -> Plan`` are the numbers; ``tables(plan)`` are
what ``mmu plan`` prints.
"""

from mmu_jax.planning.planner import Plan
from mmu_jax.planning.planner import plan
from mmu_jax.planning.report import tables

__all__ = ['Plan', 'plan', 'tables']
