"""Qwen2.5-VL: Qwen2-VL with a tower whose blocks look into windows."""

import dataclasses

from mmu_jax.models.families import qwen2_vl
from mmu_jax.models.families.qwen2_vl import Qwen2VL
from mmu_jax.models.families.qwen2_vl import Qwen2VLConfig
from mmu_jax.models.llama import LlamaConfig
from mmu_jax.models.qwen2_vit import Qwen25VLVisionConfig
from mmu_jax.settings import sizes
from mmu_jax.settings.rules import below

_TEXT = dataclasses.replace(qwen2_vl.QWEN2_7B, max_position_embeddings=128000)


@dataclasses.dataclass(frozen=True)
class Qwen25VLConfig(Qwen2VLConfig):
  """Sizes of a Qwen2.5-VL, and how it is computed; see ``Qwen2VLConfig``."""

  vision_config: Qwen25VLVisionConfig = Qwen25VLVisionConfig()
  text_config: LlamaConfig = _TEXT


class Qwen25VL(Qwen2VL):
  """The whole model; its parts are named as in the checkpoints on the hub.

  References:
    Bai et al., Qwen2.5-VL Technical Report, 2025
    (https://arxiv.org/abs/2502.13923).
  """


FAMILY = dataclasses.replace(
  qwen2_vl.FAMILY,
  name='qwen2_5_vl',
  config=Qwen25VLConfig,
  module=Qwen25VL,
  fields=qwen2_vl.TEXT_FIELDS
  | below('vision_config', sizes.QWEN2_5_VL_VISION | sizes.ROPES),
  # The width of the tower that transformers takes where none is given.
  read_config=qwen2_vl.reader(Qwen25VLConfig, tower={'hidden_size': 3584}),
  published={
    'qwen2.5-vl-3b': Qwen25VLConfig(
      Qwen25VLVisionConfig(out_hidden_size=2048),
      qwen2_vl.sized(151936, 2048, 11008, 36, 16, 2, text=_TEXT),
      tie_word_embeddings=True,
    ),
    'qwen2.5-vl-7b': Qwen25VLConfig(),
    'qwen2.5-vl-72b': Qwen25VLConfig(
      Qwen25VLVisionConfig(out_hidden_size=8192),
      qwen2_vl.sized(152064, 8192, 29568, 80, 64, 8, text=_TEXT),
    ),
  },
)
