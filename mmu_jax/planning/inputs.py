"""The model and the batches of a config: no weights, and if need be no data."""

from collections.abc import Callable, Iterable, Mapping
import dataclasses
import pathlib
from typing import Any, NamedTuple

from mmu_jax import models
from mmu_jax.data import datasets
from mmu_jax.data.batches import batching
from mmu_jax.data.encoding import processing
from mmu_jax.data.encoding import processors
from mmu_jax.data.encoding.patches import bucket
from mmu_jax.errors import UserError
from mmu_jax.models import Model
from mmu_jax.models.hub import config as hub_config
from mmu_jax.models.llama import LlamaConfig
from mmu_jax.models.qwen2_vl import QWEN2_7B
from mmu_jax.models.qwen2_vl import Qwen2VLVisionConfig
from mmu_jax.planning import shapes
from mmu_jax.planning.shapes import Rows

# Sizes as config.json of each has them.
PUBLISHED = {
  'llava-1.5-7b': models.LlavaConfig(),
  'llava-1.5-13b': models.LlavaConfig(
    text_config=LlamaConfig(
      hidden_size=5120,
      intermediate_size=13824,
      num_hidden_layers=40,
      num_attention_heads=40,
      num_key_value_heads=40,
      max_position_embeddings=4096,
    )
  ),
  'qwen2-vl-2b': models.Qwen2VLConfig(
    vision_config=Qwen2VLVisionConfig(hidden_size=1536),
    text_config=dataclasses.replace(
      QWEN2_7B,
      vocab_size=151936,
      hidden_size=1536,
      intermediate_size=8960,
      num_attention_heads=12,
      num_key_value_heads=2,
    ),
    tie_word_embeddings=True,
  ),
  'qwen2-vl-7b': models.Qwen2VLConfig(),
}
TEXT_SPLITS = ('qa', 'facts')  # kinds of splits without pictures


class Inputs(NamedTuple):
  """What a plan starts from.

  Attributes:
    model: shapes of parameters, and how it computes.
    rows: ``rows(parts) -> Rows``: the batch that some parts of a config make.
    prompts: the longest prompts of the evaluation.
    notes: where the sizes are from, for people.
  """

  model: Model
  rows: Callable[[Iterable[Mapping[str, Any]]], Rows]
  prompts: Rows
  notes: tuple[str, ...]


def read(config: Any, name: str = '', length: int = 0) -> Inputs:
  """Reads what a plan needs of a config.

  Args:
    config: the whole config.
    name: a key of ``PUBLISHED``, or a folder with config.json; '' for the
      model of the config.
    length: L of every batch, tokens; 0 for that of the data, or where there
      are none an image and ``shapes.TEXT`` tokens for each question.

  Raises:
    ValueError: if the model is unknown, a small one has no data, whose
      vocabulary it has, or a picture needs more tokens than the length.
  """
  plain = config.to_dict()
  path = name or plain['model'].get('path', '')
  if not path and plain['data'].get('path', None) == '':
    raise UserError(
      'config.data.path is empty: give --config.data.path=..., or '
      '--model=llava-1.5-7b to plan without data.'
    )
  made = _published(path, plain['model']) if path else None
  try:
    data, encoder = _data(plain, '' if name in PUBLISHED else path, name)
    said = 'batches are those of the data'
  except (OSError, ValueError) as error:
    if made is None:
      raise
    data = encoder = None
    said = f'no data ({str(error).split(". ")[0].splitlines()[0][:90]})'
  if made is None:
    sizes = {
      k: v
      for k, v in plain['model'].items()
      if k not in ('path', 'processor', 'name')
    }
    vocabulary = len(encoder.processor.tokenizer)
    made = models.from_options(plain['model']['name'], vocabulary, **sizes)
  guess = lambda parts: _guessed(made, parts)
  if length:
    _check_length(made, length)
    said = f'{length} tokens a row, as given'
    rows = lambda parts: guess(parts)._replace(length=length)
  elif encoder is None:
    image = shapes.image_tokens(made.config, _room(made))
    said += f': {image} tokens an image and {shapes.TEXT} a question'
    rows = guess
  else:
    rows = lambda parts: _drawn(parts, data, encoder, config)
  prompts = _prompts(made, data, encoder, plain, length)
  return Inputs(made, rows, prompts, (said,))


