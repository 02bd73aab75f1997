"""The recipe of a benchmark: pictures, texts, a forget and a retain set."""

from collections.abc import Iterable, Mapping
from typing import Any

import ml_collections
from ml_collections import config_dict

from mmu_jax.errors import UserError
from mmu_jax.recipes import parts
from mmu_jax.recipes import published
from mmu_jax.recipes.parts import part
from mmu_jax.recipes.parts import run

VARIANTS = ('full', 'fast', 'paper_exact')
BATCH = 4  # pictures of every batch, as published
_FACTORS = (0.25, 0.5, 1, 2, 4)  # of the rate, that `mmu tune` tries


def variant_and_ratio(variant: str, ratios: Iterable[int]) -> tuple[str, int]:
  """Returns the variant and the ratio of 'paper_exact,ratio=10'.

  Args:
    variant: text after the colon of ``--config``; '' is the full variant
      with 5 % to forget.
    ratios: percentages that the dataset has splits for.

  Raises:
    ValueError: if the variant or the ratio is unknown.

  Example:
    >>> variant_and_ratio('paper_exact,ratio=10', (5, 10))
    ('paper_exact', 10)
  """
  ratios = tuple(ratios)
  name, ratio = 'full', 5
  for word in filter(None, variant.split(',')):
    key, _, value = word.rpartition('=')
    if key == 'ratio' and value in map(str, ratios):
      ratio = int(value)
    elif word in VARIANTS:
      name = word
    else:
      raise UserError(
        f'the variant is one of {", ".join(VARIANTS)}, and ratio= one of '
        f'{", ".join(map(str, ratios))}, with a comma between; got {word!r}.'
      )
  return name, ratio


