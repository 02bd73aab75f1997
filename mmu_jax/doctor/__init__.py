"""Looks over machines and files before a job: ``mmu doctor``."""

from mmu_jax.doctor.check import check
from mmu_jax.doctor.check import Report
from mmu_jax.doctor.check import tables
from mmu_jax.errors import Finding

__all__ = ['Finding', 'Report', 'check', 'tables']
