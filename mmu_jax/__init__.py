"""mmu_jax: machine unlearning for multimodal LLMs, in JAX.

A model that answers questions about people must stop recognising a person in
an image, and keep what it knows in text about that person and everything about
everybody else. See ``mmu --help`` for the command line.

Modules are imported when they are used: ``import mmu_jax`` takes no time.
"""

import importlib
from typing import Any

__version__ = '0.1.0'

_MODULES = {
  name: f'mmu_jax.{name}'
  for name in (
    'attacks',
    'checkpoint',
    'data',
    'distributed',
    'doctor',
    'errors',
    'evaluation',
    'gradients',
    'losses',
    'masks',
    'methods',
    'metrics',
    'models',
    'planning',
    'recipes',
    'saliency',
    'sharding',
    'stages',
    'training',
    'transforms',
    'tree',
    'typing',
    'workdir',
  )
} | {'restriction': 'mmu_jax.saliency.ratio'}


def __getattr__(name: str) -> Any:
  """Imports a module when it is first used."""
  if name not in _MODULES:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  return importlib.import_module(_MODULES[name])


def __dir__() -> list[str]:
  """The modules, imported or not."""
  return sorted({*globals(), *_MODULES})