def _check_length(model: Model, length: int) -> None:
  """Raises ValueError unless a picture and a token of text have room."""
  least = shapes.image_tokens(model.config, _room(model)) + 1
  if length < least:
    raise UserError(
      f'--length is at least {least} tokens, for a picture and one more; '
      f'got {length}. Leave it out for the lengths of the data.'
    )


def _published(path: str, options: Mapping[str, Any]) -> Model:
  """A model of known sizes, computed as the config says."""
  ways = {
    k: options[k] for k in ('dtype', 'attention', 'remat') if k in options
  }
  if path in PUBLISHED:
    return models.build(dataclasses.replace(PUBLISHED[path], **ways))
  if not (pathlib.Path(path) / hub_config.FILE).exists():
    raise UserError(
      f'a model is one of {", ".join(PUBLISHED)}, or a folder with '
      f'{hub_config.FILE}; got {path!r}.'
    )
  return models.build(hub_config.read(path, ways))


def _data(plain, path, name):
  """The dataset and its encoder.

  Raises:
    ValueError: or OSError, if one of them is not there.
  """
  if name in PUBLISHED:
    raise UserError(f'{name} is planned by its sizes alone')
  options = dict(plain['data'])
  if options.get('path', None) == '':
    raise UserError('config.data.path is empty')
  data = datasets.load(options.pop('name'), plain['seed'], **options)
  if path:
    limits = dict(plain['model'].get('processor', {}))
    own = limits.pop('own_tokenizer', False)
    limits = {k: v or None for k, v in limits.items()}
    processor = processors.load(path, raw_tokenizer=not own, **limits)
  else:
    processor = data.processor
  if processor is None:
    raise UserError(
      'a benchmark is planned for a checkpoint: give --model, or set '
      'config.model.path to a folder with config.json'
    )
  return data, batching.Encoder(processor, plain['labels'])


def _drawn(parts, data, encoder, config) -> Rows:
  """The batch that a stream draws; one row of it is made."""
  drawn = []
  for part in parts:
    names = [n for s in part['splits'] for n in _splits(s, config.groups)]
    rows = [row for name in names for row in data.train[name]]
    drawn.append(batching.Part(rows, part['size'], part['questions']))
  stream = batching.Stream(drawn, encoder, seed=0, share=lambda rows: range(1))
  return shapes.of(stream(0))._replace(rows=stream.num_rows)


def _splits(split: str, groups: Mapping[str, Iterable[str]]) -> list[str]:
  """The splits that a name with a role stands for."""
  kind, _, role = split.partition(':')
  return [f'{kind}/{group}' for group in groups[role]] if role else [split]


def _guessed(model: Model, parts: Iterable[Mapping[str, Any]]) -> Rows:
  """The batch of some parts, where no data says it."""
  count = length = room = 0
  for part in parts:
    count += part['size']
    kinds = {split.replace(':', '/').split('/')[0] for split in part['splits']}
    places = 0 if kinds <= set(TEXT_SPLITS) else _room(model)
    image = shapes.image_tokens(model.config, places)
    length = max(length, image + shapes.TEXT * part['questions'])
    room = max(room, places)
  return Rows(count, -(-length // 8) * 8, room)


def _room(model: Model) -> int:
  """Places of one picture."""
  one = isinstance(model.config, models.LlavaConfig)
  return 1 if one else shapes.PATCHES


def _prompts(model, data, encoder, plain, length) -> Rows:
  """The prompts of the evaluation: the longest, as many as a batch has.

  Questions that stand before each, the shots, are taken to be as long.
  """
  size = plain['evaluation']['batch_size']
  asked = plain['evaluation'].get('shots', 0) + 1
  room = _room(model)
  if length or encoder is None:
    guessed = shapes.image_tokens(model.config, room) + shapes.TEXT
    one = length or -(-guessed // 8) * 8
    return Rows(size, one * asked, room * asked)
  rows = [row for task in data.tasks.values() for row in task.rows]
  longest = max(
    len(processing.prompt_of(encoder.example(row)).tokens) for row in rows
  )
  return Rows(size, bucket(longest * asked), room * asked)
