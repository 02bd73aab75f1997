"""Runs beside those of the config people, which start from its models."""

from collections.abc import Callable
from typing import Any

import ml_collections

from mmu_jax.recipes.finding import load
from mmu_jax.recipes.parts import counterfactual_run
from mmu_jax.recipes.parts import run

Runs = dict[str, dict[str, Any]]
DENSITIES = (0.1, 0.2, 0.3, 0.5)


def other_methods(config: ml_collections.ConfigDict) -> Runs:
  """Returns methods of other papers, with the usual values of their options.

  The rates are by `mmu tune`, of 6.25e-6, 2.5e-5, 1e-4, 4e-4 and 1.6e-3, on
  other people. ``rewind`` has the same score at each: it takes no forget step.
  """
  del config
  refusals: dict[str, Any] = dict(forget='relabelled', teacher='refusal')
  others: dict[str, Any] = dict(forget='relabelled', teacher='random')
  repair: dict[str, Any] = dict(reference='base', retain_rate=1e-3)
  return dict(
    ga_diff_joint=run('ga_diff_joint', 2.5e-5),
    simnpo=run('simnpo', 4e-4),
    undial=run('undial', 1.6e-3),
    idk=run('idk', 1e-4, **refusals),
    dpo=run('dpo', 1e-4, teacher='refusal'),
    rmu=run('rmu', 4e-4),
    salun=run('salun', 1.6e-3, 'topk', **others),
    sfron=run('sfron', 4e-4, 'saliency'),
    task_vector=run('task_vector', 4e-4),
    rewind=run('rewind', 1e-4, 'saliency', **repair),
  )


def equal_budget(config: ml_collections.ConfigDict) -> Runs:
  """Returns methods on the rows, rounds and schedule of ``counterfactual``.

  Batches of the retain turn have as many rows as its own. The forget rates are
  by `mmu tune`, of 1.25e-5 to 1e-4, on other people; the rate of the retain
  turns is as in ``counterfactual``. ``counterfactual_60`` has half of its
  rounds.
  """
  del config
  mixed: dict[str, Any] = dict(retain='mixed_retain', retain_rate=1e-3)
  mixed |= dict(rounds=120, schedule='cosine', warmup=5)
  return dict(
    ga_diff_120=run('ga_diff', 5e-5, **mixed),
    kl_min_120=run('kl_min', 5e-5, **mixed),
    npo_retain_120=run('npo_retain', 2.5e-5, **mixed),
    mmunlearner_120=run('mmunlearner', 1e-4, 'saliency', **mixed),
    mmunlearner_random_120=run('mmunlearner', 5e-5, 'random', **mixed),
    counterfactual_60=counterfactual_run(60),
  )


def reported(config: ml_collections.ConfigDict) -> Runs:
  """Returns the runs of the first tables in docs/results.md, of both budgets.

  Args:
    config: config of the people; gets the models to attack.
  """
  budget = equal_budget(config)
  config.attacks.relearn.models = (
    'retrained',
    *('counterfactual', 'mmunlearner_counterfactual', 'mmunlearner'),
    *('kl_min_120', 'mmunlearner_120', 'mmunlearner_random_120'),
  )
  short = dict(npo_retain=load('people:all').runs.npo_retain.to_dict())
  return config.runs.to_dict() | short | budget


def turn_masks(config: ml_collections.ConfigDict) -> Runs:
  """Returns ``mmunlearner_counterfactual`` at several densities of its mask.

  Each has a random and a top-k control; ``cf_saliency`` has the mask of
  ``mmunlearner``.

  Args:
    config: config of the people; gets the masks.
  """
  found: dict[str, Any] = {'saliency': {}}
  for density in DENSITIES:
    turn = f'turn_{100 * density:.0f}'
    found[turn] = config.masks.turn.to_dict() | dict(density=density)
    found[f'{turn}_random'] = dict(kind='random', of=turn)
    found[f'{turn}_topk'] = dict(kind='topk', of=turn)
  config.masks.update({k: made for k, made in found.items() if made})
  return {f'cf_{mask}': counterfactual_run(mask=mask) for mask in found}


def ablations(config: ml_collections.ConfigDict) -> Runs:
  """Returns ``counterfactual_60`` without one of its parts, or with another.

  Without relabelling nothing measures the margin, and it is 12 nats.

  Args:
    config: config of the people; gets streams with other rows.
  """
  streams = config.unlearn.streams
  relabelled, pictured, text, *general = streams.mixed
  less = text | dict(size=max(1, text['size'] // 2), weight=text['weight'] / 2)
  streams.mixed_little_text = (relabelled, pictured, less, *general)
  streams.mixed_people = (relabelled, pictured, text)
  streams.mixed_short = (relabelled, *streams.retain)
  made = lambda **changes: counterfactual_run(**(dict(rounds=60) | changes))
  own: dict[str, Any] = dict(teacher='', retain='mixed_retain', margin=12.0)
  none: dict[str, Any] = dict(weight=1e-6)
  two: dict[str, Any] = dict(forget='relabelled', teacher='others')
  two |= dict(retain_rate=3e-4, schedule='cosine', warmup=5)
  return dict(
    counterfactual_60=made(),
    cf_random_teacher=made(teacher='random'),
    cf_refusal=made(teacher='refusal'),
    cf_base=made(teacher='base'),
    cf_no_ascent=made(**none),
    cf_no_ascent_fast=made(rate=3e-3, **none),
    cf_no_ascent_two_turns=run('idk', 3e-4, **two),
    cf_no_relabelling=made(**own),
    cf_rehearsal=made(**own | none),  # neither of the two
    cf_whole_answers=made(spared=0.0),
    cf_little_text=made(retain='mixed_little_text'),
    cf_people_alone=made(retain='mixed_people'),
    cf_short_rows=made(retain='mixed_short'),  # as the other methods have
    cf_margin_6=made(margin=6.0),
    cf_margin_18=made(margin=18.0),
    cf_30=made(rounds=30),
  )


def adapters(config: ml_collections.ConfigDict) -> Runs:
  """Returns methods that train adapters of rank 16, not the whole weights.

  A step of a factor moves a weight less than a step of its own. The rates are
  by `mmu tune`, of 1e-4 to 8e-4; the rate of the retain turns is eight times
  the rate of whole weights, and was not chosen.
  """
  own: dict[str, Any] = dict(lora=dict(rank=16, alpha=32.0))
  own |= dict(retain_rate=8 * config.unlearn.retain_rate)
  return dict(
    ga_diff_lora=run('ga_diff', 1e-4, **own),
    npo_retain_lora=run('npo_retain', 4e-4, **own),
    mmunlearner_lora=run('mmunlearner', 4e-4, 'saliency', **own),
  )


VARIANTS: dict[str, Callable[[ml_collections.ConfigDict], Runs]] = dict(
  methods=other_methods,
  budget=equal_budget,
  masks=turn_masks,
  ablations=ablations,
  lora=adapters,
  reported=reported,
)
