"""Asks models, scores their answers, and writes the tables and the report."""

from typing import Any


def __getattr__(name: str) -> Any:
  """``evaluation.table`` is short for ``evaluation.report.table``."""
  if name != 'table':
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  from mmu_jax.evaluation.report import table

  return table
