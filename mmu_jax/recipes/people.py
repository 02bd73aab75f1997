"""The recipe of the fictional people, whose images and texts are made here."""

from collections.abc import Mapping
from typing import Any

import ml_collections

from mmu_jax.recipes import parts
from mmu_jax.recipes import published

_GROUPS = ('forget', 'validation_forget', 'validation_retain', 'retain')
_PORTRAITS = tuple(f'vqa/{group}' for group in _GROUPS)
_TEXT = tuple(f'qa/{group}' for group in _GROUPS)


def people(
  data: Mapping[str, Any], runs: Mapping[str, Any], variant: str = 'full'
) -> ml_collections.ConfigDict:
  """Returns the config of a job on fictional people.

  Args:
    data: keyword arguments of the dataset 'people'.
    runs: name -> ``run``.
    variant: 'full'; 'small', fewer people, for notebooks; 'fast', small
      in everything, for tests; 'paper_exact', the published recipe with runs of
      its own.

  Example:
    >>> config = people(dict(num_people=60), dict(mine=parts.run('ga', 1e-5)))
    >>> config.data.num_people, list(config.runs)
    (60, ['mine'])
  """
  config = _full(data, runs)
  if variant == 'small':
    _make_small(config)
  if variant == 'fast':
    _make_fast(config)
  if variant == 'paper_exact':
    _make_published(config)
  return config


def _full(
  data: Mapping[str, Any], runs: Mapping[str, Any]
) -> ml_collections.ConfigDict:
  """The whole recipe."""
  part = parts.part
  pictured = lambda role, size: part(f'vqa:{role}', size=size, questions=4)
  text = lambda size: part('qa:everybody', size=size, questions=4)
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.labels = 'answer'
  config.update(parts.hardware())
  config.data = dict(name='people', **data)
  config.model = parts.small_model()

  # Everything that an image model and a text model know before they meet the
  # people: pictures of nobody described, and all that is known in text.
  config.base = dict(
    rounds=200,
    rate=3e-3,
    stream=(
      part('captions', size=48),
      part(*_TEXT, size=14, questions=2),
      part('facts', size=2, questions=2),
    ),
    **_training(),
  )
  config.vanilla = dict(
    rounds=240,
    rate=3e-3,
    stream=(
      part(*_PORTRAITS, size=20, questions=4),
      part('general', size=8, questions=4),
      part(*_TEXT, size=3, questions=4, weight=0.5),
      part('facts', size=1, questions=4, weight=0.5),
    ),
    **_training(),
  )
  # The retrained model: vanilla's recipe without these splits.
  config.retrained = dict(without=('vqa/forget',))

  # Who is forgotten, and who stands for the others: in the reported runs, and
  # in the runs that choose learning rates (`mmu tune`), which never see the
  # reported people.
  config.groups = dict(
    forget=('forget',),
    retain=('retain', 'validation_forget', 'validation_retain'),
    everybody=_GROUPS,
  )
  config.validation_groups = dict(
    forget=('validation_forget',),
    retain=('retain', 'validation_retain'),
    everybody=('retain', 'validation_forget', 'validation_retain'),
  )
  config.saliency = parts.saliency(
    48, pictured('forget', 2), pictured('retain', 2), text(2)
  )
  streams = dict(
    forget=(pictured('forget', 6),),
    retain=(pictured('retain', 6), text(6)),
    retain_without_text=(pictured('retain', 6),),
    relabelled=(part('relabelled', size=6, questions=4),),
    mixed=_mixed('relabelled'),
    mixed_retain=_mixed('vqa:retain'),  # as many rows, none of them relabelled
  )
  config.masks = _masks(config.saliency.protects.to_dict())
  config.unlearn = parts.unlearn(60, 1e-4, streams, probe_every=15)
  config.runs = runs
  config.tune = dict(rates=(1.25e-5, 2.5e-5, 5e-5, 1e-4, 2e-4), rows=256)
  config.evaluation = dict(max_new_tokens=12, batch_size=64)
  config.attacks = parts.attacks()
  last = ('mmunlearner', 'counterfactual', 'mmunlearner_counterfactual')
  config.attacks.relearn.models = last
  return config


