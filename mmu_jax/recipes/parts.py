"""Pieces of every config: streams, runs, hardware, and a small model."""

from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import config_dict

from mmu_jax.errors import UserError


def variant(name: str, variants: Iterable[str]) -> str:
  """Returns the name of a variant, checked.

  Args:
    name: text after the colon of ``--config``; '' is the first variant.
    variants: names that exist.

  Raises:
    ValueError: if the name is none of them.

  Example:
    >>> variant('', ('full', 'fast'))
    'full'
  """
  variants = tuple(variants)
  if name and name not in variants:
    raise UserError(
      f'the variant is one of {", ".join(variants)}; got {name!r}.'
    )
  return name or variants[0]


def part(
  *splits: str, size: int, questions: int = 1, weight: float = 1.0
) -> dict[str, Any]:
  """Returns one part of a stream: the rows that a batch takes from splits.

  Args:
    *splits: names of splits, as 'vqa/forget'; 'vqa:forget' stands for the
      splits of all groups with the role 'forget' (see ``config.groups``).
    size: rows of a batch, >= 1.
    questions: questions about one picture or person that share a row, >= 1.
    weight: factor of the loss of these rows, > 0.

  Example:
    >>> part('vqa:forget', size=6, questions=4)['splits']
    ('vqa:forget',)
  """
  return dict(splits=splits, size=size, questions=questions, weight=weight)


def run(
  method: str,
  rate: float,
  mask: str = '',
  retain: str = 'retain',
  *,
  reference: str = 'vanilla',
  teacher: str = '',
  forget: str = 'forget',
  retain_rate: float | None = None,
  rounds: int | None = None,
  schedule: str = 'constant',
  warmup: int = 0,
  clip_norms: Mapping[str, float] | None = None,
  lora: Mapping[str, Any] | None = None,
  **options: Any,
) -> dict[str, Any]:
  """Returns the settings of one unlearned model; it starts from vanilla.

  Args:
    method: name of the method, a key of ``methods.METHODS``.
    rate: learning rate of the forget turns.
    mask: 'saliency', 'literal' (the published ratio, not normalised), '' for
      none, or a control of equal density: 'topk' of the forget importance
      alone, 'random'.
    retain: name of the stream of the retain turns.
    reference: name of the model that KL and NPO compare with.
    teacher: name of the source of other answers to the pictures to forget, the
      split 'relabelled' of the streams: 'others' (people who stay whom vanilla
      takes them for), 'base', 'refusal', or the control 'random'.
    forget: name of the stream of the forget turns.
    retain_rate: learning rate of the retain turns; None for
      ``config.unlearn.retain_rate``.
    rounds: number of rounds; None for ``config.unlearn.rounds``, or where that
      is None for ``config.unlearn.epochs`` passes over the data.
    schedule: name of the schedule of the rates, see ``optimizer.schedule``.
    warmup: rounds in which the rates rise to their height.
    clip_norms: split -> largest norm of its gradients; None for
      ``config.unlearn.clip_norm``.
    lora: settings of adapters that are trained in the place of the weights, as
      {'rank': 16}; None for ``config.unlearn.lora``, if there is one.
    **options: keyword arguments of the method, as forget_every=2; None spreads
      the forget turns over the run, and lets the data give a margin.

  Example:
    >>> run('mmunlearner', 5e-5, 'saliency', forget_every=2)['options']
    {'forget_every': 2}
  """
  for name, kind in {'forget_every': int, 'margin': float}.items():
    if options.get(name, 1) is None:
      options[name] = config_dict.placeholder(kind)
  made = dict(
    method=method,
    rate=rate,
    mask=mask,
    retain=retain,
    reference=reference,
    # A placeholder takes a number from the command line; its value is None.
    rounds=config_dict.placeholder(int) if rounds is None else rounds,
    schedule=schedule,
    clip_norms=clip_norms or {},
    options=options,
  )
  # Left out where they are nothing: runs of earlier workdirs are found again.
  more: dict[str, Any] = dict(teacher=teacher, warmup=warmup)
  more |= dict(retain_rate=retain_rate, lora=dict(lora or {}))
  more |= dict(forget='' if forget == 'forget' else forget)
  return made | {k: v for k, v in more.items() if v}


