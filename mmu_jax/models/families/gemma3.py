"""Gemma 3: SigLIP, a projector that averages patches, and Gemma's decoder."""

from collections.abc import Mapping
import dataclasses
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from mmu_jax import sharding
from mmu_jax.errors import UserError
from mmu_jax.models import attention
from mmu_jax.models import layers as layers_lib
from mmu_jax.models import llama
from mmu_jax.models.clip_vit import ClipVisionModel
from mmu_jax.models.clip_vit import SiglipVisionConfig
from mmu_jax.models.families import llava
from mmu_jax.models.family import check_field
from mmu_jax.models.family import decoder
from mmu_jax.models.family import sizes_of
from mmu_jax.models.family import widths
from mmu_jax.settings import sizes
from mmu_jax.settings.rules import below
from mmu_jax.typing import Batch

# (regex over leaf names, how the last axes are split); see `sharding`.
PARTITION_RULES = (
  (r'.*(embed_tokens|position_embedding)/embedding', P('tensor', 'fsdp')),
  (r'.*(o_proj|out_proj|down_proj|fc2)/kernel', P('tensor', 'fsdp')),
  (r'.*(/kernel|mm_input_projection_weight)', P('fsdp', 'tensor')),
  (r'.*', P()),
)
# Choices that make a decoder Gemma 3's.
GEMMA = dict(
  hidden_act='gelu_pytorch_tanh',
  qk_norm=True,
  norm_offset=1.0,
  post_norms=True,
  scale_embeddings=True,
)
GEMMA_4B = llama.LlamaConfig(
  vocab_size=262208,
  hidden_size=2560,
  intermediate_size=10240,
  num_hidden_layers=34,
  num_attention_heads=8,
  num_key_value_heads=4,
  rms_norm_eps=1e-6,
  rope_theta=1e6,
  rope_factor=8.0,
  head_dim=256,
  query_pre_attn_scalar=256.0,
  sliding_window=1024,
  sliding_window_pattern=6,
  **GEMMA,
)


@dataclasses.dataclass(frozen=True)
class Gemma3Config:
  """Sizes of a Gemma 3, and how it is computed; by default the 4B model.

  Attributes:
    vision_config: the tower.
    text_config: the decoder.
    mm_tokens_per_image: tokens of an image, the square of a whole number.
    dtype: dtype of the computation; parameters are float32 by default.
      Activations are too large for float16.
    attention: implementation, see ``attention.attend``.
    remat: a key of ``layers.REMAT``.
  """

  vision_config: SiglipVisionConfig = SiglipVisionConfig()
  text_config: llama.LlamaConfig = GEMMA_4B
  mm_tokens_per_image: int = 256
  dtype: str = 'float32'
  attention: str = 'auto'
  remat: str = 'products'

  def __post_init__(self):
    """Raises ValueError where a choice is unknown or sizes do not fit."""
    layers_lib.check_computation(self.attention, self.remat)
    side = self.vision_config.image_size // self.vision_config.patch_size
    if self.side**2 != self.mm_tokens_per_image or side % self.side:
      raise UserError(
        'mm_tokens_per_image is the square of a number that divides the '
        f'{side} patches of a row; got {self.mm_tokens_per_image}.'
      )
    if self.text_config.norm_offset != 1:
      raise UserError(
        f'norm_offset of a Gemma is 1, got {self.text_config.norm_offset}.'
      )

  @property
  def side(self) -> int:
    """Tokens in a row of an image."""
    return int(self.mm_tokens_per_image**0.5 + 0.5)