def benchmark(
  data: Mapping[str, Any],
  *,
  forget: int = 0,
  retain: int = 0,
  questions: int,
  rate: float = 1e-5,
) -> ml_collections.ConfigDict:
  """Returns a config for a dataset with the splits vqa and qa.

  Args:
    data: name and keyword arguments of the dataset.
    forget: pictures of the forget set; 0 to let the data that are read decide.
    retain: pictures of the retain set, or 0.
    questions: questions about one picture that share its encoding.
    rate: learning rate of every stage, as published; `mmu tune` tries a
      quarter of it to four times as much.

  Example:
    >>> data = dict(name='clear', path='CLEAR')
    >>> config = benchmark(data, forget=20, retain=480, questions=1)
    >>> config.unlearn.rounds  # one epoch of batches of four pictures
    120
  """
  forget, retain = _batches(forget), _batches(retain)
  pictured = lambda role: part(f'vqa:{role}', size=BATCH, questions=questions)
  text = part('qa:everybody', size=BATCH, questions=questions)
  training = dict(
    schedule='linear',
    warmup=0,
    optimizer=dict(name='hf_adamw'),
    clip_norm=1.0,
    save_every=200,
  )
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.labels = 'answer'
  config.update(parts.hardware())
  config.data = data
  config.model = parts.small_model() | dict(dtype='bfloat16', remat='full')
  # Of small models alone: a checkpoint is the base.
  config.base = dict(rounds=100, rate=3e-3, stream=(text,), **training)
  config.vanilla = dict(
    rounds=forget + retain or config_dict.placeholder(int),
    epochs=1,  # where rounds is None
    rate=rate,
    stream=(pictured('everybody'),),
    **training,
  )
  config.retrained = dict(without=('vqa/forget',))
  config.groups = dict(
    forget=('forget',), retain=('retain',), everybody=('forget', 'retain')
  )
  config.saliency = parts.saliency(
    retain, pictured('forget'), pictured('retain'), text
  )
  streams = dict(
    forget=(pictured('forget'),),
    retain=(pictured('retain'),),
    retain_and_text=(pictured('retain'), text),
    # For `recipes.counterfactual_run`, with as many rows to keep again.
    mixed=(
      part('relabelled', size=BATCH, questions=questions),
      part('vqa:retain', size=2 * BATCH, questions=questions),
      part('qa:everybody', size=2 * BATCH, questions=questions),
    ),
  )
  # One epoch.
  probes = max(1, retain // 4) if retain else 10
  config.unlearn = parts.unlearn(
    retain or None, rate, streams, probe_every=probes
  )
  config.runs = _runs(rate, forget, retain)
  config.tune = dict(rates=tuple(rate * f for f in _FACTORS), rows=256)
  config.evaluation = dict(
    max_new_tokens=50,
    repetition_penalty=0.0,  # 0: as generation_config.json has it; 1: none
    batch_size=16,
    protocol='',  # '' is 'fixed'; 'official' is the published one
    shots=0,  # people whose questions stand before each question
    # Of factuality, by an OpenAI-compatible endpoint; no url: none is asked.
    judge=dict(
      url='',
      model='',
      key_variable='',  # names the environment variable with the key
      tries=5,
      parallel=4,
      timeout=60.0,
      first_wait=1.0,
    ),
  )
  config.attacks = parts.attacks(BATCH, questions)
  return config


def make_fast(config: ml_collections.ConfigDict) -> None:
  """Sets a tiny model and a few rounds, to try a folder of any size.

  Args:
    config: result of ``benchmark``; is changed.
  """
  config.data.processor = 'small'
  if 'retain_rows' in config.data:
    config.data.retain_rows = 8
  config.model = parts.tiny_model()
  config.base.update(rounds=10, rate=3e-3, save_every=5)
  config.vanilla.update(rounds=10, rate=3e-3, save_every=5)
  config.saliency.batches = 4
  config.unlearn.update(
    rounds=4, retain_rate=1e-4, save_every=4, probe_every=2, probe_rows=8
  )
  config.unlearn.allow_partial_forget = True
  config.tune.update(rates=(1e-4, 2e-4), rows=16)
  config.attacks.relearn.update(steps=(0, 2), rows=16)
  config.attacks.transfer.update(steps=2, rows=16)
  config.unlearn.require_memorised = False
  config.evaluation.max_new_tokens = 8
  with config.unlocked():
    config.runs = dict(
      ga_diff=run('ga_diff', 1e-4),
      mmunlearner=run('mmunlearner', 1e-4, 'saliency'),
    )


def make_published(
  config: ml_collections.ConfigDict,
  name: str,
  *,
  forget: int,
  retain: int,
  text: float,
) -> None:
  """Sets the published recipe, one question a row.

  Args:
    config: result of ``benchmark``; is changed.
    name: 'mllmu' or 'clear'.
    forget: rows of the forget set.
    retain: rows of the retain set.
    text: rows in text for each row with a picture, where the preserve set of
      the language model mixes them.
  """
  size = published.IMPORTANCE_BATCH[name]
  mixed = max(1, min(size - 1, round(size * text / (1 + text))))
  saliency, unlearn = config.saliency, config.unlearn
  with config.unlocked():
    saliency.preserve = dict(
      retain_vqa=(part('vqa:retain', size=size),),
      retain_vqa_and_text=(
        part('vqa:retain', size=size - mixed),
        part('qa:everybody', size=mixed),
      ),
    )
    saliency.protects.language = ('retain_vqa_and_text',)
    unlearn.streams = dict(
      forget=(part('vqa:forget', size=BATCH),),
      retain=(part('vqa:retain', size=BATCH),),
    )
  forget, retain = _batches(forget), _batches(retain)
  config.vanilla.rounds = forget + retain
  saliency.batches = retain * BATCH // size
  published.paper_exact(
    config, name, forget_batches=forget, retain_batches=retain
  )
  config.evaluation.protocol = 'official'


def _runs(rate: float, forget: int, retain: int) -> dict[str, Any]:
  """The methods and controls, with the forget set seen once."""
  every = max(1, retain // forget) if forget else None  # None: by the data
  alone: dict[str, Any] = dict(rate=rate, rounds=forget or None)
  pairs: dict[str, Any] = dict(rate=rate, forget_every=every)
  return dict(
    ga=run('ga', **alone),
    npo=run('npo', **alone),
    ga_diff=run('ga_diff', **pairs),
    kl_min=run('kl_min', **pairs),
    mmunlearner=run('mmunlearner', mask='saliency', **pairs),
    mmunlearner_topk=run('mmunlearner', mask='topk', **pairs),
    mmunlearner_random=run('mmunlearner', mask='random', **pairs),
  )


def _batches(rows: int, size: int = BATCH) -> int:
  """Number of batches of an epoch; the last may be smaller."""
  return -(-rows // size)
