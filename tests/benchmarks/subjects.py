"""The models that are measured, their rows and their batches."""

from collections.abc import Sequence
import dataclasses
import functools
import importlib.util
import pathlib
import sys
from typing import Any, NamedTuple

import jax
import numpy as np
import transformers

from mmu_jax import models
from mmu_jax.data.batches import batching
from mmu_jax.data.encoding.processors import Processor
from mmu_jax.data.people import vocabulary
from mmu_jax.data.people import world as world_lib
from mmu_jax.data.row import Row
from mmu_jax.models import MODELS
from mmu_jax.planning import activations
from mmu_jax.typing import Batch
from mmu_jax.typing import Params

HAS_TORCH = importlib.util.find_spec('torch') is not None
PATCH = 12
QUESTIONS = 4  # about each picture
sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / 'helpers'))


class Size(NamedTuple):
  """Sizes of a LLaVA: width, width of the MLP, layers, heads of both parts.

  A picture takes ``(pixels / PATCH)^2`` tokens.
  """

  vision: tuple[int, int, int, int]
  text: tuple[int, int, int, int]
  pixels: int


SIZES = {
  'demo': Size((96, 384, 3, 2), (128, 344, 4, 2), 48),  # 1.3 M, 16 tokens
  '5m': Size((128, 512, 4, 4), (192, 512, 8, 4), 192),
  '12m': Size((192, 768, 4, 4), (320, 864, 8, 5), 192),
  '30m': Size((256, 1024, 4, 4), (512, 1376, 8, 8), 192),  # 256 tokens
  '107m': Size((384, 1536, 6, 6), (768, 2048, 13, 12), 192),
  '300m': Size((512, 2048, 8, 8), (1024, 2752, 21, 16), 192),
}
_NAMES = 'hidden_size intermediate_size num_hidden_layers num_attention_heads'


class Subject(NamedTuple):
  """A model with random weights, and the same in torch where it is installed.

  Attributes:
    name: key of ``SIZES``.
    model: the model.
    params: its parameters.
    processor: tokenizer and images; no token of the tokenizer ends an answer.
    torch: the model of transformers, or None.
  """

  name: str
  model: models.Model
  params: Params
  processor: Processor
  torch: Any = None


@functools.cache
def load(name: str, torch: bool = True) -> Subject:
  """Makes a model; torch's is saved, and ours reads its files.

  Args:
    name: key of ``SIZES``.
    torch: whether to make it in torch too, if that is installed.
  """
  processor = vocabulary.make_processor(SIZES[name].pixels, PATCH)
  words = len(processor.tokenizer)
  processor = dataclasses.replace(processor, stop_ids=(words,))
  if torch and HAS_TORCH:
    pair = _pair(name, words, processor)
    return Subject(name, pair.ours, pair.ours.params, processor, pair.torch)
  model = build(name, words)
  return Subject(name, model, model.init(jax.random.key(0)), processor)


def build(name: str, words: int, **options: Any) -> models.Model:
  """Builds a model without parameters, with a vocabulary of so many words."""
  vision, text = _sizes(name)
  return models.from_options(
    'llava', words, vision_config=vision, text_config=text, **options
  )


def _sizes(name: str) -> tuple[dict[str, int], dict[str, int]]:
  """Fields of both parts of a config, in the names of ``config.json``."""
  size = SIZES[name]
  vision, text = (dict(zip(_NAMES.split(), x)) for x in size[:2])
  vision |= dict(image_size=size.pixels, patch_size=PATCH)
  text |= dict(num_key_value_heads=size.text[-1])
  return vision, text


def _pair(name: str, words: int, processor: Processor) -> Any:
  """A model in torch, and ours of the files that it saves."""
  import parity_reference as reference

  vision, text = _sizes(name)
  config = reference.config_of(
    'llava',
    0,
    vision_config=transformers.CLIPVisionConfig(**vision),
    text_config=transformers.LlamaConfig(
      vocab_size=words, pad_token_id=0, **text
    ),
    image_token_index=processor.image_token_id,
    image_seq_length=processor.images.tokens_per_image,
    vision_feature_layer=-2,
    vision_feature_select_strategy='default',
    projector_hidden_act='gelu',
  )
  return reference.load(reference.build(config, 0))


@functools.cache
def _world() -> world_lib.World:
  return world_lib.make_world(0, num_people=60, num_captioned=0)


def rows_of(splits: Sequence[str], pictures: int) -> list[Row]:
  """Rows to train on: four questions about each of some pictures."""
  found: dict[str, list[Row]] = {}
  for split in splits:
    for row in _world().train[split]:
      found.setdefault(row.picture.key, []).append(row)
  groups = [x[:QUESTIONS] for x in found.values() if len(x) >= QUESTIONS]
  return [row for group in groups[:pictures] for row in group]


def asked(pictures: int) -> list[Row]:
  """Rows to answer in words: four questions about each of some pictures."""
  return rows_of(['vqa/retain'], pictures)


def batch_of(
  subject: Subject, split: str, pictures: int, packed: bool
) -> Batch:
  """A batch of four questions a picture: packed in a row, or a row each."""
  rows = rows_of([f'vqa/{split}'], pictures)
  size, questions = (pictures, QUESTIONS) if packed else (len(rows), 1)
  encoder = batching.Encoder(subject.processor)
  (batch,) = batching.row_batches(rows, encoder, size=size, questions=questions)
  return batch


def random_batch(
  model: models.Model, rows: int, length: int, room: int, counted: int = 64
) -> Batch:
  """A batch of random tokens with one picture a row, of any family.

  Args:
    model: model of the batch.
    rows: B.
    length: L, tokens of a row.
    room: places of a row's picture; 0 for none.
    counted: K, tokens of the answer at the end of a row.
  """
  config, rng = model.config, np.random.default_rng(0)
  shapes = activations.abstract_batch(config, rows, length, room, counted)
  batch = {k: np.zeros(x.shape, x.dtype) for k, x in shapes.items()}
  tokens = rng.integers(3, config.text_config.vocab_size, (rows, length))
  batch['tokens'][:] = tokens
  batch['targets'][:] = np.roll(tokens, -1, 1)
  batch['documents'][:] = 1
  batch['positions'].T[:] = np.arange(length)[:, None]  # of every axis
  batch['counted'][:] = np.arange(length - counted - 1, length - 1)
  batch['weights'][:, length - counted - 1 : length - 1] = 1
  n = MODELS[model.family].image_tokens(config, room) if room else 0
  batch['image_slots'][:] = -1
  batch['image_slots'][:, 5 : 5 + n] = np.arange(n)
  batch['pixel_values'][:] = rng.normal(size=batch['pixel_values'].shape)
  if room and 'patch_images' in batch:
    side = int(room**0.5)
    batch['patch_images'][:] = 1
    batch['patch_positions'][:] = np.indices((side, side)).reshape(2, -1).T
  return batch
