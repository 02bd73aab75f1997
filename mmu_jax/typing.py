"""The types that every module shares, and the letters that name axes.

Shapes are written with these letters: **B** examples (rows of a batch),
**L** tokens of a row, **K** tokens of a row that count in a loss, **I** images
of a row, **N** image patches (of an image; of all images of a row where their
number differs), **V** vocabulary, **D** width, **H** heads.
"""

from collections.abc import Callable
from typing import Any, NotRequired, TypedDict

import jax

Params = Any  # a pytree of parameters: nested dicts of float arrays
Mask = Any  # a pytree like Params: bool, True = may change; or packed bits
Scalar = jax.Array  # shape []


class Batch(TypedDict):
  """A batch of rows, packed or plain, all of one static shape.

  A row is a sequence of *documents* (one picture with its questions, or one
  text question). Within a document, branch 0 is the part that all its
  questions share and branches 1, 2, ... are the questions with their answers.
  A token sees what comes before it in its document, in its own branch and in
  branch 0; so a packed question sees exactly as much as it would alone.

  Attributes:
    tokens: ``[B, L]`` int32 token ids.
    positions: int32; ``[B, L]``, or ``[B, L, 3]`` (time, row, column) for a
      model with multimodal rotary embedding. They restart in every document,
      and every branch goes on where branch 0 ends.
    documents: ``[B, L]`` int32; 0 marks padding, 1, 2, ... the documents.
    branches: ``[B, L]`` int32; 0 is shared by the document's branches.
    image_slots: ``[B, L]`` int32; which image token of the row stands here,
      counted over all its images, -1 for text.
    pixel_values: float32, as the Hugging Face image processors give them. One
      size for all images (LLaVA): ``[B, I, 3, height, width]``. Any size
      (Qwen2-VL): ``[B, N, patch]``, the flattened patches of the row's images
      one after the other. I or N is 0 where no row has an image.
    patch_images: ``[B, N]`` int32, for images of any size: 0 marks padding,
      1, 2, ... the image of the row that a patch belongs to.
    patch_positions: ``[B, N, 2]`` int32, for images of any size: row and
      column of a patch in its image.
    targets: ``[B, L]`` int32; the token to predict *at* this position.
    weights: ``[B, L]`` float32 >= 0; how much that prediction counts in the
      loss, 0 for prompts, image tokens and padding.
    counted: ``[B, K]`` int32; the positions with a weight, in order, and -1
      behind them. Losses ask for logits at these places alone; without this
      entry, at every place.
    prompts: ``[B, Q]`` int32; the positions of the last tokens of prompts to
      continue, and -1 behind them. Without this entry, a row is one prompt.
    beside: the batch of another split, of any size, for a loss that reads two
      at once (``Turn.beside``).
  """

  tokens: jax.Array
  positions: jax.Array
  documents: jax.Array
  branches: jax.Array
  image_slots: jax.Array
  pixel_values: jax.Array
  patch_images: NotRequired[jax.Array]
  patch_positions: NotRequired[jax.Array]
  targets: jax.Array
  weights: jax.Array
  counted: NotRequired[jax.Array]
  prompts: NotRequired[jax.Array]
  beside: NotRequired['Batch']


# (params, batch) -> logits [B, L, V]; with at=[B, K] logits [B, K, V] at these
# positions; with layer=k hidden states [B, L, D]
Forward = Callable[..., jax.Array]
Terms = Scalar | tuple[Scalar, ...]  # a loss, or means whose sum it is
# (forward, params, ref_params, batch) -> scalar, or several that add up
LossFn = Callable[[Forward, Params, Params, Batch], Terms]
