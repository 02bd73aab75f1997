"""Multimodal LLMs in Flax NNX behind pure functions.

``forward(params, batch) -> logits [B, L, V]`` is the only door to a model:
losses, saliency, masks and optimizers see pytrees and nothing else.
"""

from mmu_jax.models.llava import Llava
from mmu_jax.models.llava import LlavaConfig
from mmu_jax.models.model import build
from mmu_jax.models.model import from_options
from mmu_jax.models.model import Model
from mmu_jax.models.model import MODELS

__all__ = ['Llava', 'LlavaConfig', 'MODELS', 'Model', 'build', 'from_options']
