"""Qwen3-VL: images enter the decoder in several of its layers."""

from collections.abc import Mapping
import dataclasses
from typing import Any

from flax import nnx
from jax.sharding import PartitionSpec as P

from mmu_jax.models import llama
from mmu_jax.models.families import qwen2_vl
from mmu_jax.models.families.qwen2_vl import Qwen2VL
from mmu_jax.models.families.qwen2_vl import Qwen2VLConfig
from mmu_jax.models.family import check_field
from mmu_jax.models.qwen3_vit import Qwen3VLVision
from mmu_jax.models.qwen3_vit import Qwen3VLVisionConfig
from mmu_jax.settings import sizes
from mmu_jax.settings.rules import below

# component -> regex over leaf names
COMPONENTS = {
  'vision': r'model/visual/(?!merger/|deepstack_merger_list/)',
  'projector': r'model/visual/(merger|deepstack_merger_list)/',
  'language': r'(model/language_model|lm_head)/',
}
# (regex over leaf names, how the last axes are split); see `sharding`.
PARTITION_RULES = (
  (r'.*(embed_tokens|pos_embed)/embedding', P('tensor', 'fsdp')),
  (r'.*(o_proj|down_proj|attn/proj|linear_fc2)/kernel', P('tensor', 'fsdp')),
  (r'.*/kernel', P('fsdp', 'tensor')),
  (r'.*', P()),
)
QWEN3_8B = llama.LlamaConfig(
  vocab_size=151936,
  hidden_size=4096,
  intermediate_size=12288,
  num_hidden_layers=36,
  num_attention_heads=32,
  num_key_value_heads=8,
  rms_norm_eps=1e-6,
  rope_theta=5e6,
  mrope_section=(24, 20, 20),
  mrope_interleaved=True,
  max_position_embeddings=262144,
  head_dim=128,
  qk_norm=True,
)


@dataclasses.dataclass(frozen=True)
class Qwen3VLConfig(Qwen2VLConfig):
  """Sizes of a Qwen3-VL, and how it is computed; see ``Qwen2VLConfig``."""

  vision_config: Qwen3VLVisionConfig = Qwen3VLVisionConfig()
  text_config: llama.LlamaConfig = QWEN3_8B


class Qwen3VL(Qwen2VL):
  """The whole model; its parts are named as in the checkpoints on the hub.

  Its image features are ``[1 + K, B, N / merge^2, D]``: image tokens, and
  states that are added to them after the first K layers of the decoder.

  References:
    Bai et al., Qwen3-VL Technical Report, 2025
    (https://arxiv.org/abs/2511.21631).
  """

  def __init__(self, config: Qwen3VLConfig, rngs: nnx.Rngs):
    self.config = config
    self.model = nnx.Dict(
      visual=Qwen3VLVision(config.vision_config, config.dtype, rngs),
      language_model=llama.LlamaModel(config.text_config, config.dtype, rngs),
    )
    self._add_head(rngs)

  @property
  def tower(self) -> nnx.Module:
    """The vision tower with its mergers."""
    return self.model.visual

  @property
  def decoder(self) -> llama.LlamaModel:
    """The layers between embeddings and logits."""
    return self.model.language_model


# Values of transformers for fields that config.json leaves out.
_DEFAULTS = dict(
  vocab_size=151936,
  hidden_size=4096,
  intermediate_size=22016,
  num_hidden_layers=32,
  num_attention_heads=32,
  num_key_value_heads=32,
  head_dim=128,
  rms_norm_eps=1e-6,
  rope_theta=500000.0,
)
_read = qwen2_vl.reader(
  Qwen3VLConfig,
  _DEFAULTS,
  tower={'out_hidden_size': 3584},
  mrope_section=(24, 20, 20),
  mrope_interleaved=True,
  qk_norm=True,
)


def _read_config(
  raw: Mapping[str, Any], options: dict[str, Any]
) -> Qwen3VLConfig:
  """Qwen3-VL; its frequencies take turns, whatever the file says."""
  text = raw.get('text_config') or raw
  rope = text.get('rope_scaling') or text.get('rope_parameters') or {}
  check_field(rope, 'mrope_interleaved', True, default=True)
  return _read(raw, options)


def _copies(config: Qwen3VLConfig) -> dict[str, str]:
  """The output layer, which some writers save although it is tied."""
  tied = config.tie_word_embeddings
  embedding = 'model.language_model.embed_tokens.weight'
  return {'lm_head.weight': embedding} if tied else {}


def _small(layers: int, width: int, inner: int, heads: int) -> Qwen3VLConfig:
  """The 2B and the 4B model, which share their tower."""
  text = dataclasses.replace(
    QWEN3_8B,
    hidden_size=width,
    intermediate_size=inner,
    num_hidden_layers=layers,
    num_attention_heads=heads,
  )
  tower = Qwen3VLVisionConfig(
    depth=24,
    hidden_size=1024,
    out_hidden_size=width,
    intermediate_size=4096,
    deepstack_visual_indexes=(5, 11, 17),
  )
  return Qwen3VLConfig(tower, text, tie_word_embeddings=True)


FAMILY = dataclasses.replace(
  qwen2_vl.FAMILY,
  name='qwen3_vl',
  config=Qwen3VLConfig,
  module=Qwen3VL,
  components=COMPONENTS,
  partition_rules=PARTITION_RULES,
  fields=qwen2_vl.TEXT_FIELDS
  | below('vision_config', sizes.QWEN3_VL_VISION | sizes.ROPES),
  read_config=_read_config,
  # Older writers, and exports for other software, have the names of Qwen2-VL.
  renames=(
    (r'^visual\.', 'model.visual.'),
    (r'^model\.(layers|embed_tokens|norm)\.', r'model.language_model.\1.'),
  ),
  copies=_copies,
  published={
    'qwen3-vl-2b': _small(28, 2048, 6144, 16),
    'qwen3-vl-4b': _small(36, 2560, 9728, 32),
    'qwen3-vl-8b': Qwen3VLConfig(),
  },
)
