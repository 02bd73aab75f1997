"""Jobs of several processes: how they find, wait for and stop each other."""

from mmu_jax.distributed.processes import barrier
from mmu_jax.distributed.processes import first
from mmu_jax.distributed.processes import gather
from mmu_jax.distributed.processes import initialize
from mmu_jax.distributed.processes import is_first

__all__ = ['barrier', 'first', 'gather', 'initialize', 'is_first']
