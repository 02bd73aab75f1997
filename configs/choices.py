"""Named choices: settings that belong together, from one published recipe.

A choice changes a finished config, whatever its data and model; a config file
has it among its variants, as in `configs/people.py:paper_exact`. `part` and
`run` are the pieces that all config files are made of.
"""

import math

# A leaf is masked if its name holds one of these words. Norms, embeddings and
# the output layer hold none.
LISTED = ('proj', 'fc', 'linear', 'mlp', 'qkv')
# Rows of the batches whose gradients are squared.
IMPORTANCE_BATCH = {'clear': 2, 'mllmu': 4}
BATCH = 4  # of every turn
NO_CLIP = math.inf


def part(*splits, size, questions=1, weight=1.0):
  """What a batch draws: `size` rows of so many questions from the splits.

  `vqa/forget` is a split of the dataset; `vqa:forget` are the splits of all
  groups with the role `forget` (see `config.groups`).
  """
  return dict(splits=splits, size=size, questions=questions, weight=weight)


def run(
  method,
  rate,
  mask='',
  retain='retain',
  *,
  reference='vanilla',
  rounds=None,
  schedule='constant',
  clip_norms=None,
  **options,
):
  """One unlearned model; every one starts from vanilla.

  Args:
    method: its name.
    rate: the learning rate of the forget turns.
    mask: `saliency`, `literal` (the published ratio, not normalised), or a
      control of equal density: `topk` of the forget importance alone, `random`.
    retain: names the stream of the retain turns.
    reference: the model that KL and NPO compare with.
    rounds: None for those of `config.unlearn`.
    schedule: of the rates, see `optimizer.schedule`.
    clip_norms: split -> largest norm of its gradients; None for that of
      `config.unlearn`.
    **options: of the method, as forget_every=2.
  """
  return dict(
    method=method,
    rate=rate,
    mask=mask,
    retain=retain,
    reference=reference,
    rounds=rounds,
    schedule=schedule,
    clip_norms=clip_norms or {},
    options=options,
  )


def hardware():
  """Where and how a job computes; its results are the same but for rounding.

  mesh: how all devices share the work: `data=2,fsdp=4` is two copies of the
    model, each split over four devices; `tensor` splits single layers; -1
    takes what remains, '' is one device. `mmu plan` says what fits.
  micro_batches: parts of a batch that are computed one after the other; their
    gradients are added before a step.
  offload: what waits in the memory of the host: 'reference', the model that
    KL and NPO compare with.
  checkpoints: of a run that goes on, the newest `keep_last`, and those of
    every `keep_every`-th round for good (0: none); an importance is saved every
    `importance_every` batches.
  """
  return dict(
    mesh='fsdp=-1',
    micro_batches=1,
    offload=(),
    checkpoints=dict(keep_last=2, keep_every=0, importance_every=50),
  )


def paper_exact(
  config,
  benchmark='clear',
  *,
  forget_batches,
  retain_batches,
  rate=1e-5,
  masked='',
):
  """Does what the published code of MMUnlearner did, in float32.

  Our defaults differ where that code differs from its paper, or lets weights
  move that it means to freeze; the README lists each difference and what it
  changes. What only half precision did is not here.

  Args:
    config: gets the choice; with `labels`, `vanilla`, `saliency`, `unlearn`.
    benchmark: 'clear' or 'mllmu', whose scripts differ in clip and batch.
    forget_batches: batches of four in the forget set.
    retain_batches: the same of the retain set, at least as many.
    rate: the learning rate of all turns.
    masked: regex, from the start of a name, of the leaves in the mask: '' for
      the masks of all components, 'language_model/' for LLaVA's language mask.
      What is left out is not frozen, but free.

  Raises:
    ValueError: if the benchmark is unknown or has fewer retain batches.
  """
  if benchmark not in IMPORTANCE_BATCH:
    raise ValueError(f"the benchmark is 'clear' or 'mllmu', got {benchmark!r}.")
  forget_every = retain_batches // forget_batches
  if not forget_every:
    raise ValueError(
      'the published loop takes a forget turn every retain_batches // '
      f'forget_batches rounds, so it needs as many; got {retain_batches} '
      f'and {forget_batches}.'
    )
  optimizer = dict(name='hf_adamw', eps=1e-6, weight_decay=0.0)
  with config.unlocked():
    # Question, image and answer tokens are all labels, of one question a row.
    config.labels = 'published'
    for spec in (config.base, config.vanilla):
      spec.stream = plain(spec.stream)

    # One falling rate, no warmup, no clip.
    config.vanilla.update(schedule='linear', warmup=0, clip_norm=NO_CLIP)
    config.vanilla.optimizer = dict(optimizer)

    saliency = config.saliency
    saliency.granularity = 'batch'  # squares of batch means
    saliency.normalize = False  # the plain ratio
    saliency.threshold = 1.0
    saliency.ties_are_salient = True  # unused weights: 1e-15 / 1e-15 >= 1
    saliency.batches = 0  # one pass over each set
    size = IMPORTANCE_BATCH[benchmark]
    saliency.forget = plain(saliency.forget, size)
    for name, parts in saliency.preserve.items():
      saliency.preserve[name] = plain(parts, size)

    unlearn = config.unlearn
    unlearn.rounds = retain_batches  # one epoch
    unlearn.retain_rate = rate
    unlearn.clip_norm = NO_CLIP  # but for what `clip_norms` says below
    unlearn.max_retain_loss = math.inf  # the KL of a row adds up to hundreds
    # Clipped with what is then masked; momentum moves what is masked.
    unlearn.optimizer = optimizer | dict(
      chain=('project', 'clip', 'mask', 'optimizer')
    )
    unlearn.exempt = exempt(masked)
    # Forgetting stops when each forget batch was seen once.
    unlearn.limits = dict(forget=forget_batches)
    for name, parts in unlearn.streams.items():
      unlearn.streams[name] = plain(parts, BATCH)

    alternate = dict(rate=rate, forget_every=forget_every)
    alone = dict(rate=rate, rounds=forget_batches, schedule='linear')
    clip_retain = {'clear': NO_CLIP, 'mllmu': 1.0}[benchmark]
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


def plain(parts, size=None):
  """The same parts with one question a row; one part alone gets `size` rows."""
  alone = size if len(parts) == 1 else None
  return tuple(
    dict(part, size=alone or part['size'], questions=1, weight=1.0)
    for part in parts
  )


def exempt(masked=''):
  """The regex of the leaves that the published loop drops from its mask."""
  return rf'(?!(?:{masked}).*(?:{"|".join(LISTED)}))'
