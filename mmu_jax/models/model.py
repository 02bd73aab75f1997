"""A model as pure functions of its parameters."""

from collections.abc import Callable
import dataclasses
import functools
import pathlib
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp

from mmu_jax import sharding
from mmu_jax.errors import UserError
from mmu_jax.models import attention
from mmu_jax.models import layers
from mmu_jax.models import llama
from mmu_jax.models.families import gemma3
from mmu_jax.models.families import llava
from mmu_jax.models.families import llava_next
from mmu_jax.models.families import qwen2_5_vl
from mmu_jax.models.families import qwen2_vl
from mmu_jax.models.families import qwen3_vl
from mmu_jax.models.family import causal_mask
from mmu_jax.sharding import Rules
from mmu_jax.typing import Forward
from mmu_jax.typing import Params

_FAMILIES = (
  llava.FAMILY,
  llava_next.FAMILY,
  qwen2_vl.FAMILY,
  qwen2_5_vl.FAMILY,
  qwen3_vl.FAMILY,
  gemma3.FAMILY,
)
MODELS = {f.name: f for f in _FAMILIES}


@dataclasses.dataclass(frozen=True, eq=False)  # equal if it is the same one
class Model:
  """A model, as the rest of the library sees it.

  Attributes:
    family: name of its family, a key of ``MODELS``.
    config: sizes, and how to compute.
    init: ``init(key) -> params``, nested dicts of float32 arrays.
    forward: ``forward(params, batch) -> logits [B, L, V]``; with ``at``, int
      ``[B, K]``, logits ``[B, K, V]`` at these positions of each row alone;
      with ``layer=k`` the hidden states ``[B, L, D]`` after the first k decoder
      layers instead (with both, ``[B, K, D]``): 0 gives the embeddings, with
      the image tokens in their places.
    image_features: ``image_features(params, batch) -> [B, tokens, D]``, the
      image tokens that ``image_slots`` count.
    prefill: ``prefill(params, batch, at, cache_size) -> (logits [B, Q, V],
      cache)``: the logits after the tokens at ``at [B, Q]`` of every row.
    extend: ``extend(params, tokens, positions, visible, slot, cache) ->
      (logits [B, Q, V], cache)``: Q more tokens ``[B, Q]`` a row, one for each
      of its prompts, that stand at ``positions [B, Q]`` and go to ``slot`` and
      the next of the cache; ``visible [B, Q, S]`` are the slots they see.
    components: component -> regex over leaf names.
    partition_rules: (regex over leaf names, PartitionSpec) for ``sharding``.
    abstract_params: shapes and dtypes of the parameters, nothing allocated.
    params: parameters, if the model was loaded from a checkpoint.
    processor: tokenizer and image processor of that checkpoint, if it has any.
    source: folder of that checkpoint.
    adapter: folder of a PEFT adapter that is merged into it, if any.
  """

  family: str
  config: Any
  init: Callable[[jax.Array], Params]
  forward: Forward
  image_features: Callable[..., jax.Array]
  prefill: Callable[..., Any]
  extend: Callable[..., Any]
  components: dict[str, str]
  partition_rules: Rules
  abstract_params: Params
  params: Params = None
  processor: Any = None
  source: pathlib.Path | None = None
  adapter: pathlib.Path | None = None