def counterfactual_run(
  rounds: int = 120, teacher: str = 'others', mask: str = '', **changes: Any
) -> dict[str, Any]:
  """Returns the settings of ``counterfactual``, or with a mask of its own one.

  Rate, schedule and rounds were chosen by a few tries on the people of two
  seeds of the config people, some of them reported ones.

  Args:
    rounds: number of rounds; a half of them keeps less.
    teacher: name of the source of other answers, see ``run``.
    mask: name of the mask of ``mmunlearner_counterfactual``; '' for none.
    **changes: other arguments of ``run``, as weight=0.3.

  Example:
    >>> counterfactual_run(teacher='base')['retain']
    'mixed'
  """
  made: dict[str, Any] = dict(rate=1e-3, retain='mixed', reference='base')
  made |= dict(rounds=rounds, schedule='cosine', warmup=5, teacher=teacher)
  method = 'mmunlearner_counterfactual' if mask else 'counterfactual'
  return run(method, mask=mask, **(made | {'margin': None} | changes))


def hardware() -> dict[str, Any]:
  """Returns where and how a job computes; scores change by rounding alone."""
  return dict(
    # All devices share the work: `data=2,fsdp=4` is two copies of the model,
    # each split over four devices; `tensor` splits single layers; -1 takes
    # the remaining devices, '' is one device. `mmu plan` says what fits.
    mesh='fsdp=-1',
    # Parts of a batch that are computed one after the other; their gradients
    # are added before a step.
    micro_batches=1,
    # Kept in the memory of the host: ('reference',) is the model that KL and
    # NPO compare with.
    offload=(),
    # A run keeps its newest checkpoints, and every `keep_every`-th round for
    # good (0: none); an importance is saved every `importance_every` batches.
    checkpoints=dict(keep_last=2, keep_every=0, importance_every=50),
  )


def small_model() -> dict[str, Any]:
  """Returns a LLaVA of 1.3 M parameters; 48 x 48 pixels are 16 image tokens.

  ``--config.model.path=DIR`` takes a LLaVA-1.5 or Qwen2-VL checkpoint instead:
  its weights are then the base model, its tokenizer and image processor encode
  the rows, and of the fields below only dtype, attention and remat count.
  """
  return dict(
    path='',
    # For a checkpoint; 0 and False keep its own. max_pixels bounds the
    # pictures of Qwen2-VL, 28 x 28 pixels a token, and those that LLaVA-NeXT
    # cuts into tiles: 112896 shows it the whole picture alone.
    processor=dict(max_pixels=0, min_pixels=0, own_tokenizer=False),
    name='llava',
    dtype='float32',
    attention='auto',
    remat='products',
    vision_config=dict(
      hidden_size=96,
      intermediate_size=384,
      num_hidden_layers=3,
      num_attention_heads=2,
      image_size=48,
      patch_size=12,
      embedding_std=0.5,
    ),
    text_config=dict(
      hidden_size=128,
      intermediate_size=344,
      num_hidden_layers=4,
      num_attention_heads=2,
      num_key_value_heads=2,
      embedding_std=0.3,
    ),
    vision_feature_layer=-1,
  )


def tiny_model() -> dict[str, Any]:
  """Returns ``small_model`` with too few parameters to learn anything.

  For jobs that only show that every stage runs.
  """
  model = small_model()
  width = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2)
  for tower in ('vision_config', 'text_config'):
    model[tower] |= width
  return model


