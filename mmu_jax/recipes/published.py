"""The published recipe of MMUnlearner, for a config of any data and model."""

from collections.abc import Iterable, Mapping
import math
from typing import Any

import ml_collections

from mmu_jax.errors import UserError
from mmu_jax.recipes.parts import run

# A leaf is masked if its name holds one of these words. Norms, embeddings and
# the output layer hold none.
_LISTED = ('proj', 'fc', 'linear', 'mlp', 'qkv')
# Rows of the batches whose gradients are squared.
IMPORTANCE_BATCH = {'clear': 2, 'mllmu': 4}
_BATCH = 4  # rows of every turn
_NO_CLIP = math.inf


def paper_exact(
  config: ml_collections.ConfigDict,
  benchmark: str = 'clear',
  *,
  forget_batches: int,
  retain_batches: int,
  rate: float = 1e-5,
  masked: str = '',
) -> None:
  """Makes a config compute as the published code did, in float32.

  Our defaults differ where that code differs from its paper, or lets weights
  move that it means to freeze; docs/published_code.md lists each one and its
  effect. Effects of half precision are not reproduced.

  Args:
    config: config with `labels`, `base`, `vanilla`, `saliency` and `unlearn`;
      is changed.
    benchmark: 'clear' or 'mllmu', whose scripts differ in clip and batch.
    forget_batches: batches of four rows in the forget set.
    retain_batches: batches of four rows in the retain set, at least as many.
    rate: learning rate of all turns.
    masked: regex, from the start of a name, of the leaves in the mask: '' for
      the masks of all components, 'language_model/' for LLaVA's language mask.
      Other leaves are not frozen, but free.

  Raises:
    ValueError: if the benchmark is unknown or has fewer retain batches.

  Example:
    >>> from mmu_jax import recipes
    >>> config = recipes.load('people')
    >>> paper_exact(config, forget_batches=2, retain_batches=5)
    >>> config.runs.mmunlearner.options.forget_every
    2
  """
  if benchmark not in IMPORTANCE_BATCH:
    raise UserError(f"the benchmark is 'clear' or 'mllmu', got {benchmark!r}.")
  forget_every = retain_batches // forget_batches
  if not forget_every:
    raise UserError(
      'the published loop takes a forget turn every retain_batches // '
      f'forget_batches rounds, so it needs as many; got {retain_batches} '
      f'and {forget_batches}.'
    )
  optimizer = dict(name='hf_adamw', eps=1e-6, weight_decay=0.0)
  with config.unlocked():
    # Question, image and answer tokens are all labels, of one question a row.
    config.labels = 'published'
    for spec in (config.base, config.vanilla):
      spec.stream = _plain(spec.stream)

    # One falling rate, no warmup, no clip.
    config.vanilla.update(schedule='linear', warmup=0, clip_norm=_NO_CLIP)
    config.vanilla.optimizer = dict(optimizer)

    saliency = config.saliency
    saliency.granularity = 'batch'  # squares of batch means
    saliency.normalize = False  # the plain ratio
    saliency.threshold = 1.0
    saliency.ties_are_salient = True  # unused weights: 1e-15 / 1e-15 >= 1
    saliency.batches = 0  # one pass over each set
    size = IMPORTANCE_BATCH[benchmark]
    saliency.forget = _plain(saliency.forget, size)
    for name, parts in saliency.preserve.items():
      saliency.preserve[name] = _plain(parts, size)

    unlearn = config.unlearn
    unlearn.rounds = retain_batches  # one epoch
    unlearn.retain_rate = rate
    unlearn.clip_norm = _NO_CLIP  # except in `clip_norms` below
    unlearn.max_retain_loss = math.inf  # the KL of a row adds up to hundreds
    # Clipped before masking; momentum still moves masked weights.
    unlearn.optimizer = optimizer | dict(
      chain=('project', 'clip', 'mask', 'optimizer')
    )
    unlearn.exempt = exempt(masked)
    # Forgetting stops when each forget batch was seen once.
    unlearn.limits = dict(forget=forget_batches)
    for name, parts in unlearn.streams.items():
      unlearn.streams[name] = _plain(parts, _BATCH)

    alternate: dict[str, Any] = dict(rate=rate, forget_every=forget_every)
    alone: dict[str, Any] = dict(
      rate=rate, rounds=forget_batches, schedule='linear'
    )
    clip_retain = {'clear': _NO_CLIP, 'mllmu': 1.0}[benchmark]
    config.runs = dict(
      ga=run('ga', **alone),
      ga_diff=run('ga_diff', **alternate),
      # The KL over every position, padding too, divided by the rows alone.
      kl_min=run('kl_min', kl_over='rows', **alternate),
      # One term a batch, against a model that learned the retain set alone.
      npo=run('npo', reference='retrained', per='batch', beta=0.4, **alone),
      mmunlearner=run(
        'mmunlearner',
        mask='saliency',
        alpha=1.0,
        clip_norms=dict(forget=1.0, retain=clip_retain),
        **alternate,
      ),
    )


def _plain(
  parts: Iterable[Mapping[str, Any]], size: int | None = None
) -> tuple[dict[str, Any], ...]:
  """The same parts with one question a row; one part alone gets `size` rows."""
  parts = tuple(parts)
  alone = size if len(parts) == 1 else None
  return tuple(
    dict(part, size=alone or part['size'], questions=1, weight=1.0)
    for part in parts
  )


def exempt(masked: str = '') -> str:
  """Returns a regex of the leaves that the published loop does not mask.

  Args:
    masked: regex of the leaves in the mask, see ``paper_exact``.

  Example:
    >>> import re
    >>> bool(re.match(exempt(), 'language_model/norm/scale'))
    True
  """
  return rf'(?!(?:{masked}).*(?:{"|".join(_LISTED)}))'