def _mixed(first: str, pictures: int = 6) -> tuple[dict[str, Any], ...]:
  """The stream of one turn that forgets and keeps: some of all that is known.

  Args:
    first: split of the first rows, 'relabelled' for pictures to forget with
      the answers of a teacher.
    pictures: number of these rows in a batch; there are between four and five
      times as many others.
  """
  part = lambda split, size, **more: parts.part(
    split, size=max(1, size * pictures // 6), questions=4, **more
  )
  return (
    part(first, 6),
    part('vqa:retain', 14),
    part('qa:everybody', 8),
    part('general', 5),
    part('facts', 1, weight=0.5),
  )


def _masks(protects: Mapping[str, Any]) -> dict[str, Any]:
  """The masks of the turn that forgets and keeps, and their controls.

  Their forget importance is of the rows with a teacher's answers, on which
  vanilla's gradient is large, and the others are of the log odds, which do not
  vanish on answers known by heart. What is known in text about the people to
  forget is a preserve set of its own.
  """
  part = parts.part
  turn = dict(
    forget=(part('relabelled', size=2, questions=4),),
    teacher='others',
    retain='mixed',
    preserve=dict(forget_text=(part('qa:forget', size=2, questions=4),)),
    preserve_loss='margin',
    protects=dict(protects, language=(*protects['language'], 'forget_text')),
  )
  return dict(
    turn=turn | dict(density=0.3),
    turn_topk=dict(kind='topk', of='turn'),
    turn_random=dict(kind='random', of='turn'),
  )


def _make_small(config: ml_collections.ConfigDict) -> None:
  """Takes fewer people and rounds; those to forget are as many."""
  config.data.update(
    num_people=24,
    num_validation_forget=2,
    num_validation_retain=4,
    num_captioned=2000,
    num_faces=200,
    num_shapes=250,
  )
  config.base.update(rounds=120, warmup=20)
  config.vanilla.update(rounds=160, warmup=20)
  config.saliency.batches = 24


def _make_fast(config: ml_collections.ConfigDict) -> None:
  """Shrinks the people, the model and every stage."""
  config.model = parts.tiny_model()
  config.data.update(
    num_people=12,
    num_forget=2,
    num_validation_forget=1,
    num_validation_retain=2,
    train_views=3,
    num_captioned=60,
    num_faces=40,
    num_shapes=40,
  )
  config.base.update(rounds=10, warmup=2, save_every=4)
  config.vanilla.update(rounds=12, warmup=2, save_every=4)
  config.saliency.batches = 4
  config.unlearn.update(rounds=4, probe_every=2, probe_rows=16)
  config.unlearn.require_memorised = False
  config.tune.rates = (1e-4, 2e-4)
  config.attacks.relearn.update(steps=(0, 2), rows=16, models=())
  config.attacks.transfer.update(steps=2, rows=16)
  names = ('ga_diff', 'npo', 'mmunlearner', 'counterfactual')
  with config.unlocked():
    config.unlearn.streams.mixed = _mixed('relabelled', 1)
    config.unlearn.streams.mixed_retain = _mixed('vqa:retain', 1)
    config.runs = {k: config.runs[k] for k in names if k in config.runs}
    if 'counterfactual' in config.runs:
      config.runs.counterfactual.update(rounds=4, warmup=2)


def _make_published(config: ml_collections.ConfigDict) -> None:
  """Sets the published recipe: one epoch of the portraits."""
  config.attacks.relearn.models = ()
  part, unlearn, saliency = parts.part, config.unlearn, config.saliency
  with config.unlocked():
    unlearn.streams = dict(
      forget=(part('vqa:forget', size=4),), retain=(part('vqa:retain', size=4),)
    )
    # Pictures and text are mixed in the batches of one preserve set.
    saliency.preserve = dict(
      retain_vqa=(part('vqa:retain', size=2),),
      retain_vqa_and_text=(
        part('vqa:retain', size=1),
        part('qa:everybody', size=1),
      ),
    )
    saliency.protects.language = ('retain_vqa_and_text',)
  pictures = lambda people: people * config.data.train_views
  retained = config.data.num_people - config.data.num_forget
  published.paper_exact(
    config,
    'clear',
    forget_batches=-(-pictures(config.data.num_forget) // 4),
    retain_batches=-(-pictures(retained) // 4),
  )


def _training() -> dict[str, Any]:
  """Optimizer and schedule of base and vanilla."""
  return dict(
    schedule='cosine',
    warmup=30,
    optimizer=dict(name='adamw', weight_decay=0.05, b2=0.98),
    clip_norm=1.0,
    save_every=100,
  )
