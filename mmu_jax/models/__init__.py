"""Multimodal LLMs in Flax NNX behind pure functions.

``forward(params, batch) -> logits [B, L, V]`` is the only door to a model:
losses, saliency, masks and optimizers see pytrees and nothing else.
``models.hub_config`` and ``models.weights`` are short names of ``hub.config``
and ``hub.weights``.
"""

from importlib.metadata import version

from mmu_jax.models.versions import check_pair

# Before Flax is imported, which fails obscurely.
check_pair(version('jax'), version('flax'))

from mmu_jax.models.families.gemma3 import Gemma3
from mmu_jax.models.families.gemma3 import Gemma3Config
from mmu_jax.models.families.llava import Llava
from mmu_jax.models.families.llava import LlavaConfig
from mmu_jax.models.families.llava_next import LlavaNext
from mmu_jax.models.families.llava_next import LlavaNextConfig
from mmu_jax.models.families.qwen2_5_vl import Qwen25VL
from mmu_jax.models.families.qwen2_5_vl import Qwen25VLConfig
from mmu_jax.models.families.qwen2_vl import Qwen2VL
from mmu_jax.models.families.qwen2_vl import Qwen2VLConfig
from mmu_jax.models.families.qwen3_vl import Qwen3VL
from mmu_jax.models.families.qwen3_vl import Qwen3VLConfig
from mmu_jax.models.hub import config as hub_config
from mmu_jax.models.hub import weights
from mmu_jax.models.hub.loading import load
from mmu_jax.models.hub.saving import save
from mmu_jax.models.model import build
from mmu_jax.models.model import from_options
from mmu_jax.models.model import Model
from mmu_jax.models.model import MODELS

__all__ = [
  'Gemma3',
  'Gemma3Config',
  'Llava',
  'LlavaConfig',
  'LlavaNext',
  'LlavaNextConfig',
  'MODELS',
  'Model',
  'Qwen25VL',
  'Qwen25VLConfig',
  'Qwen2VL',
  'Qwen2VLConfig',
  'Qwen3VL',
  'Qwen3VLConfig',
  'build',
  'from_options',
  'hub_config',
  'load',
  'save',
  'weights',
]
