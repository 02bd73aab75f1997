"""The commands of ``mmu``, as one table; a new command is one more entry."""

from mmu_jax.commands import before
from mmu_jax.commands import checkpoints
from mmu_jax.commands import comparing
from mmu_jax.commands import jobs
from mmu_jax.commands.command import Command

COMMANDS = {
  command.name: command
  for command in (
    *jobs.COMMANDS,
    *comparing.COMMANDS,
    *before.COMMANDS,
    *checkpoints.COMMANDS,
  )
}

__all__ = ['COMMANDS', 'Command']
