"""LLaVA: a CLIP tower, a projector and a Llama decoder."""

import dataclasses

from flax import nnx
import jax
from jax.sharding import PartitionSpec as P

from mmu_jax import sharding
from mmu_jax.errors import UserError
from mmu_jax.models import layers as layers_lib
from mmu_jax.models.clip_vit import ClipVisionConfig
from mmu_jax.models.clip_vit import ClipVisionTower
from mmu_jax.models.llama import Llama
from mmu_jax.models.llama import LlamaConfig
from mmu_jax.models.llama import LlamaModel
from mmu_jax.typing import Batch

# component -> regex over leaf names
COMPONENTS = {
  'vision': r'vision_tower/',
  'projector': r'multi_modal_projector/',
  'language': r'language_model/',
}
# (regex over leaf names, how the last axes are split); see `sharding`.
PARTITION_RULES = (
  (r'.*(embed_tokens|position_embedding)/embedding', P('tensor', 'fsdp')),
  (r'.*(o_proj|out_proj|down_proj|fc2|linear_2)/kernel', P('tensor', 'fsdp')),
  (r'.*/kernel', P('fsdp', 'tensor')),
  (r'.*', P()),
)


@dataclasses.dataclass(frozen=True)
class LlavaConfig:
  """Sizes of a LLaVA, and how it is computed.

  Attributes:
    vision_config: the tower.
    text_config: the decoder.
    vision_feature_layer: which hidden state of the tower the projector reads,
      as ``config.json`` counts them: -1 after the last layer, -2 before it.
    vision_feature_select_strategy: ``'default'`` leaves the class token out,
      ``'full'`` keeps it.
    projector_hidden_act: a key of ``layers.ACTIVATIONS``.
    dtype: of the computation; parameters are float32 unless loaded otherwise.
    attention: ``'xla'`` or ``'cudnn'``.
    remat: a key of ``layers.REMAT``.
  """

  vision_config: ClipVisionConfig = ClipVisionConfig()
  text_config: LlamaConfig = LlamaConfig(max_position_embeddings=4096)
  vision_feature_layer: int = -2
  vision_feature_select_strategy: str = 'default'
  projector_hidden_act: str = 'gelu'
  dtype: str = 'float32'
  attention: str = 'xla'
  remat: str = 'none'

  def __post_init__(self):
    """Raises ValueError where a choice is unknown."""
    layers_lib.check_computation(self.attention, self.remat)
    layers_lib.check_choice(
      'projector_hidden_act', self.projector_hidden_act, layers_lib.ACTIVATIONS
    )
    layers_lib.check_choice(
      'vision_feature_select_strategy',
      self.vision_feature_select_strategy,
      ('default', 'full'),
    )
    last = self.vision_config.num_hidden_layers
    if not 0 <= self.num_vision_layers <= last:
      raise UserError(
        'vision_feature_layer names a hidden state of the tower, '
        f'{-last - 1} to {last} for {last} layers; got '
        f'{self.vision_feature_layer}.'
      )

  @property
  def num_image_tokens(self) -> int:
    """Tokens that one image takes in the sequence."""
    return self.vision_config.num_patches + (1 - self.first_image_token)

  @property
  def first_image_token(self) -> int:
    """0 if the class token is kept, 1 if not."""
    return int(self.vision_feature_select_strategy == 'default')

  @property
  def num_vision_layers(self) -> int:
    """Layers of the tower that run."""
    layer = self.vision_feature_layer
    last = self.vision_config.num_hidden_layers
    return layer if layer >= 0 else last + 1 + layer


class Projector(nnx.Module):
  """Two linear layers from the width of the tower to that of the decoder."""

  def __init__(self, config: LlavaConfig, rngs: nnx.Rngs):
    vision, text = config.vision_config, config.text_config
    self.linear_1 = nnx.Linear(
      vision.hidden_size, text.hidden_size, dtype=config.dtype, rngs=rngs
    )
    self.linear_2 = nnx.Linear(
      text.hidden_size, text.hidden_size, dtype=config.dtype, rngs=rngs
    )
    self.act = layers_lib.ACTIVATIONS[config.projector_hidden_act]

  def __call__(self, x: jax.Array) -> jax.Array:
    return self.linear_2(self.act(self.linear_1(x)))


class Llava(nnx.Module):
  """The whole model; its parts are named as in the checkpoints on the hub.

  References:
    Liu et al., Improved Baselines with Visual Instruction Tuning, 2024
    (https://arxiv.org/abs/2310.03744).
  """

  def __init__(self, config: LlavaConfig, rngs: nnx.Rngs):
    self.config = config
    self.vision_tower = ClipVisionTower(
      config.vision_config, config.dtype, rngs
    )
    self.multi_modal_projector = Projector(config, rngs)
    self.language_model = Llama(config.text_config, config.dtype, rngs)

  @property
  def decoder(self) -> LlamaModel:
    """The layers between embeddings and logits."""
    return self.language_model.model

  def encode(self, pixel_values: jax.Array) -> jax.Array:
    """Maps images ``[B, 3, height, width]`` to their tokens ``[B, N, D]``."""
    x = self.vision_tower.vision_model(
      pixel_values.astype(self.config.dtype),
      num_layers=self.config.num_vision_layers,
      attention=self.config.attention,
      remat=self.config.remat,
    )
    # Said where they are, rows keep their order: between the tower and the
    # projector the compiler's backward pass has swapped those of two devices.
    x = sharding.split_rows(x[:, self.config.first_image_token :])
    return sharding.split_rows(self.multi_modal_projector(x))

  def image_features(self, batch: Batch) -> jax.Array:
    """Returns the image tokens ``[B, I * N, D]`` of every row."""
    pixels = batch['pixel_values']  # [B, I, 3, height, width]
    features = self.encode(pixels.reshape(-1, *pixels.shape[2:]))
    return features.reshape(pixels.shape[0], -1, features.shape[-1])

  def embed(self, batch: Batch) -> jax.Array:
    """Embeds tokens ``[B, L]`` and puts image features in their slots."""
    x = self.decoder.embed_tokens(batch['tokens'])
    if not batch['pixel_values'].shape[1]:
      return x
    return layers_lib.place(x, self.image_features(batch), batch['image_slots'])

  def logits(self, hidden: jax.Array) -> jax.Array:
    """Maps hidden states ``[..., D]`` to logits ``[..., V]``."""
    return self.language_model.lm_head(hidden)
