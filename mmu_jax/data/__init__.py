"""Rows, their prompts and tokens, and the batches made of them. NumPy only.

A notebook may leave the folders out: ``from mmu_jax.data import own, check``
gives ``readers.own`` and ``checks.check``, which are imported when first used.
"""

import importlib
import os
from typing import Any

# transformers advises, at every import, to install the PyTorch that we do
# without.
os.environ.setdefault('TRANSFORMERS_NO_ADVISORY_WARNINGS', '1')

_MODULES = {
  name: f'mmu_jax.data.{folder}.{name}'
  for folder, names in {
    'batches': 'batching packing',
    'checks': 'check',
    'encoding': 'images patches processing processors small',
    'people': 'portraits vocabulary world',
    'readers': 'clear mllmu_bench own parquet prepared',
  }.items()
  for name in names.split()
}


def __getattr__(name: str) -> Any:
  """Imports a module by its short name when it is first used."""
  if name not in _MODULES:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  return importlib.import_module(_MODULES[name])
