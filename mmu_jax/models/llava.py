"""LLaVA: a CLIP tower, a projector and a Llama decoder."""

import dataclasses

from flax import nnx
import jax
import jax.numpy as jnp

from mmu_jax.models import layers as layers_lib
from mmu_jax.models.clip_vit import ClipVisionConfig
from mmu_jax.models.clip_vit import ClipVisionTower
from mmu_jax.models.llama import Cache
from mmu_jax.models.llama import Llama
from mmu_jax.models.llama import LlamaConfig
from mmu_jax.typing import Batch

# component -> regex over leaf names
COMPONENTS = {
    'vision': r'vision_tower/',
    'projector': r'multi_modal_projector/',
    'language': r'language_model/',
}


@dataclasses.dataclass(frozen=True)
class LlavaConfig:
  """Sizes of a LLaVA, and how it is computed.

  Attributes:
    vision_config: the tower.
    text_config: the decoder.
    vision_feature_layer: which hidden state of the tower the projector reads,
      as ``config.json`` counts them: -1 after the last layer, -2 before it.
    projector_hidden_act: a key of ``layers.ACTIVATIONS``.
    dtype: of the computation; parameters are float32.
    attention: ``'xla'`` or ``'cudnn'``.
    remat: a key of ``layers.REMAT``.
  """

  vision_config: ClipVisionConfig = ClipVisionConfig()
  text_config: LlamaConfig = LlamaConfig()
  vision_feature_layer: int = -2
  projector_hidden_act: str = 'gelu'
  dtype: str = 'float32'
  attention: str = 'xla'
  remat: str = 'none'

  def __post_init__(self):
    """Raises ValueError where a choice is unknown."""
    for field, known in (
        ('projector_hidden_act', layers_lib.ACTIVATIONS),
        ('attention', ('xla', 'cudnn')),
        ('remat', layers_lib.REMAT),
    ):
      layers_lib.check_choice(field, getattr(self, field), known)

  @property
  def num_image_tokens(self) -> int:
    """Tokens that one image takes in the sequence."""
    return self.vision_config.num_patches

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

  def image_features(self, pixel_values: jax.Array) -> jax.Array:
    """Maps ``[B, 3, height, width]`` to ``[B, N, D]``, one token a patch."""
    x = self.vision_tower.vision_model(
        pixel_values.astype(self.config.dtype),
        num_layers=self.config.num_vision_layers,
        attention=self.config.attention,
        remat=self.config.remat,
    )
    return self.multi_modal_projector(x[:, 1:])  # without the class token

  def embed(self, batch: Batch) -> jax.Array:
    """Embeds tokens ``[B, L]`` and puts image features in their slots."""
    x = self.language_model.model.embed_tokens(batch['tokens'])
    b, num_images = batch['pixel_values'].shape[:2]
    if not num_images:
      return x
    pixels = batch['pixel_values'].reshape(
        b * num_images, *batch['pixel_values'].shape[2:]
    )
    features = self.image_features(pixels).reshape(b, -1, x.shape[-1])
    slots = batch['image_slots'][..., None]  # [B, L, 1]
    picked = jnp.take_along_axis(features, jnp.maximum(slots, 0), axis=1)
    return jnp.where(slots >= 0, picked.astype(x.dtype), x)

  def hidden(
      self, batch: Batch, cache: Cache | None = None
  ) -> tuple[jax.Array, Cache | None]:
    """Returns the decoder's last hidden states ``[B, L, D]`` and the cache."""
    mask = attention_mask(batch['documents'], batch['branches'])
    if cache is not None:
      unused = cache.keys.shape[2] - mask.shape[2]
      mask = jnp.pad(mask, ((0, 0), (0, 0), (0, unused)))
    return self.decode(self.embed(batch), batch['positions'], mask, cache)

  def decode(self, x, positions, mask, cache=None, slot=0):
    """Runs the decoder as this config says; see ``LlamaModel``."""
    return self.language_model.model(
        x,
        positions,
        mask,
        cache,
        slot,
        attention=self.config.attention,
        remat=self.config.remat,
    )

  def logits(self, hidden: jax.Array) -> jax.Array:
    """Maps hidden states ``[..., D]`` to logits ``[..., V]``."""
    return self.language_model.lm_head(hidden)


def attention_mask(documents: jax.Array, branches: jax.Array) -> jax.Array:
  """Which token sees which: earlier ones of its document and its branch.

  Args:
    documents: ``[B, L]`` int, 0 for padding.
    branches: ``[B, L]`` int, 0 for what all branches of a document share.

  Returns:
    ``[B, L, L]`` bool.

  Example:
    >>> import jax.numpy as jnp
    >>> one = jnp.ones((1, 4), int)
    >>> attention_mask(one, jnp.array([[0, 1, 2, 2]]))[0].astype(int)
    Array([[1, 0, 0, 0],
           [1, 1, 0, 0],
           [1, 0, 1, 0],
           [1, 0, 1, 1]], dtype=int32)
  """
  query, key = documents[:, :, None], documents[:, None, :]
  same_document = (query == key) & (key > 0)
  query, key = branches[:, :, None], branches[:, None, :]
  same_branch = (query == key) | (key == 0)
  length = documents.shape[1]
  causal = jnp.tril(jnp.ones((length, length), bool))
  return same_document & same_branch & causal
