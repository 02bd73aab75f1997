"""Looks over machines and files before a job: ``mmu doctor``."""

from mmu_jax.doctor.examination import Examination
from mmu_jax.doctor.examination import examine
from mmu_jax.doctor.examination import printed

__all__ = ['Examination', 'examine', 'printed']
