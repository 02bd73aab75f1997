"""Asks models, scores their answers, and writes the tables and the report."""

import importlib
from typing import Any

_ASK = 'mmu_jax.evaluation.asking.ask'


def __getattr__(name: str) -> Any:
  """``evaluation.ask``; and ``table``, short for ``report.table``."""
  if name in ('ask', 'Reply'):
    return getattr(importlib.import_module(_ASK), name)
  if name != 'table':
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  from mmu_jax.evaluation.report import table

  return table