class Gemma3Projector(nnx.Module):
  """Averages squares of patches, and brings them to the decoder's width."""

  def __init__(self, config: Gemma3Config, rngs: nnx.Rngs):
    vision, text = config.vision_config, config.text_config
    self.config = config
    # A matrix [in, out] in the files, too.
    normal = nnx.initializers.normal(0.02)
    shape = (vision.hidden_size, text.hidden_size)
    self.mm_input_projection_weight = nnx.Param(normal(rngs.params(), shape))
    self.mm_soft_emb_norm = llama.OffsetNorm(
      vision.hidden_size, vision.layer_norm_eps, 1.0, config.dtype
    )

  def __call__(self, x: jax.Array) -> jax.Array:
    n, side, width = len(x), self.config.side, x.shape[-1]
    vision = self.config.vision_config
    k = vision.image_size // vision.patch_size // side
    x = x.reshape(n, side, k, side, k, width).mean(axis=(2, 4))
    x = self.mm_soft_emb_norm(x.reshape(n, side * side, width))
    return x @ self.mm_input_projection_weight[...].astype(x.dtype)


class Gemma3(nnx.Module):
  """The whole model; its parts are named as in the checkpoints on the hub.

  References:
    Gemma Team, Gemma 3 Technical Report, 2025
    (https://arxiv.org/abs/2503.19786).
  """

  def __init__(self, config: Gemma3Config, rngs: nnx.Rngs):
    self.config = config
    tower = ClipVisionModel(config.vision_config, config.dtype, rngs)
    self.vision_tower = nnx.Dict(vision_model=tower)
    self.multi_modal_projector = Gemma3Projector(config, rngs)
    text = llama.LlamaModel(config.text_config, config.dtype, rngs)
    self.language_model = nnx.Dict(model=text)

  @property
  def decoder(self) -> llama.LlamaModel:
    """The layers between embeddings and logits."""
    return self.language_model.model

  def image_features(self, batch: Batch) -> jax.Array:
    """Returns the image tokens ``[B, I * tokens, D]`` of every row."""
    pixels = batch['pixel_values']  # [B, I, 3, height, width]
    x = self.vision_tower.vision_model(
      pixels.reshape(-1, *pixels.shape[2:]).astype(self.config.dtype),
      num_layers=self.config.vision_config.num_hidden_layers,
      attention=self.config.attention,
      remat=self.config.remat,
    )
    x = sharding.split_rows(x)  # rows stay in order, as in LLaVA
    x = sharding.split_rows(self.multi_modal_projector(x))
    return x.reshape(pixels.shape[0], -1, x.shape[-1])

  def logits(self, hidden: jax.Array) -> jax.Array:
    """Maps hidden states ``[..., D]`` to logits ``[..., V]``."""
    return self.decoder.embed_tokens.attend(hidden)


# Values of transformers for fields that config.json leaves out.
_DEFAULTS = dict(
  vocab_size=262208,
  hidden_size=2304,
  intermediate_size=9216,
  num_hidden_layers=26,
  num_attention_heads=8,
  num_key_value_heads=4,
  head_dim=256,
  rms_norm_eps=1e-6,
  rope_theta=1e6,
)
_TOWER = dict(
  hidden_size=768,
  intermediate_size=3072,
  num_hidden_layers=12,
  num_attention_heads=12,
  image_size=224,
  patch_size=16,
  layer_norm_eps=1e-6,
  hidden_act='gelu_pytorch_tanh',
)


def _read_config(
  raw: Mapping[str, Any], options: dict[str, Any]
) -> Gemma3Config:
  """Gemma 3; absent sizes are common in its files."""
  check_field(raw, 'tie_word_embeddings', True, default=True)
  vision = sizes_of(raw, 'vision_config')
  kind = 'siglip_vision_model'
  check_field(vision, 'model_type', kind, default=kind)
  return Gemma3Config(
    vision_config=SiglipVisionConfig(
      **{name: vision.get(name, x) for name, x in _TOWER.items()}
    ),
    text_config=_read_text(sizes_of(raw, 'text_config')),
    mm_tokens_per_image=raw.get('mm_tokens_per_image', 256),
    **options,
  )


