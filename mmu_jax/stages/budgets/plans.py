"""Plans of a config: how its models are trained on streams, for any model."""

from collections.abc import Callable, Mapping
from typing import Any

import ml_collections

from mmu_jax import lora as lora_lib
from mmu_jax import masks as masks_lib
from mmu_jax import methods
from mmu_jax.models import Model
from mmu_jax.models import MODELS
from mmu_jax.stages.budgets import settle
from mmu_jax.training import loop
from mmu_jax.training import optimizer
from mmu_jax.typing import Batch
from mmu_jax.typing import Forward
from mmu_jax.typing import Mask
from mmu_jax.typing import Params

Config = ml_collections.ConfigDict
_LORA = dict(rank=16, alpha=32.0, targets=(lora_lib.ALL_LINEAR,))
_LORA |= dict(rslora=False, dtype='float32')  # and whole, where it is given


def lora_settings(config: Config, run: Config) -> dict[str, Any] | None:
  """Returns the settings of the adapters of a run; None for whole weights.

  Args:
    config: ``config.unlearn``; its ``lora`` is for every run.
    run: an entry of ``config.runs``; fields of its own ``lora`` come first.
  """
  found = [spec.get('lora', {}) for spec in (config, run)]
  given = {k: v for part in found for k, v in part.items() if v is not None}
  made = _LORA | given
  made |= {k: list(made[k]) for k in ('targets', 'whole') if k in made}
  return made if given and made['rank'] else None


def adapters_of(
  config: Config, run: Config, model: Model, seed: int = 0
) -> lora_lib.Lora | None:
  """Returns the adapters of a run on a model; None for whole weights.

  Args:
    config: ``config.unlearn``; or ``config.base`` or ``config.vanilla``.
    run: an entry of ``config.runs``; or the same again.
    model: model that gets them.
    seed: seed of the random factor.

  Raises:
    ValueError: if a target names no linear layer of the model, or a word of
      ``whole`` no leaf.
  """
  settings = lora_settings(config, run)
  if settings is None:
    return None
  targets = lora_lib.choose_targets(
    settings['targets'],
    model.abstract_params,
    model.components,
    MODELS[model.family].convolutions(model.config),
  )
  whole = lora_lib.choose_whole(
    settings.get('whole', ()), model.abstract_params, model.components
  )
  factored = tuple(name for name in targets if name not in whole)
  own = dict(targets=factored, whole=whole, seed=seed)
  return lora_lib.Lora(**settings | own)


def unlearning_plan(
  config: Config,
  run: Config,
  *,
  forward: Forward,
  streams: Mapping[str, Callable[[int], Batch]],
  mask: Mask = None,
  ref_params: Params = None,
  lora: lora_lib.Lora | None = None,
) -> loop.Plan:
  """Returns the plan of a run, for any data and model.

  Args:
    config: ``config.unlearn``.
    run: an entry of ``config.runs``.
    forward: the model.
    streams: streams of the splits 'forget' and 'retain'.
    mask: mask, bool or packed, for a method with masked turns; the leaves
      that ``config.exempt`` matches change freely.
    ref_params: parameters of the reference, if the method needs one.
    lora: adapters of the run, from ``adapters_of``.
  """
  rounds = run.rounds or config.rounds
  rate = lambda peak: optimizer.schedule(
    run.schedule, peak, steps=rounds, warmup=run.get('warmup', 0)
  )
  one_clip = dict.fromkeys(streams, config.clip_norm)
  turns = settle.turns_of(run)
  splits = {turn.split for turn in turns}
  return loop.Plan(
    turns=turns,
    streams=streams,
    rates={
      'forget': rate(run.rate),
      'retain': rate(run.get('retain_rate') or config.retain_rate),
    },
    rounds=rounds,
    forward=forward,
    tx=optimizer.build(**config.optimizer.to_dict()),
    mask=None if mask is None else masks_lib.exempt(mask, config.exempt),
    ref_params=ref_params,
    clip_norms=one_clip | run.clip_norms.to_dict(),
    limits={k: n for k, n in config.limits.items() if k in splits},
    max_losses={'retain': config.max_retain_loss},
    lora=lora,
  )


def training_plan(
  spec: Config,
  *,
  forward: Forward,
  stream: Callable[[int], Batch],
  lora: lora_lib.Lora | None = None,
) -> loop.Plan:
  """Returns how ``config.base`` or ``config.vanilla`` trains on a stream."""
  return loop.Plan(
    turns=methods.finetune(),
    streams={'train': stream},
    rates={
      'train': optimizer.schedule(
        spec.schedule, spec.rate, steps=spec.rounds, warmup=spec.warmup
      )
    },
    rounds=spec.rounds,
    forward=forward,
    tx=optimizer.build(**spec.optimizer.to_dict()),
    clip_norms={'train': spec.clip_norm},
    lora=lora,
  )