def saliency(
  batches: int,
  forget: Mapping[str, Any],
  retain: Mapping[str, Any],
  text: Mapping[str, Any],
) -> dict[str, Any]:
  """Returns how importances are measured and masks are made.

  Pictures of the retain set protect every component; text about everybody
  protects the language model too.

  Args:
    batches: batches of each set; 0 is one pass over it.
    forget: part of a batch with pictures to forget.
    retain: part of a batch with pictures to keep.
    text: part of a batch with text about everybody.
  """
  return dict(
    granularity='batch',
    batches=batches,
    forget=(forget,),
    preserve=dict(retain_vqa=(retain,), text=(text,)),
    # Component -> the preserve sets that protect it.
    protects=dict(
      vision=('retain_vqa',),
      projector=('retain_vqa',),
      language=('retain_vqa', 'text'),
    ),
    preserve_loss='answers',  # 'margin': log odds, large on what is known
    threshold=1.0,
    density=config_dict.placeholder(float),  # of each component, in its place
    normalize=True,  # False is the published ratio
    ties_are_salient=False,  # True is the published rule
    # 'importances' are two float32 trees and more; 'log_ratio' is a byte per
    # weight, enough to see what other thresholds would select.
    keep='importances',
  )


def unlearn(
  rounds: int | None,
  rate: float,
  streams: Mapping[str, Any],
  *,
  probe_every: int,
) -> dict[str, Any]:
  """Returns the settings that all runs share.

  Args:
    rounds: number of rounds; the checkpoint at their end is the result. None
      for one pass over the data.
    rate: learning rate of the retain turns.
    streams: name -> parts of a batch; 'forget' and the retain streams.
    probe_every: rounds between two looks at the scores.
  """
  return dict(
    rounds=rounds or config_dict.placeholder(int),
    epochs=1,  # where rounds is None
    # Whether runs may take fewer forget turns than there are forget batches.
    allow_partial_forget=False,
    # Whether a job stops where vanilla does not know what is to be forgotten.
    require_memorised=True,
    retain_rate=rate,
    optimizer=dict(name='hf_adamw'),
    clip_norm=1.0,
    exempt='',  # regex of leaves that no mask holds
    limits={},  # split -> how many turns at most
    # Nats per token of a retain turn, above which a run stops as collapsed:
    # by guessing among 32,000 tokens a model has 10.4.
    max_retain_loss=10.0,
    streams=streams,
    save_every=rounds or 200,
    probe_every=probe_every,
    probe_rows=48,
  )


def attacks(size: int = 6, questions: int = 4) -> dict[str, Any]:
  """Returns the settings of every attack; `mmu pipeline` makes none of them.

  Args:
    size: pictures of a batch of finetuning.
    questions: questions about each.

  Example:
    >>> attacks()['relearn']['steps']
    (0, 2, 5, 10, 20, 40)
  """
  case = lambda learns, pictures=0, draw=0, rate=5e-4: dict(
    learns=learns, pictures=pictures, draw=draw, rate=rate
  )
  shared = dict(
    models=(),  # `mmu pipeline` attacks them before the report
    rows=144,
    size=size,
    questions=questions,
  )
  relearn = shared | dict(
    steps=(0, 2, 5, 10, 20, 40),
    cases=dict(
      one_picture=case('pictures', 1),
      another_picture=case('pictures', 1, draw=1),
      two_pictures=case('pictures', 2),
      all_pictures=case('pictures'),
      one_picture_slowly=case('pictures', 1, rate=1e-4),
      retain=case('retain'),
      text=case('text'),
    ),
  )
  transfer = shared | dict(steps=20, pictures=1, rate=5e-4)
  return dict(
    relearn=relearn,
    transfer=transfer,
    membership=dict(models=(), rows=144, gradient_rows=48, share=0.2),
    quantize=dict(models=(), rows=144),
    prompts=dict(models=(), rows=72),
    probe=dict(models=(), layers=5, pictures=(1, 0), ridge=0.01),
  )
