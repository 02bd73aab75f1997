"""LLaVA-NeXT (LLaVA-1.6): LLaVA that reads a picture in tiles.

The tower sees the whole picture and its tiles, all of one size, and a learnt
feature ends every row of patches. Which features a sequence has in which order
depends on the size of the picture; the host says it in ``image_slots``, see
``data.encoding.tiles``. The rest is LLaVA.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp

from mmu_jax import sharding
from mmu_jax.errors import UserError
from mmu_jax.models.families import llava
from mmu_jax.models.family import decoder
from mmu_jax.models.llama import LlamaConfig
from mmu_jax.settings import sizes
from mmu_jax.settings.rules import one_of
from mmu_jax.typing import Batch

# Heights and widths, pixels, that a picture may be scaled to.
PINPOINTS = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))


@dataclasses.dataclass(frozen=True)
class LlavaNextConfig(llava.LlavaConfig):
  """Sizes of a LLaVA-NeXT, and how it is computed; see ``LlavaConfig``.

  Attributes:
    image_grid_pinpoints: heights and widths, pixels, that a picture may be
      scaled to before it is cut into tiles of ``vision_config.image_size``.
  """

  image_grid_pinpoints: tuple[tuple[int, int], ...] = PINPOINTS

  def __post_init__(self):
    """Raises ValueError where a choice is unknown or tiles are not whole."""
    super().__post_init__()
    # Lists of config files become tuples, so that configs can be compared.
    points = tuple((h, w) for h, w in self.image_grid_pinpoints)
    object.__setattr__(self, 'image_grid_pinpoints', points)
    edge = self.vision_config.image_size
    if not points or any(n % edge for point in points for n in point):
      raise UserError(
        'image_grid_pinpoints are heights and widths of whole tiles of '
        f'vision_config.image_size, {edge} pixels; got {points}.'
      )
    if self.vision_feature_select_strategy != 'default':
      raise UserError(
        "vision_feature_select_strategy must be 'default', got "
        f'{self.vision_feature_select_strategy!r}: a class token has no place '
        'among the patches of tiles.'
      )

  @property
  def tiles(self) -> list[tuple[int, int]]:
    """Rows and columns of tiles of each size that a picture may have."""
    edge = self.vision_config.image_size
    return [(h // edge, w // edge) for h, w in self.image_grid_pinpoints]


class LlavaNext(llava.Llava):
  """The whole model; its parts are named as in the checkpoints on the hub.

  References:
    Liu et al., LLaVA-NeXT: Improved reasoning, OCR, and world knowledge, 2024
    (https://llava-vl.github.io/blog/2024-01-30-llava-next/).
  """

  def __init__(self, config: LlavaNextConfig, rngs: nnx.Rngs):
    super().__init__(config, rngs)
    width = config.text_config.hidden_size
    normal = nnx.initializers.normal(width**-0.5)
    self.image_newline = nnx.Param(normal(rngs.params(), (width,)))

  def image_features(self, batch: Batch) -> jax.Array:
    """Returns ``[B, 1 + I * N, D]``: the end of a row, then all patches."""
    patches = super().image_features(batch)
    end = self.image_newline[...].astype(patches.dtype)
    end = jnp.broadcast_to(end, (len(patches), 1, len(end)))
    return sharding.split_rows(jnp.concatenate([end, patches], axis=1))


# Values of transformers for fields of a decoder that config.json leaves out.
_DECODERS = {
  'llama': llava.DEFAULTS,
  'mistral': llava.DEFAULTS
  | dict(intermediate_size=14336, num_key_value_heads=8),
}


def _read_config(
  raw: Mapping[str, Any], options: dict[str, Any]
) -> LlavaNextConfig:
  """LLaVA-1.6 with the decoder of Llama (Vicuna), or of Mistral."""
  fields, text = llava.read_fields(raw), raw['text_config']
  kind = text.get('model_type', 'llama')
  # transformers has a window of 4096 tokens where the field is absent.
  window = text.get('sliding_window', 4096 if kind == 'mistral' else None)
  if window is not None:
    raise UserError(
      'text_config.sliding_window must be null, as in the published models; '
      f'got {window!r}, or nothing, which means 4096 for Mistral.'
    )
  points = raw.get('image_grid_pinpoints') or PINPOINTS
  return LlavaNextConfig(
    text_config=decoder(text, _DECODERS[kind]),
    image_grid_pinpoints=points,
    **fields,
    **options,
  )


def _image_cut(config: LlavaNextConfig) -> dict[str, Any]:
  """How the model cuts an image; the processor must agree."""
  return {
    'tokens of a tile': config.num_image_tokens,
    'image_grid_pinpoints': config.image_grid_pinpoints,
  }


def _image_tokens(config: LlavaNextConfig, room: int) -> int:
  """Most image tokens of a row with ``room`` tiles; a picture may have less."""
  # The ends of rows, of one picture without padding that has all tiles.
  rows = [rows for rows, columns in config.tiles if 1 + rows * columns == room]
  side = config.vision_config.image_size // config.vision_config.patch_size
  ends = max(rows, default=max(room, 1)) * side
  return room * config.num_image_tokens + ends * bool(room)


def _widths(config: LlavaNextConfig) -> Mapping[str, Any]:
  """Sizes by which a plan of memory knows an activation."""
  most = max(1 + rows * columns for rows, columns in config.tiles)
  return {**llava.FAMILY.widths(config), 'picture': most}


FAMILY = dataclasses.replace(
  llava.FAMILY,
  name='llava_next',
  config=LlavaNextConfig,
  module=LlavaNext,
  components=llava.COMPONENTS
  | {'projector': r'(multi_modal_projector/|image_newline)'},
  fields=llava.FAMILY.fields
  | sizes.LLAVA_NEXT
  | {'text_config.model_type': (one_of(*_DECODERS), 'kind of the decoder')},
  read_config=_read_config,
  renames=(*llava.FAMILY.renames, (r'^model\.image_newline$', 'image_newline')),
  image_processor='LlavaNextImageProcessor',
  image_cut=_image_cut,
  image_tokens=_image_tokens,
  widths=_widths,
  published={
    'llava-1.6-vicuna-7b': LlavaNextConfig(),
    'llava-1.6-vicuna-13b': LlavaNextConfig(
      text_config=llava.FAMILY.published['llava-1.5-13b'].text_config
    ),
    'llava-1.6-mistral-7b': LlavaNextConfig(
      text_config=LlamaConfig(
        intermediate_size=14336,
        num_key_value_heads=8,
        rope_theta=1e6,
        max_position_embeddings=32768,
      )
    ),
  },
)
