"""Saves and restores pytrees with a note; nothing else imports Orbax."""

from mmu_jax.checkpoint.contents import digest
from mmu_jax.checkpoint.trees import describe
from mmu_jax.checkpoint.trees import latest_step
from mmu_jax.checkpoint.trees import read_note
from mmu_jax.checkpoint.trees import restore
from mmu_jax.checkpoint.trees import restore_leaf
from mmu_jax.checkpoint.trees import Restored
from mmu_jax.checkpoint.trees import save
from mmu_jax.checkpoint.trees import Series

__all__ = [
  'Restored',
  'Series',
  'describe',
  'digest',
  'latest_step',
  'read_note',
  'restore',
  'restore_leaf',
  'save',
]
