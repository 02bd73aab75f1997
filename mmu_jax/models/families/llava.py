"""LLaVA: a CLIP tower, a projector and a Llama decoder."""

from collections.abc import Mapping
import dataclasses
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from mmu_jax import sharding
from mmu_jax.errors import UserError
from mmu_jax.models import layers as layers_lib
from mmu_jax.models.clip_vit import ClipVisionConfig
from mmu_jax.models.clip_vit import ClipVisionModel
from mmu_jax.models.family import abstract_text
from mmu_jax.models.family import check_field
from mmu_jax.models.family import clip
from mmu_jax.models.family import decoder
from mmu_jax.models.family import Family
from mmu_jax.models.family import sizes_of
from mmu_jax.models.family import widths
from mmu_jax.models.llama import Llama
from mmu_jax.models.llama import LlamaConfig
from mmu_jax.models.llama import LlamaModel
from mmu_jax.settings import sizes
from mmu_jax.settings.rules import below
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
    vision_feature_layer: hidden state of the tower that the projector reads, as
      ``config.json`` counts them: -1 after the last layer, -2 before it.
    vision_feature_select_strategy: ``'default'`` leaves the class token out,
      ``'full'`` keeps it.
    projector_hidden_act: activation, a key of ``layers.ACTIVATIONS``.
    tie_word_embeddings: whether the token embedding is the output layer too,
      as in small language models.
    dtype: dtype of the computation; parameters are float32 by default.
    attention: implementation, see ``attention.attend``.
    remat: kept activations, a key of ``layers.REMAT``.
  """

  vision_config: ClipVisionConfig = ClipVisionConfig()
  text_config: LlamaConfig = LlamaConfig(max_position_embeddings=4096)
  vision_feature_layer: int = -2
  vision_feature_select_strategy: str = 'default'
  projector_hidden_act: str = 'gelu'
  tie_word_embeddings: bool = False
  dtype: str = 'float32'
  attention: str = 'auto'
  remat: str = 'products'

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
  """Two linear layers from the width of the tower to the decoder's."""

  def __init__(self, config: LlavaConfig, rngs: nnx.Rngs):
    vision, text = config.vision_config, config.text_config
    self.linear_1 = layers_lib.Linear(
      vision.hidden_size, text.hidden_size, dtype=config.dtype, rngs=rngs
    )
    self.linear_2 = layers_lib.Linear(
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
    tower = ClipVisionModel(config.vision_config, config.dtype, rngs)
    self.vision_tower = nnx.Dict(vision_model=tower)
    self.multi_modal_projector = Projector(config, rngs)
    self.language_model = Llama(
      config.text_config, config.dtype, rngs, tied=config.tie_word_embeddings
    )

  @property
  def decoder(self) -> LlamaModel:
    """The layers between embeddings and logits."""
    return self.language_model.model

  def image_features(self, batch: Batch) -> jax.Array:
    """Returns the image tokens ``[B, I * N, D]`` of every row."""
    pixels = batch['pixel_values']  # [B, I, 3, height, width]
    x = self.vision_tower.vision_model(
      pixels.reshape(-1, *pixels.shape[2:]).astype(self.config.dtype),
      num_layers=self.config.num_vision_layers,
      attention=self.config.attention,
      remat=self.config.remat,
    )
    # These constraints keep rows in order: without them, the compiler's
    # backward pass swapped the rows of two devices at this point.
    x = sharding.split_rows(x[:, self.config.first_image_token :])
    x = sharding.split_rows(self.multi_modal_projector(x))
    return x.reshape(pixels.shape[0], -1, x.shape[-1])

  def logits(self, hidden: jax.Array) -> jax.Array:
    """Maps hidden states ``[..., D]`` to logits ``[..., V]``."""
    return self.language_model.logits(hidden)


# Values of transformers for fields that config.json leaves out.
DEFAULTS = dict(
  vocab_size=32000,
  hidden_size=4096,
  intermediate_size=11008,
  num_hidden_layers=32,
  num_attention_heads=32,
  rms_norm_eps=1e-6,
  rope_theta=10000.0,
)


def read_fields(raw: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the fields of a LLaVA's config but for its decoder, checked.

  Args:
    raw: fields of ``config.json``.

  Raises:
    ValueError: if a field asks for a computation that is not supported.
  """
  check_field(raw, 'multimodal_projector_bias', True, default=True)
  text = sizes_of(raw, 'text_config')
  return dict(
    vision_config=clip(sizes_of(raw, 'vision_config')),
    vision_feature_layer=raw.get('vision_feature_layer', -2),
    vision_feature_select_strategy=raw.get(
      'vision_feature_select_strategy', 'default'
    ),
    projector_hidden_act=raw.get('projector_hidden_act', 'gelu'),
    # Some writers say it in text_config alone.
    tie_word_embeddings=bool(
      raw.get('tie_word_embeddings') or text.get('tie_word_embeddings')
    ),
  )


def _read_config(
  raw: Mapping[str, Any], options: dict[str, Any]
) -> LlavaConfig:
  """LLaVA-1.5: CLIP, a projector of two layers, Llama."""
  fields, text = read_fields(raw), raw['text_config']
  check_field(text, 'model_type', 'llama', default='llama')
  return LlavaConfig(text_config=decoder(text, DEFAULTS), **fields, **options)


def _convolutions(config: LlavaConfig) -> dict[str, tuple[int, ...]]:
  """Trailing shapes of the kernels that are convolutions in the files."""
  p = config.vision_config.patch_size
  return {'patch_embedding/kernel': (3, p, p)}


def _copies(config: LlavaConfig) -> dict[str, str]:
  """The output layer, which some writers save although it is tied."""
  names = 'language_model.{}.weight'.format
  twins = {names('lm_head'): names('model.embed_tokens')}
  return twins if config.tie_word_embeddings else {}


def _image_cut(config: LlavaConfig) -> dict[str, int]:
  """How the model cuts an image; the processor must agree."""
  return {'tokens of an image': config.num_image_tokens}


def _image_tokens(config: LlavaConfig, room: int) -> int:
  """Image tokens of a row with ``room`` pictures."""
  return room * config.num_image_tokens


def _abstract_batch(
  config: LlavaConfig, rows: int, length: int, room: int
) -> Batch:
  """Shapes of a batch whose rows have room for ``room`` pictures."""
  size = config.vision_config.image_size
  pixels = jax.ShapeDtypeStruct((rows, room, 3, size, size), jnp.float32)
  return abstract_text(rows, length) | {'pixel_values': pixels}


def _widths(config: LlavaConfig) -> Mapping[str, Any]:
  """Sizes by which a plan of memory knows an activation."""
  vision = config.vision_config
  return widths(
    config.text_config,
    layers=config.num_vision_layers,
    split=vision.intermediate_size,
    heads=vision.num_attention_heads,
    picture=1,
  )


FAMILY = Family(
  name='llava',
  config=LlavaConfig,
  module=Llava,
  components=COMPONENTS,
  partition_rules=PARTITION_RULES,
  fields=sizes.CHECKPOINT
  | sizes.LLAVA
  | below('text_config', sizes.DECODER | sizes.ROPES)
  | below('vision_config', sizes.CLIP),
  read_config=_read_config,
  # Writers since transformers 4.52 put `model.` first, and 5.x leaves out
  # `vision_model.`.
  renames=(
    (r'^model\.language_model\.', 'language_model.model.'),
    (r'^lm_head\.', 'language_model.lm_head.'),
    (r'^model\.(vision_tower|multi_modal_projector)\.', r'\1.'),
    (r'^vision_tower\.(?!vision_model\.)', 'vision_tower.vision_model.'),
  ),
  convolutions=_convolutions,
  image_processor='CLIPImageProcessor',
  image_cut=_image_cut,
  image_tokens=_image_tokens,
  abstract_batch=_abstract_batch,
  widths=_widths,
  copies=_copies,
  published={
    'llava-1.5-7b': LlavaConfig(),
    'llava-1.5-13b': LlavaConfig(
      text_config=LlamaConfig(32064, 5120, 13824, 40, 40, 40)
    ),
  },
)