@functools.cache
def build(config: Any) -> Model:
  """Builds a model from its config; equal configs give the same object.

  Args:
    config: config of a family, such as ``LlavaConfig``.

  Raises:
    TypeError: if it is the config of no known family.

  Example:
    >>> from mmu_jax.models import clip_vit, llama
    >>> from mmu_jax.models.families import llava
    >>> model = build(llava.LlavaConfig(
    ...     clip_vit.ClipVisionConfig(32, 64, 2, 2, 24, 12),
    ...     llama.LlamaConfig(50, 32, 64, 2, 2, 1)))
    >>> params = model.init(jax.random.key(0))
    >>> sorted(params)
    ['language_model', 'multi_modal_projector', 'vision_tower']
  """
  name = next((k for k, f in MODELS.items() if type(config) is f.config), None)
  if name is None:
    kinds = ', '.join(f.config.__name__ for f in MODELS.values())
    raise TypeError(f'a model config is one of {kinds}, got {config!r}.')
  family = MODELS[name]
  abstract = nnx.eval_shape(lambda: family.module(config, nnx.Rngs(0)))
  definition, state = nnx.split(abstract)

  def merge(params: Params) -> nnx.Module:
    return nnx.merge(definition, nnx.State(params))

  ways = dict(attention=config.attention, remat=config.remat)
  backwards = family.attention_mask is causal_mask
  window = config.text_config.sliding_window

  def sees(batch, padded=0):
    # Behind the tokens of the batch come `padded` keys that nobody sees.
    masks = {'mask': family.attention_mask(config, batch)}
    if window:
      at = batch['positions']
      masks['near'] = attention.within(at, at, window)
    return {
      k: jnp.pad(m, ((0, 0), (0, 0), (0, padded))) for k, m in masks.items()
    }

  def embed(module, batch):
    # Some decoders are given more of the image tokens after their first layers.
    x, deep = module.decoder.embed(batch['tokens']), None
    if batch['pixel_values'].shape[1]:  # room for images
      features, slots = module.image_features(batch), batch['image_slots']
      if features.ndim > 3:  # [1 + K, B, N, D]
        none = jnp.zeros_like(x)
        deep = [layers.fill_slots(none, f, slots) for f in features[1:]]
        features = features[0]
      x = layers.fill_slots(x, features, slots)
    return sharding.split_rows(x), deep

  @jax.jit
  def init(key):
    module = family.module(config, nnx.Rngs(params=key))
    return nnx.to_pure_dict(nnx.state(module))

  def forward(params, batch, *, at=None, layer=None):
    module = merge(params)
    x, deep = embed(module, batch)
    # Padding trains no embedding, as with torch's padding_idx. Only a loss that
    # counts padding, the published KL, can tell.
    real = batch['documents'][..., None] > 0  # [B, L, 1]
    x = jnp.where(real, x, jax.lax.stop_gradient(x))
    hidden, _ = module.decoder(
      x,
      batch['positions'],
      **sees(batch),
      deep=deep,
      at=at,
      num_layers=layer,
      causal=backwards,
      **ways,
    )
    if layer is not None:
      return sharding.split_rows(hidden)
    return sharding.split_rows(module.logits(hidden), last='tensor')

  def image_features(params, batch):
    features = merge(params).image_features(batch)
    return features[0] if features.ndim > 3 else features

  def prefill(params, batch, at, cache_size):
    module = merge(params)
    rows, length = batch['tokens'].shape
    masks = sees(batch, cache_size - length)
    cache = llama.make_cache(config.text_config, rows, cache_size, config.dtype)
    x, deep = embed(module, batch)
    hidden, cache = module.decoder(
      x,
      batch['positions'],
      cache=cache,
      deep=deep,
      at=at,
      causal=backwards,
      **masks,
      **ways,
    )
    return sharding.split_rows(module.logits(hidden), last='tensor'), cache

  def extend(params, tokens, positions, visible, slot, cache):
    module = merge(params)
    x, near = module.decoder.embed(tokens), None
    if window:
      near = attention.within_visible(visible, window)
    hidden, cache = module.decoder(
      x, positions, visible, cache, slot, near=near, **ways
    )
    return sharding.split_rows(module.logits(hidden), last='tensor'), cache

  return Model(
    family=name,
    config=config,
    init=init,
    forward=forward,
    image_features=image_features,
    prefill=prefill,
    extend=extend,
    components=dict(family.components),
    partition_rules=family.partition_rules,
    abstract_params=jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), nnx.to_pure_dict(state)
    ),
  )


def from_options(name: str, vocab_size: int, **options: Any) -> Model:
  """Builds a model from plain options, as a config file has them.

  Args:
    name: name of the family, a key of ``MODELS``.
    vocab_size: size V of the tokenizer.
    **options: fields of the family's config; ``vision_config`` and
      ``text_config`` are dicts.

  Raises:
    ValueError: if the name or an option is unknown.
  """
  if name not in MODELS:
    raise UserError(f'unknown model {name!r}; known: {", ".join(MODELS)}.')
  options = dict(options)
  options['text_config'] = dict(
    options.get('text_config', {}), vocab_size=vocab_size
  )
  return build(_config(MODELS[name].config, 'model', options))


def _config(kind: type, where: str, options: dict[str, Any]) -> Any:
  """Makes a config dataclass, and those within it, from plain options."""
  fields = {field.name: field for field in dataclasses.fields(kind)}
  unknown = sorted(set(options) - set(fields))
  if unknown:
    raise UserError(
      f'{where} has no option {", ".join(map(repr, unknown))}; known: '
      f'{", ".join(fields)}.'
    )
  values = {
    name: _config(type(fields[name].default), f'{where}.{name}', value)
    if isinstance(value, dict)
    else tuple(value)
    if isinstance(value, list)
    else value
    for name, value in options.items()
  }
  return kind(**values)
