"""Tiny random models of transformers in torch, and ours with their weights.

Sizes and weights are drawn from a seed. No weight of a norm is 1 and no bias
0, so none can be left out unseen.
"""

import functools
import tempfile
from typing import Any, NamedTuple

import numpy as np
import pytest
import transformers

from mmu_jax import models
from mmu_jax.models.hub import weights

torch = pytest.importorskip(
  'torch', reason='torch, the reference, is not installed: make parity'
)
torch.set_num_threads(1)  # the models are tiny

FAMILIES = ('llava', 'qwen2_vl')
CLASSES = {
  'llava': transformers.LlavaForConditionalGeneration,
  'qwen2_vl': transformers.Qwen2VLForConditionalGeneration,
}


class Pair(NamedTuple):
  """A model of transformers, and ours that was loaded from what it saved."""

  torch: Any
  ours: models.Model


def llava_config(seed: int, **changes: Any) -> transformers.LlavaConfig:
  """Draws the sizes of a LLaVA."""
  rng = np.random.default_rng(seed)
  draw = lambda low, high: int(rng.integers(low, high + 1))
  kv_heads, vision_heads, patch = draw(1, 2), draw(1, 3), draw(3, 6)
  heads = kv_heads * (1 + seed % 3)
  vocab = draw(90, 130)
  side = draw(2, 3)
  options = dict(
    vision_config=transformers.CLIPVisionConfig(
      hidden_size=vision_heads * draw(5, 9),
      intermediate_size=draw(20, 40),
      num_hidden_layers=draw(2, 3),
      num_attention_heads=vision_heads,
      image_size=patch * side,
      patch_size=patch,
      hidden_act=('quick_gelu', 'gelu')[seed % 2],
    ),
    text_config=transformers.LlamaConfig(
      vocab_size=vocab,
      hidden_size=heads * 2 * draw(3, 6),
      intermediate_size=draw(20, 40),
      num_hidden_layers=draw(1, 3),
      num_attention_heads=heads,
      num_key_value_heads=kv_heads,
      rms_norm_eps=float(rng.choice([1e-5, 1e-3])),
      rope_parameters={
        'rope_type': 'default',
        'rope_theta': float(rng.choice([1e3, 1e4])),
      },
      pad_token_id=0,
    ),
    image_token_index=vocab - 1,
    image_seq_length=side**2,
  )
  return transformers.LlavaConfig(**{**options, **changes})


def qwen2_vl_config(seed: int, **changes: Any) -> transformers.Qwen2VLConfig:
  """Draws the sizes of a Qwen2-VL; every second one has tied embeddings."""
  rng = np.random.default_rng(seed)
  draw = lambda low, high: int(rng.integers(low, high + 1))
  kv_heads, vision_heads = draw(1, 2), draw(1, 3)
  heads, section = kv_heads * (1 + seed % 3), [draw(1, 3) for _ in range(3)]
  hidden, vocab, tied = heads * 2 * sum(section), draw(90, 130), seed % 2 == 0
  options = dict(
    text_config=dict(
      vocab_size=vocab,
      hidden_size=hidden,
      intermediate_size=draw(20, 40),
      num_hidden_layers=draw(1, 3),
      num_attention_heads=heads,
      num_key_value_heads=kv_heads,
      rms_norm_eps=float(rng.choice([1e-6, 1e-3])),
      rope_parameters={
        'rope_type': 'default',
        'rope_theta': float(rng.choice([1e4, 1e6])),
        'mrope_section': section,
      },
      tie_word_embeddings=tied,
      pad_token_id=0,
      bos_token_id=1,
      eos_token_id=2,
    ),
    vision_config=dict(
      depth=draw(1, 3),
      embed_dim=vision_heads * 4 * draw(2, 3),
      hidden_size=hidden,
      num_heads=vision_heads,
      mlp_ratio=draw(2, 3),
      patch_size=draw(2, 4),
      spatial_merge_size=draw(2, 3),
    ),
    image_token_id=vocab - 1,
    video_token_id=vocab - 2,
    vision_start_token_id=vocab - 3,
    vision_end_token_id=vocab - 4,
    tie_word_embeddings=tied,
  )
  return transformers.Qwen2VLConfig(**{**options, **changes})


CONFIGS = {'llava': llava_config, 'qwen2_vl': qwen2_vl_config}


def build(config: Any, seed: int) -> Any:
  """Makes a torch model with random weights."""
  model = CLASSES[config.model_type](config).eval()
  # No token ends an answer unless a test names one.
  model.generation_config.eos_token_id = None
  model.generation_config.pad_token_id = 0
  rng = np.random.default_rng(seed)
  with torch.no_grad():
    for name, x in model.named_parameters():
      x.copy_(torch.tensor(_draw(rng, name, tuple(x.shape))))
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
  return load(build(CONFIGS[family](seed), seed), **options)


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
  names = ('pixel_values', 'image_grid_thw')
  with torch.no_grad():
    found = reference.get_image_features(
      **{name: given[name] for name in names if name in given}
    )
  return [x.numpy() for x in found.pooler_output]


def gradients(reference: Any) -> dict[str, np.ndarray | None]:
  """Hub name -> gradient after ``loss.backward()``; None where none flows."""
  family = reference.config.model_type
  return {
    weights.hub_name(name, family): None if x.grad is None else x.grad.numpy()
    for name, x in reference.named_parameters()
  }


def greedy(
  reference: Any,
  given: dict[str, Any],
  num_tokens: int,
  stop_id: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
  """Generates as transformers does.

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
    output_logits=True,
    return_dict_in_generate=True,
  )
  tokens = found.sequences[:, given['input_ids'].shape[1] :].numpy()
  best = torch.stack(found.logits, dim=1).topk(2).values.numpy()
  return tokens, best[..., 0] - best[..., 1]