def _read_text(text: Mapping[str, Any]) -> llama.LlamaConfig:
  """The decoder, whose layers have one of two rotary embeddings."""
  act = 'gelu_pytorch_tanh'
  check_field(text, 'model_type', 'gemma3_text', default='gemma3_text')
  check_field(text, 'hidden_activation', act, default=act)
  check_field(text, 'use_bidirectional_attention', False, default=False)
  for field in ('final_logit_softcapping', 'attn_logit_softcapping'):
    check_field(text, field, None, default=None)
  # transformers 5 has a rotary embedding for each kind of layer.
  kinds = text.get('rope_parameters') or {}
  whole = kinds.get('full_attention') or text.get('rope_scaling')
  local = kinds.get('sliding_attention') or {}
  check_field(local, 'rope_type', 'default', default='default')
  local = local.get('rope_theta', text.get('rope_local_base_freq', 1e4))
  return decoder(
    {**text, 'rope_scaling': whole, 'rope_parameters': None},
    _DEFAULTS,
    **GEMMA,
    query_pre_attn_scalar=float(text.get('query_pre_attn_scalar', 256)),
    sliding_window=text.get('sliding_window', 4096),
    sliding_window_pattern=_pattern(text),
    rope_local_base_freq=local,
  )


def _pattern(text: Mapping[str, Any]) -> int:
  """Every how many layers one sees all tokens."""
  names = ('sliding_window_pattern', '_sliding_window_pattern')
  pattern = next((text[n] for n in names if text.get(n)), 6)
  kinds = text.get('layer_types')
  if kinds and 'full_attention' in kinds:
    pattern = kinds.index('full_attention') + 1
  count = text.get('num_hidden_layers', _DEFAULTS['num_hidden_layers'])
  every = [
    'sliding_attention' if n % pattern else 'full_attention'
    for n in range(1, count + 1)
  ]
  if kinds and [*kinds] != every:
    raise UserError(
      f'layer_types has one full_attention every {pattern} layers, {count} in '
      f'all; got {kinds}.'
    )
  return pattern


def _attention_mask(config: Gemma3Config, batch: Batch) -> jax.Array:
  """Tokens see backwards, and the tokens of an image see each other."""
  slots = batch['image_slots']
  images = jnp.where(slots < 0, -1, slots // config.mm_tokens_per_image)
  return attention.attention_mask(batch['documents'], batch['branches'], images)


def _copies(config: Gemma3Config) -> dict[str, str]:
  """The output layer, which some writers save although it is tied."""
  del config
  embedding = 'language_model.model.embed_tokens.weight'
  return {'language_model.lm_head.weight': embedding}


def _image_cut(config: Gemma3Config) -> dict[str, int]:
  """How the model cuts an image; the processor must agree."""
  return {'tokens of an image': config.mm_tokens_per_image}


def _image_tokens(config: Gemma3Config, room: int) -> int:
  """Image tokens of a row with ``room`` pictures."""
  return room * config.mm_tokens_per_image


def _widths(config: Gemma3Config) -> Mapping[str, Any]:
  """Sizes by which a plan of memory knows an activation."""
  vision = config.vision_config
  return widths(
    config.text_config,
    layers=vision.num_hidden_layers,
    split=vision.intermediate_size,
    heads=vision.num_attention_heads,
    picture=1,
  )


FAMILY = dataclasses.replace(
  llava.FAMILY,
  name='gemma3',
  config=Gemma3Config,
  module=Gemma3,
  partition_rules=PARTITION_RULES,
  fields=sizes.CHECKPOINT
  | sizes.GEMMA3
  | below('text_config', sizes.DECODER | sizes.ROPES | sizes.GEMMA3_TEXT)
  | below('vision_config', sizes.CLIP),
  read_config=_read_config,
  image_processor='Gemma3ImageProcessor',
  image_cut=_image_cut,
  image_tokens=_image_tokens,
  widths=_widths,
  copies=_copies,
  attention_mask=_attention_mask,
  published={
    'gemma-3-4b': Gemma3Config(),
    'gemma-3-12b': Gemma3Config(
      text_config=dataclasses.replace(
        GEMMA_4B,
        hidden_size=3840,
        intermediate_size=15360,
        num_hidden_layers=48,
        num_attention_heads=16,
        num_key_value_heads=8,
      )
    ),
  },
)
