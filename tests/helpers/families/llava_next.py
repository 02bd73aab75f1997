"""LLaVA-NeXT (LLaVA-1.6) in the tests."""

from typing import Any

import transformers

from families import llava
from families import pictures
from families import tensors
from families.case import Case

_VICUNA = llava.CASE


def shapes(tied: bool = False) -> tensors.Shapes:
  """LLaVA's, and the end of a row."""
  return llava.shapes(tied) | {'image_newline': (tensors.WIDTH,)}


def pinpoints(edge: int) -> list[list[int]]:
  """Sizes of two to four tiles, as the published ones."""
  tiles = ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))
  return [[rows * edge, columns * edge] for rows, columns in tiles]


def torch_config(seed: int, **changes: Any) -> transformers.LlavaNextConfig:
  """Draws the sizes of a LLaVA-NeXT; every second one has Mistral's decoder."""
  drawn = llava.torch_config(seed)
  text = drawn.text_config.to_dict()
  if seed % 2 == 0:
    del text['model_type']
    text = transformers.MistralConfig(**text, sliding_window=None)
  options = dict(
    vision_config=drawn.vision_config,
    text_config=text,
    image_token_index=drawn.image_token_index,
    image_grid_pinpoints=pinpoints(drawn.vision_config.image_size),
    tie_word_embeddings=drawn.tie_word_embeddings,
  )
  return transformers.LlavaNextConfig(**{**options, **changes})


CASE = Case(
  name='llava_next',
  options=_VICUNA.options
  | dict(
    vision_config=_VICUNA.options['vision_config'] | dict(image_size=24),
    image_grid_pinpoints=pinpoints(24),
  ),
  room=3,
  repeats=True,
  hub_config=_VICUNA.hub_config
  | dict(model_type='llava_next', image_grid_pinpoints=pinpoints(24)),
  decoder_at='text_config',
  shapes=shapes,
  renamed=llava.renamed,
  transposed=_VICUNA.transposed,
  decoder=_VICUNA.decoder,
  patches=_VICUNA.patches,
  torch_class='LlavaNextForConditionalGeneration',
  torch_config=torch_config,
  torch_seeds={'vicuna': 1, 'mistral': 2},
  torch_names=_VICUNA.torch_names | {'model.image_newline': 'image_newline'},
  varies=_VICUNA.varies,
  pictures=pictures.TILES,
  length=192,
)
