"""Tiny random models of transformers in torch, and ours with their weights.

Sizes and weights are drawn from a seed. No weight of a norm is 1 and no bias
0, so none can be left out unseen.
"""

import functools
import re
import tempfile
from typing import Any, NamedTuple

import families
import numpy as np
import pytest
import transformers

from mmu_jax import models
from mmu_jax.models.hub import weights

torch = pytest.importorskip(
  'torch', reason='torch, the reference, is not installed: make parity'
)
torch.set_num_threads(1)  # the models are tiny

FAMILIES = tuple(families.CASES)


class Pair(NamedTuple):
  """A model of transformers, and ours that was loaded from what it saved."""

  torch: Any
  ours: models.Model


def config_of(family: str, seed: int, **changes: Any) -> Any:
  """Draws the sizes of a model."""
  return families.CASES[family].torch_config(seed, **changes)


def torch_class(family: str) -> Any:
  """The class of transformers."""
  return getattr(transformers, families.CASES[family].torch_class)


def build(config: Any, seed: int) -> Any:
  """Makes a torch model with random weights."""
  model = torch_class(families.of(config).name)(config).eval()
  # No token ends an answer unless a test names one.
  model.generation_config.eos_token_id = None
  model.generation_config.pad_token_id = 0
  rng = np.random.default_rng(seed)
  one_more = re.compile(families.of(config).one_more)
  with torch.no_grad():
    for name, x in model.named_parameters():
      drawn = _draw(rng, name, tuple(x.shape))
      x.copy_(torch.tensor(drawn - bool(one_more.fullmatch(name))))
  return model


def _draw(rng, name: str, shape: tuple[int, ...]) -> np.ndarray:
  """Random values of one tensor; logits of about one unit come of them."""
  x = rng.standard_normal(shape).astype(np.float32)
  if 'embed_tokens' in name or 'position_embedding' in name:
    return 0.5 * x
  if len(shape) > 1:
    return np.float32(np.prod(shape[1:]) ** -0.5) * x
  if name.endswith('weight'):  # of a norm
    # Of either sign: else tied embeddings repeat the last token for ever.
    return (1 + 0.3 * x) * rng.choice(np.float32([-1, 1]), shape)
  return 0.3 * x


@functools.cache
def pair(family: str, seed: int, **options: Any) -> Pair:
  """The models of one seed; ``options`` are those of ``models.load``."""
  return load(build(config_of(family, seed), seed), **options)


def load(reference: Any, **options: Any) -> Pair:
  """Saves a torch model and loads it as ours."""
  with tempfile.TemporaryDirectory() as folder:
    reference.save_pretrained(folder)
    return Pair(reference, models.load(folder, **options))


def forward(reference: Any, given: dict[str, Any]) -> Any:
  """Runs the torch model; the output has ``loss`` and ``logits``."""
  if hasattr(reference.model, 'rope_deltas'):
    reference.model.rope_deltas = None  # of an earlier call
  return reference(**given)


def image_features(reference: Any, given: dict[str, Any]) -> list[np.ndarray]:
  """The tokens ``[n, D]`` of every image, in the order of the batch."""
  names = ('pixel_values', 'image_grid_thw', 'image_sizes')
  with torch.no_grad():
    found = reference.get_image_features(
      **{name: given[name] for name in names if name in given}
    )
  return [x.numpy() for x in found.pooler_output]


def gradients(reference: Any) -> dict[str, np.ndarray | None]:
  """Hub name -> gradient after ``loss.backward()``; None where none flows."""
  family = families.of(reference.config).name
  return {
    weights.hub_name(name, family): None if x.grad is None else x.grad.numpy()
    for name, x in reference.named_parameters()
  }


def greedy(
  reference: Any,
  given: dict[str, Any],
  num_tokens: int,
  stop_id: int | None = None,
  **options: Any,
) -> tuple[np.ndarray, np.ndarray]:
  """Generates as transformers does, with more options of ``generate``.

  Returns:
    ``[B, T]`` new tokens, padded with the stop id; and ``[B, T]``, by how much
    each was likelier than the second, in logits.
  """
  given = {k: x for k, x in given.items() if k != 'labels'}
  if hasattr(reference.model, 'rope_deltas'):
    reference.model.rope_deltas = None
  found = reference.generate(
    **given,
    do_sample=False,
    max_new_tokens=num_tokens,
    eos_token_id=stop_id,
    pad_token_id=stop_id or 0,
    output_scores=True,
    return_dict_in_generate=True,
    **options,
  )
  tokens = found.sequences[:, given['input_ids'].shape[1] :].numpy()
  best = torch.stack(found.scores, dim=1).topk(2).values.numpy()
  return tokens, best[..., 0] - best[..., 1]
