"""A model as pure functions of its parameters."""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp

from mmu_jax.models import llama
from mmu_jax.models.llava import COMPONENTS
from mmu_jax.models.llava import Llava
from mmu_jax.models.llava import LlavaConfig
from mmu_jax.typing import Forward, Params


MODELS = {'llava': LlavaConfig}


@dataclasses.dataclass(frozen=True, eq=False)  # equal if it is the same one
class Model:
  """What the rest of the library knows of a model.

  Attributes:
    config: its sizes.
    init: ``init(key) -> params``, nested dicts of float32 arrays.
    forward: ``forward(params, batch) -> logits [B, L, V]``.
    prefill: ``prefill(params, batch, last, cache_size) -> (logits [B, V],
      cache)``: the logits after token ``last [B]`` of every prompt.
    extend: ``extend(params, tokens, positions, visible, slot, cache) ->
      (logits [B, V], cache)``: one more token ``[B]`` a row, that stands at
      ``positions [B]`` and goes to ``slot`` of the cache; ``visible [B, S]``
      are the slots it sees.
    components: component -> regex over leaf names.
  """

  config: LlavaConfig
  init: Callable[[jax.Array], Params]
  forward: Forward
  prefill: Callable[..., Any]
  extend: Callable[..., Any]
  components: dict[str, str]


@functools.cache
def build(config: LlavaConfig) -> Model:
  """Builds a model from its config; equal configs give the same object.

  Example:
    >>> from mmu_jax.models import llava, llama, clip_vit
    >>> model = build(llava.LlavaConfig(
    ...     clip_vit.ClipVisionConfig(32, 64, 2, 2, 24, 12),
    ...     llama.LlamaConfig(50, 32, 64, 2, 2, 1)))
    >>> params = model.init(jax.random.key(0))
    >>> sorted(params)
    ['language_model', 'multi_modal_projector', 'vision_tower']
  """
  abstract = nnx.eval_shape(lambda: Llava(config, nnx.Rngs(0)))
  definition = nnx.split(abstract)[0]

  def merge(params: Params) -> Llava:
    return nnx.merge(definition, nnx.State(params))

  @jax.jit
  def init(key):
    return nnx.to_pure_dict(nnx.state(Llava(config, nnx.Rngs(params=key))))

  def forward(params, batch):
    model = merge(params)
    return model.logits(model.hidden(batch)[0])

  def prefill(params, batch, last, cache_size):
    model = merge(params)
    rows = batch['tokens'].shape[0]
    cache = llama.make_cache(
        config.text_config, rows, cache_size, config.dtype
    )
    hidden, cache = model.hidden(batch, cache)
    hidden = jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0]
    return model.logits(hidden), cache

  def extend(params, tokens, positions, visible, slot, cache):
    model = merge(params)
    x = model.language_model.model.embed_tokens(tokens[:, None])
    hidden, cache = model.decode(
        x, positions[:, None], visible[:, None], cache, slot
    )
    return model.logits(hidden[:, 0]), cache

  return Model(config, init, forward, prefill, extend, dict(COMPONENTS))


def from_options(name: str, vocab_size: int, **options: Any) -> Model:
  """Builds a model from plain options, as a config file has them.

  Args:
    name: a key of ``MODELS``.
    vocab_size: V, of the tokenizer.
    **options: fields of its config; ``vision_config`` and ``text_config`` are
      dicts of theirs.

  Raises:
    ValueError: if the name or an option is unknown.
  """
  if name not in MODELS:
    raise ValueError(f'unknown model {name!r}; known: {", ".join(MODELS)}.')
  options = dict(options)
  options['text_config'] = dict(
      options.get('text_config', {}), vocab_size=vocab_size
  )
  return build(_config(MODELS[name], 'model', options))


def _config(kind: type, where: str, options: dict[str, Any]) -> Any:
  """Makes a config dataclass, and those within it, from plain options."""
  fields = {field.name: field for field in dataclasses.fields(kind)}
  unknown = sorted(set(options) - set(fields))
  if unknown:
    raise ValueError(
        f'{where} has no option {", ".join(map(repr, unknown))}; known: '
        f'{", ".join(fields)}.'
    )
  values = {
      name: _config(type(fields[name].default), f'{where}.{name}', value)
      if isinstance(value, dict)
      else value
      for name, value in options.items()
  }
  return kind(**values)
